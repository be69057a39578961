"""Saving and reloading: bit-equal vectors, the checkpoint's dtype, and folders that explain themselves."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import grace_st
from tests.conftest import GraceFolder
from tests.encoder.test_module import TEXTS, _environment, stock


@pytest.fixture(scope="module")
def folder(grace_folder: GraceFolder) -> Path:
    return grace_folder("qwen2")


@pytest.mark.parametrize("loader", [stock, lambda folder: grace_st.load(folder, device="cpu")])
def test_save_and_reload_is_bit_equal(
    loader: Callable[[Path], SentenceTransformer], folder: Path, tmp_path: Path
) -> None:
    model = loader(folder)
    model[0].max_new_tokens = 9
    before = model.encode(TEXTS, batch_size=32)
    model.save_pretrained(str(tmp_path / "copy"))
    assert np.array_equal(stock(tmp_path / "copy").encode(TEXTS), before)
    assert np.array_equal(grace_st.load(tmp_path / "copy", device="cpu").encode(TEXTS, batch_size=32), before)
    # And a copy of the copy, which has the package's own path as its type.
    stock(tmp_path / "copy").save_pretrained(str(tmp_path / "again"))
    assert np.array_equal(stock(tmp_path / "again").encode(TEXTS), before)


def test_prompts_and_defaults_survive_saving(folder: Path, tmp_path: Path) -> None:
    model = grace_st.load(folder, prompts={"query": "Find: "}, default_prompt_name="query", truncate_dim=4)
    model.save_pretrained(str(tmp_path))
    for again in (stock(tmp_path), grace_st.load(tmp_path)):
        assert (again.prompts["query"], again.default_prompt_name, again.truncate_dim) == ("Find: ", "query", 4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints(
    dtype: str, checkpoints: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Computed in float32 on a CPU, saved in their own dtype again, with bit-equal vectors."""
    grace_st.convert(checkpoints("llama"), tmp_path / "half", dtype=dtype, max_seq_length=128, max_new_tokens=8)
    assert _saved_dtypes(tmp_path / "half") == {getattr(torch, dtype)}
    with caplog.at_level(logging.WARNING):
        model = stock(tmp_path / "half")
    assert model.dtype == torch.float32
    before = model.encode(TEXTS)
    model.save_pretrained(str(tmp_path / "copy"))
    assert _saved_dtypes(tmp_path / "copy") == {getattr(torch, dtype)}
    assert model.dtype == torch.float32 and np.array_equal(model.encode(TEXTS), before)
    assert np.array_equal(stock(tmp_path / "copy").encode(TEXTS), before)
    # A change that half precision cannot hold is kept: the copy is then float32.
    with torch.no_grad():
        model[0].model.get_decoder().norm.weight += 1e-6
    model.save_pretrained(str(tmp_path / "trained"))
    assert _saved_dtypes(tmp_path / "trained") == {torch.float32}
    # A dtype that is asked for is kept, also on a CPU.
    assert stock(tmp_path / "half", model_kwargs={"dtype": getattr(torch, dtype)}).dtype == getattr(torch, dtype)


def _saved_dtypes(folder: Path) -> set[torch.dtype]:
    from safetensors.torch import load_file

    return {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="safetensors only"):
        stock(folder).save(str(tmp_path), safe_serialization=False)


def test_saving_generates_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stock(folder)
    monkeypatch.setattr(type(model[0]), "rollouts", lambda *_a, **_k: pytest.fail("generated while saving"))
    model.save_pretrained(str(tmp_path))
    assert "trust_remote_code=True" in (tmp_path / "README.md").read_text()


def test_a_missing_package_is_a_clear_message(folder: Path, tmp_path: Path) -> None:
    """In the converted folder and in a re-saved one; without sentence-transformers' check as well."""
    stock(folder).save_pretrained(str(tmp_path / "again"))
    for model_folder in (folder, tmp_path / "again"):
        config = json.loads((model_folder / "config_sentence_transformers.json").read_text())
        assert config["requirements"]["grace-st"]["specifier"] == ">=0.1"
        assert (model_folder / "modeling_grace.py").is_file()
    hide = (
        "import sys, importlib.metadata as m\n"
        "class Hide:\n"
        "    def find_spec(self, name, *a):\n"
        "        if name.split('.')[0] == 'grace_st': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name != 'grace-st': return real(name)\n"
        "    if sys.argv[2] == 'uninstalled': raise m.PackageNotFoundError(name)\n"
        "    return '0.1.0'\n"
        "m.version = version\n"
        "from sentence_transformers import SentenceTransformer\n"
        "SentenceTransformer(sys.argv[1], trust_remote_code=True)\n"
    )

    def message(model_folder: Path, state: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", hide, str(model_folder), state],
            capture_output=True,
            text=True,
            env=_environment(),
            cwd=tmp_path,
            timeout=120,
        )
        assert done.returncode != 0
        return done.stderr

    for model_folder in (folder, tmp_path / "again"):
        assert "grace-st" in message(model_folder, "uninstalled")
    assert "needs the package grace-st: pip install grace-st" in message(folder, "broken")


def test_untrusted_code_is_not_run(folder: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(folder))
