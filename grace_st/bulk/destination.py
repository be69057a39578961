"""Destination: the output file, what is written beside it, and whether it can be written at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from grace_st.bulk.formats import OutputFormat


@dataclass(frozen=True, kw_only=True)
class Destination:
    """An output file.

    Attributes:
        path: The file.
        format: How it is written.
        rationales: Whether rationales are written with the vectors.
    """

    path: Path
    format: OutputFormat
    rationales: bool = True

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that are written, the one whose presence means that all are complete last."""
        if self.format != "npy":
            return (self.path,)
        stem = self.path.with_suffix("") if self.path.suffix.lower() == ".npy" else self.path
        return (stem.with_name(f"{stem.name}.rows.jsonl"), self.path)

    @property
    def partial(self) -> Path:
        """The folder for what is finished."""
        return self.path.with_name(f"{self.path.name}.partial")

    def check(self) -> None:
        """Refuse what cannot be written.

        Raises:
            OSError: The folder is missing or not writable, or something is there that is no file.
        """
        folder = self.path.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}: make it first, or choose another output")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"the folder {folder} is not writable: choose another output")
        for path in self.paths:
            if path.exists() and not path.is_file():
                raise FileExistsError(f"{path} is there and is no ordinary file: choose another output")
        if self.partial.exists() and not self.partial.is_dir():
            raise FileExistsError(f"{self.partial} is a file, and a folder of that name is needed: move it away")
