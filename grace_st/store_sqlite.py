"""SQLite under a store of rationales: what its errors mean, its pragmas, and locks on files that may be renamed."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

BUSY_SECONDS = 120.0
_PAUSE_SECONDS = 0.02

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
MOVED = (sqlite3.SQLITE_IOERR, *READ_ONLY)
"""What SQLite says, among other things, when the file or its journal is renamed while it opens them."""

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

FileId = tuple[int, int]
"""Device and inode."""

_T = TypeVar("_T")


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


def file_size(path: Path) -> int:
    """In bytes; 0 without a file, which another process may have renamed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def persistently(work: Callable[[], _T]) -> _T:
    """Do what SQLite does not wait for by itself, again and again until nobody is in the way."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if error_code(error) not in BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)


def set_journal(connection: sqlite3.Connection) -> None:
    """Have changes written ahead (WAL), so that readers and a writer do not wait for each other."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def truncate_journal(connection: sqlite3.Connection) -> None:
    """Write the journal into the file, and empty it where nobody reads."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nobody has made anything of the file yet."""
    if pragma(connection, "application_id") != 0:
        return False
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]) == 0


def error_code(error: sqlite3.Error) -> int:
    """The primary code of an error; 0 where SQLite gave none."""
    return (error.sqlite_errorcode or 0) & 0xFF


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """The value of a pragma that is a number."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the pages that hold something."""
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * pragma(connection, "page_size")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of what is done within, or nothing."""
    # IMMEDIATE: a transaction that reads first and writes later fails at once when another process has written.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back itself when the disk is full
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
