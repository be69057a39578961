"""Writing files whole or not at all."""

from __future__ import annotations

from pathlib import Path

from grace_train.files import write_atomically


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is whole or as it was, and its folder when it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
