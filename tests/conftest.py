"""Fixtures shared by all tests: tiny causal LMs and tokenizers, built here, never downloaded."""

from __future__ import annotations

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import grace_st
from tests import tiny

torch.set_num_threads(1)

GraceFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of tiny causal LMs, by architecture: ``checkpoints("qwen2", template="chatml")``."""
    made: dict[tuple[object, ...], Path] = {}

    def get(architecture: str = "qwen2", template: str = "chatml", **options: object) -> Path:
        key = (architecture, template, *sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{architecture}-{template}")
            tiny.save_checkpoint(made[key], architecture, template, **options)
        return made[key]

    return get


@pytest.fixture(scope="session")
def grace_folder(checkpoints: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> GraceFolder:
    """Converted tiny models, by architecture: ``grace_folder("llama", max_new_tokens=7)``."""
    made: dict[tuple[object, ...], Path] = {}

    def get(architecture: str = "qwen2", template: str = "chatml", **options: object) -> Path:
        key = (architecture, template, *sorted((name, repr(value)) for name, value in options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("grace") / f"{architecture}-grace"
            settings = {"max_seq_length": 128, "max_new_tokens": 24, **options}
            grace_st.convert(checkpoints(architecture, template), folder, **settings)  # type: ignore[arg-type]
            made[key] = folder
        return made[key]

    return get


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real public data that GRACE_ST_DATA names."""
    path = os.environ.get("GRACE_ST_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("real data is not here: set GRACE_ST_DATA to its folder")
    return Path(path)


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The process that runs vLLM is a fake, and a real process; ``fake_vllm("die=7")`` says what it does besides."""
    from grace_st.engines.vllm import loading, session
    from tests.vllm import fake_host

    monkeypatch.setattr(session, "HOST", (sys.executable, str(Path(fake_host.__file__))))
    monkeypatch.setattr(session, "require_vllm", lambda: "0.0")
    monkeypatch.setattr(loading, "require_vllm", lambda: "0.0")
    monkeypatch.setenv("FAKE_VLLM", "")
    return lambda behaviour: monkeypatch.setenv("FAKE_VLLM", behaviour)
