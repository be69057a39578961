"""Names of models: a folder here, or a name on the hub. And writing a folder whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from grace_st.config import CONFIG_NAME


def nano_path() -> Path:
    """The folder of grace-nano, the bundled demonstration model."""
    return Path(str(resources.files("grace_st"))) / "nano"


def local_or_hub(name: str | os.PathLike[str]) -> str:
    """A model's name as the loading functions take it: an existing folder, or what can be a hub name.

    Raises:
        FileNotFoundError: It reads like a path, and there is no such folder.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return str(path)
    parts = text.split("/")
    like_a_path = path.exists() or Path(text).is_absolute() or parts[0] in (".", "..", "~") or len(parts) > 2
    if like_a_path or not all(parts) or text.startswith(("~", ".")):
        raise FileNotFoundError(f"there is no folder {text}")
    return text


def destination(name: str | os.PathLike[str], *, overwrite: bool, source: str) -> Path:
    """The folder that a model may be written to.

    Args:
        name: Where to write; ``~`` and symbolic links are followed.
        overwrite: Whether a model folder that is there may be replaced. Nothing else ever is.
        source: What the model is made from, which must survive.

    Raises:
        FileExistsError: Something is there that may not be replaced.
        ValueError: The source is the destination, or inside it.
    """
    target = Path(name).expanduser().resolve()
    if Path(source).is_dir():
        origin = Path(source).resolve()
        if origin == target or target in origin.parents:
            raise ValueError(f"the source {source} is the destination, or inside it: choose another destination")
    for parent in target.parents:
        if parent.exists() and not parent.is_dir():
            raise FileExistsError(f"{parent} is a file, so {target} cannot be made: choose another destination")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file: choose another destination")
    if target.is_dir() and any(target.iterdir()):
        if not (target / CONFIG_NAME).is_file():
            raise FileExistsError(
                f"{target} is not empty and is no model folder, so it is not replaced: choose another destination"
            )
        if not overwrite:
            raise FileExistsError(
                f"{target} exists: choose another destination, or replace it with overwrite=True (--overwrite)"
            )
    return target


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when everything is written, and goes when something fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    new, old = beside / "new", beside / "old"
    new.mkdir()
    try:
        yield new
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        except BaseException:  # an interruption too: what was there comes back
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(beside)
