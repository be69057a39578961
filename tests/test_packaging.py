"""The wheel: complete, small, and working where only it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MEGABYTE = 1024 * 1024


def _run(*words: str | Path, program: Path = Path(sys.executable), timeout: float = 300, **options: object) -> str:
    done = subprocess.run(
        [program, *words], capture_output=True, text=True, encoding="utf-8", timeout=timeout, **options
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


@pytest.mark.slow
def test_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """What a user does who has the wheel and an index: the newest versions that the wheel allows, but for torch.

    ``TORCH_INDEX`` names an extra index for torch, as it does for make.
    """
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    extra = ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    # Nothing of the environment that runs the tests, and nothing of the repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    options = {"cwd": tmp_path, "env": {**clean, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}}
    python = home / "bin" / "python"
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*install, *extra, "-c", ROOT / "constraints.txt", "torch", program=python, timeout=900, **options)
    _run(*install, wheel, program=python, timeout=900, **options)
    _run("-m", "pip", "check", program=python, **options)

    shown = _run("demo", program=home / "bin" / "grace-st", **options)
    assert "6 of 6" in " ".join(shown.split())
    code = """
import sys
import grace_st
from sentence_transformers import SentenceTransformer
texts = ["a country governed from Paris", "France: visitors come for the Eiffel Tower."]
model = SentenceTransformer(str(grace_st.nano_path()), trust_remote_code=True)
vectors = model.encode(texts)
assert vectors.shape == (2, 256) and abs(vectors - grace_st.load(grace_st.nano_path()).encode(texts)).max() < 1e-5
sys.stdout.write(grace_st.__file__)
"""
    assert Path(_run("-c", code, program=python, **options)).is_relative_to(home)
