"""Files by name: which one has it, how large it is, and a lock on the folder while names change."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

FileId = tuple[int, int]


def file_at(path: Path) -> FileId | None:
    """Which file has this name now; None without one."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def folder_lock(folder: Path, kind: int) -> Iterator[None]:
    """Nobody renames a store of a folder (exclusive) while another process opens one there (shared).

    The lock is on the folder: closing a file that SQLite has open in this process would drop SQLite's own locks on it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, kind)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            logger.debug("the file system of %s has no locks (%s)", folder, error.strerror)
        yield
    finally:
        os.close(descriptor)


def size(path: Path) -> int:
    """In bytes; 0 without a file, which another process may have renamed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
