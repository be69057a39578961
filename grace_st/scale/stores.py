"""StoreFolder: a store that several machines use, one file for each that writes.

SQLite locks a file between the processes of one machine only, so no file is written, or read while it may be written,
from two machines.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grace_st.store import RationaleStore, StoredRollout, StoreError

logger = logging.getLogger(__name__)

SUFFIX = ".sqlite"


class StoreFolder(RationaleStore):
    """A `RationaleStore` that also finds what other files hold.

    Args:
        path: The file that is written. Only this process writes it.
        others: Stores that are only read.

    Attributes:
        found: How many entries were found, in any file.
    """

    def __init__(self, path: str | os.PathLike[str], others: Sequence[RationaleStore] = ()) -> None:
        self.found = 0
        self._others = tuple(others)
        super().__init__(path)

    def get(self, settings: Mapping[str, Any], keys: Sequence[bytes]) -> dict[bytes, StoredRollout]:
        """The entries that are there, in any file."""
        found = super().get(settings, keys)
        for other in self._others:
            missing = [key for key in keys if key not in found]
            if not missing:
                break
            found |= other.get(settings, missing)
        self.found += len(found)
        return found

    def close(self) -> None:
        """Close all files."""
        for other in self._others:
            other.close()
        super().close()


def machine() -> str:
    """The name of this machine, as names of files can hold it."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname())[:64] or "machine"


def open_folder(folder: Path, session: str) -> StoreFolder:
    """A store for this process, in a folder that others use as well.

    What it finds, of the files that are there now: all that is in those of this machine, also while others write them;
    and what other machines wrote in earlier sessions. What another machine has written in this one is not looked at,
    since it may still be writing.

    Args:
        folder: It is made if it is not there. One that machines share, or one of each.
        session: The name of what all processes that now write there belong to.

    Raises:
        OSError: The folder cannot be made or written.
        StoreError: A file in it is no store, or damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = f"@{machine()}@"
    others = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if here not in path.name and session in path.name:
            continue
        if not path.stat().st_size:  # of a worker that ended before it wrote anything
            continue
        try:
            others.append(RationaleStore(path, read_only=True))
        except StoreError:
            if session not in path.name:
                raise
            logger.debug("%s is about to be made, so there is nothing in it", path, exc_info=True)
    # The process id alone may come again, in another container say.
    return StoreFolder(folder / f"{session}{here}{os.getpid()}-{uuid.uuid4().hex[:6]}{SUFFIX}", others)


def check_folder(folder: Path) -> None:
    """Refuse a name that is no folder, where it can be told here.

    Raises:
        NotADirectoryError: It is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file, and with --ray --store names a folder, in which each worker has a file: name "
            "another one, or put that file into a folder and name that"
        )
