"""Weights come from safetensors only: a pickle is refused wherever it lies, and is never opened."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import grace_st

Checkpoints = Callable[..., Path]
SMALL: dict[str, Any] = {"max_seq_length": 128, "max_new_tokens": 8}
NONE = "has no safetensors weights, and others are not read"


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def folder(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A model folder of the test's own."""
    return grace_st.convert(checkpoints("qwen2"), tmp_path / "model", **SMALL).path


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists if a pickle was opened, by way of torch or not."""
    monkeypatch.setattr(torch, "load", lambda *_args, **_options: pytest.fail("opened a pickle"))
    return tmp_path / "sprung"


def refused(folder: Path, message: str, tmp_path: Path, **options: Any) -> None:
    """Loading refuses it, and so does making a model folder of it."""
    with pytest.raises(OSError, match=message):
        grace_st.load(folder, device="cpu", **options)
    with pytest.raises(OSError, match=message):
        grace_st.convert(folder, tmp_path / "converted", **SMALL)
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "consolidated.00.pth"])
def test_a_pickle_beside_no_safetensors(folder: Path, tmp_path: Path, sprung: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"weight": Trap(sprung)}))
    refused(folder, NONE, tmp_path)
    assert not sprung.exists()


def test_a_pickle_under_the_name_of_safetensors(folder: Path, tmp_path: Path, sprung: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": Trap(sprung)}))
    refused(folder, "is damaged, incomplete or of another format", tmp_path)
    assert not sprung.exists()


def test_half_a_file(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(folder, r"is damaged, incomplete .* copy or download it again", tmp_path)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "mine.safetensors.index.json"])
def test_an_index_that_names_a_pickle(folder: Path, tmp_path: Path, sprung: Path, index: str) -> None:
    """transformers opens what the index names, whatever its suffix."""
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}))
    if index.startswith("mine"):
        change(folder / "config.json", transformers_weights=index)
    refused(folder, rf"{index} of .* names 'pytorch_model.bin'", tmp_path)


def test_a_configuration_that_names_a_pickle(folder: Path, tmp_path: Path, sprung: Path) -> None:
    """The only other name that transformers takes from there."""
    (folder / "model.safetensors").rename(folder / "adapter_model.bin")
    change(folder / "config.json", transformers_weights="adapter_model.bin")
    refused(folder, "names the weights 'adapter_model.bin': only safetensors are read", tmp_path)


def test_shards_are_read(folder: Path) -> None:
    texts = ["a", "b c"]
    expected = grace_st.load(folder, device="cpu").encode(texts)
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert (grace_st.load(folder, device="cpu").encode(texts) == expected).all()


@pytest.mark.parametrize("value", [False, None])
def test_the_switch_of_transformers(folder: Path, value: bool | None) -> None:
    with pytest.raises(ValueError, match=r"would read pickled weights, which can run code"):
        grace_st.load(folder, device="cpu", model_kwargs={"use_safetensors": value})


def test_an_adapter(checkpoints: Checkpoints, folder: Path, tmp_path: Path, sprung: Path) -> None:
    """peft would read ``adapter_model.bin``; nor is a base read that is a pickle."""
    peft = pytest.importorskip("peft")
    base = tmp_path / "base"
    shutil.copytree(checkpoints("qwen2"), base)
    adapted = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, target_modules=["q_proj"])
    )
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(adapter)
    AutoTokenizer.from_pretrained(base).save_pretrained(adapter)
    assert grace_st.convert(adapter, tmp_path / "merged", **SMALL).path.is_dir()

    for name in ("grace_config.json", "modules.json", "config_sentence_transformers.json", "modeling_grace.py"):
        shutil.copy(folder / name, adapter)
    weights = (adapter / "adapter_model.safetensors").rename(tmp_path / "kept.safetensors")
    refused(adapter, NONE, tmp_path)
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({"weight": Trap(sprung)}))
    refused(adapter, NONE, tmp_path)

    (adapter / "adapter_model.bin").unlink()
    weights.rename(adapter / "adapter_model.safetensors")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(adapter, NONE, tmp_path)
    assert not sprung.exists()


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")
