from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grace_st.cards import write_folder_card
from tests.conftest import GraceFolder


@pytest.fixture(scope="session")
def ready_folder(grace_folder: GraceFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that may be published."""
    folder = tmp_path_factory.mktemp("ready") / "mine"
    shutil.copytree(grace_folder("qwen2"), folder)
    write_folder_card(folder, license="apache-2.0")
    (folder / "training").mkdir()
    (folder / "training/config.yaml").write_text("output: /home/someone/runs\n")
    return folder


@pytest.fixture
def folder(ready_folder: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(ready_folder, tmp_path / "mine"))
