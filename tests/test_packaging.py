"""The wheel: complete, small, and working where only it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MEGABYTE = 1024 * 1024


def _run(*words: str | Path, **options: object) -> str:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, encoding="utf-8", timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree without network."""
    folder = tmp_path_factory.mktemp("wheel")
    _run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, int]:
    """Size in bytes of each file of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {member.filename: member.file_size for member in archive.infolist()}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    _run("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", folder, wheel)
    return folder


def test_every_file_of_the_packages_is_in_the_wheel(contents: dict[str, int]) -> None:
    for parent in (ROOT, ROOT / "train", ROOT / "evaluation"):
        for package in ("grace_st", "grace_train", "grace_eval"):
            for path in (parent / package).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    assert path.relative_to(parent).as_posix() in contents


def test_the_wheel_has_what_code_does_not_import(contents: dict[str, int]) -> None:
    assert contents["grace_st/nano/model.safetensors"] > MEGABYTE
    for name in ("config.json", "grace_config.json", "modules.json", "tokenizer.json"):
        assert contents[f"grace_st/nano/{name}"] > 0
    assert contents["grace_st/templates/modeling_grace.py"] > 0
    assert len([name for name in contents if name.startswith("grace_train/nano/knowledge/")]) >= 12
    for package in ("grace_st", "grace_train", "grace_eval"):
        assert f"{package}/py.typed" in contents


def test_the_wheel_is_small_and_has_nothing_else(wheel: Path, contents: dict[str, int]) -> None:
    assert wheel.stat().st_size < 10 * MEGABYTE
    assert contents["grace_st/nano/model.safetensors"] < 8 * MEGABYTE
    folders = {name.split("/")[0] for name in contents}
    assert {name for name in folders if not name.endswith(".dist-info")} == {
        "grace_st",
        "grace_train",
        "grace_eval",
    }
    for name in contents:
        assert not any(part.startswith("test") for part in name.split("/"))
        assert not name.endswith(".pyc")


def test_the_installed_wheel_encodes(installed: Path, tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
import grace_st, grace_train, grace_eval
from grace_train.nano.knowledge import load_knowledge
model = grace_st.load(grace_st.nano_path())
(encoding,) = model.encode_with_rationales(["Which country has the capital Paris?"], max_new_tokens=16)
json.dump({
    "homes": [str(Path(package.__file__).parent.parent) for package in (grace_st, grace_train, grace_eval)],
    "nano": str(grace_st.nano_path()),
    "dimension": len(encoding.embedding),
    "rationale": encoding.rationale,
    "entities": len(load_knowledge().entities),
}, sys.stdout)
"""
    output = _run("-c", code, cwd=tmp_path, env={"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"})
    seen = json.loads(output)
    assert seen["homes"] == [str(installed)] * 3
    assert seen["nano"] == str(installed / "grace_st" / "nano")
    assert seen["dimension"] > 0
    assert seen["rationale"]
    assert seen["entities"] >= 400


def test_the_wheel_declares_the_command(installed: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "grace-st = grace_st.cli:main" in entry_points.read_text(encoding="utf-8")
