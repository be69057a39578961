"""A lock on a folder, which goes with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

LOCK_NAME = "lock"


class LockedError(OSError):
    """Another process holds the lock."""


class FolderLock:
    """Held from construction to `release`, or to the end of the process however it ends.

    Args:
        folder: The folder, which exists.

    Raises:
        LockedError: Another process holds it.
        OSError: The file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            raise self._gone(folder) from None
        try:
            self._acquire(folder)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _acquire(self, folder: Path) -> None:
        try:
            # The system drops it when the process dies, kill -9 included: no stale lock is left behind.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise LockedError(
                f"another process (pid {holder}) is at work in {folder}: wait for it, or choose another output"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            raise OSError(
                f"the file system of {folder} has no locks ({error.strerror}): choose an output on another one"
            ) from error
        if not self.path.exists() or self.path.stat().st_ino != os.fstat(self._descriptor).st_ino:
            raise self._gone(folder)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def _gone(self, folder: Path) -> LockedError:
        return LockedError(f"another process has just finished its work in {folder}: look at it, then run again")

    def release(self) -> None:
        """Let others in."""
        os.close(self._descriptor)
