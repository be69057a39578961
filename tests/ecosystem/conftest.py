"""What the tests of this folder share: no network but loopback, and the models."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["LANGSMITH_TRACING"] = "false"

import pytest
from sentence_transformers import SentenceTransformer

import grace_st
from tests.conftest import GraceFolder

# ------------------------------------------------------------------ network

_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname")
_SENDS = ("socket.connect", "socket.sendto")


class _Guard:
    """An audit hook that refuses connections to other machines while it is on, and remembers them."""

    def __init__(self) -> None:
        self.is_on = False
        self.attempts: list[str] = []
        sys.addaudithook(self)  # for the life of the process: there is no way to take one off

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on or event not in (*_LOOKUPS, *_SENDS):
            return
        target = arguments[0] if event in _LOOKUPS else arguments[1]
        if event in _SENDS and not isinstance(target, tuple):
            return  # the path of a Unix socket
        host = target[0] if isinstance(target, tuple) else target
        if not _is_this_machine(host):
            self.attempts.append(f"{event} {target}")
            raise OSError(f"a test tried the network: {event} {target}")


def _is_this_machine(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    try:
        return ipaddress.ip_address(name.split("%")[0]).is_loopback
    except ValueError:
        return name == "localhost"


_guard = _Guard()


@pytest.fixture(autouse=True)
def only_loopback() -> Iterator[_Guard]:
    """Fail a test in which anything tried to leave this machine, also where a library hid it."""
    _guard.attempts.clear()
    _guard.is_on = True
    yield _guard
    _guard.is_on = False
    assert _guard.attempts == []


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the libraries cache is gone with the test."""
    monkeypatch.setenv("LLAMA_INDEX_CACHE_DIR", str(tmp_path / "llama-index"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


# ------------------------------------------------------------------ models


@pytest.fixture(scope="session")
def folder(grace_folder: GraceFolder) -> Path:
    """A converted tiny model."""
    return grace_folder("qwen2")


@pytest.fixture(scope="session")
def model(folder: Path) -> SentenceTransformer:
    """The tiny model in the stock class."""
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="session")
def nano() -> SentenceTransformer:
    """The bundled model in the stock class."""
    return SentenceTransformer(str(grace_st.nano_path()), trust_remote_code=True, device="cpu")
