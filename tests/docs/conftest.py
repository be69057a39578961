"""What the tests of the pages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import GraceFolder
from tests.docs.world import make_world


@pytest.fixture
def world(tmp_path: Path, grace_folder: GraceFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder is that of a reader of the pages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "world"
    folder.mkdir()
    make_world(folder, grace_folder("qwen2", max_new_tokens=8))
    monkeypatch.chdir(folder)
    return folder
