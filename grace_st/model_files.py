"""The files of a model folder: their names, the loader stub, and those that vectors depend on. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
from importlib import resources
from pathlib import Path

from grace_st.config import CONFIG_NAME

MODULES_NAME = "modules.json"
"""Where sentence-transformers keeps the modules of a model, in their order."""

ST_CONFIG_NAME = "config_sentence_transformers.json"

LOADER_NAME = "modeling_grace.py"
"""The loader stub: where this package is missing, it says so clearly."""

LOADER_TYPE = "modeling_grace.GenerateThenPool"
"""The class of our module as ``modules.json`` names it: that of the stub."""

_READ_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt", ".py")


def loader_stub() -> str:
    """What stands in the loader stub."""
    return (resources.files("grace_st") / "templates" / LOADER_NAME).read_text(encoding="utf-8")


def check_model_folder(folder: str | os.PathLike[str], *files: str) -> Path:
    """The path of a GRACE model folder.

    Args:
        folder: As it was given; a ``~`` is the home folder.
        files: What is needed of it besides its configuration.

    Raises:
        FileNotFoundError: It is none, or lacks one of the files.
    """
    path = Path(folder).expanduser()
    for name in (CONFIG_NAME, *files):
        if not (path / name).is_file():
            raise no_model_folder(folder, name)
    return path


def no_model_folder(folder: str | os.PathLike[str], missing: str) -> FileNotFoundError:
    """The error of a folder, or of a repository on the hub, that lacks a file."""
    return FileNotFoundError(
        f"{os.fspath(folder)} is not a GRACE model folder (it has no {missing}): make one with "
        "`grace-st convert SOURCE FOLDER`, or train one"
    )


def model_files(folder: Path) -> dict[str, str]:
    """Hashes of the files of a model folder that its vectors depend on.

    By content, weights included: all checkpoints of a training run have the same size, and a copy keeps or loses its
    time at will. Reading gigabytes takes seconds, which loading then saves, since they are in memory.

    Args:
        folder: The folder of the model and of modules that follow it (``modules.json``).

    Returns:
        SHA-256, by the file's path in the folder.
    """
    files = [path for path in folder.iterdir() if path.suffix in _READ_SUFFIXES and path.is_file()]
    modules = json.loads((folder / MODULES_NAME).read_text(encoding="utf-8"))
    for name in {module["path"] for module in modules if module["path"]}:
        files += [path for path in (folder / name).rglob("*") if path.is_file()]
    hashes = {}
    for path in sorted(files):
        with path.open("rb") as stream:
            hashes[path.relative_to(folder).as_posix()] = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes
