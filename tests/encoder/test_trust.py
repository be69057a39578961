"""Which code of a model folder runs: none with `grace_st.load`, the loader stub where the stock class is told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

import grace_st

Checkpoints = Callable[..., Path]


@pytest.fixture
def folder(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A model folder of the test's own."""
    return grace_st.convert(checkpoints("qwen2"), tmp_path / "model", max_seq_length=128, max_new_tokens=8).path


def leaves(path: Path) -> str:
    """A line of Python that creates a file."""
    return f"__import__('pathlib').Path({str(path)!r}).touch()\n"


def test_load_runs_nothing_of_the_folder(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "modeling_grace.py", folder / "configuration_own.py"):
        path.write_text(leaves(tmp_path / "ran") + path.read_text() if path.exists() else leaves(tmp_path / "ran"))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "configuration_own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    assert grace_st.load(folder, device="cpu").encode(["a"]).shape == (1, 32)
    assert not (tmp_path / "ran").exists()


def test_load_refuses_other_modules_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "own.py").write_text(leaves(tmp_path / "ran") + "class Own: pass\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 1, "name": "1", "path": "", "type": "own.Own"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="trust_remote_code"):
        grace_st.load(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_the_stock_class_runs_the_stub_only_when_told(folder: Path, tmp_path: Path) -> None:
    stub = folder / "modeling_grace.py"
    stub.write_text(leaves(tmp_path / "ran") + stub.read_text())
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()
    SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    assert (tmp_path / "ran").exists()
