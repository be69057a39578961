"""SQLite: the tables of a store, its error codes, and the few statements that need care."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

FORMAT_VERSION = 2
APPLICATION_ID = 0x47524143  # "GRAC", in the header of the file
BUSY_SECONDS = 120.0
PAUSE_SECONDS = 0.02
SCHEMA = """
CREATE TABLE spaces (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, space INTEGER NOT NULL REFERENCES spaces (id), key BLOB NOT NULL, ids BLOB NOT NULL,
    stop_id INTEGER, vector BLOB NOT NULL, crc INTEGER NOT NULL, created REAL NOT NULL, UNIQUE (space, key)
);
"""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
MOVED = (sqlite3.SQLITE_IOERR, *READ_ONLY)
"""What SQLite says, among other things, when the file or its journal is renamed while it opens them."""

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

T = TypeVar("T")


def persistently(work: Callable[[], T]) -> T:
    """Do what SQLite does not wait for by itself, again and again until nobody is in the way."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if primary_code(error) not in BUSY or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def set_journal(connection: sqlite3.Connection) -> None:
    """Write ahead: readers and a writer are not in each other's way."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def truncate_journal(connection: sqlite3.Connection) -> None:
    """Bring all of the journal into the file, and empty it."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nobody has made anything of the file yet."""
    if pragma(connection, "application_id") != 0:
        return False
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]) == 0


def primary_code(error: sqlite3.Error) -> int:
    """The primary code of an error; 0 where SQLite gave none."""
    return (error.sqlite_errorcode or 0) & 0xFF


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """A setting of the file that is a number."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def used_bytes(connection: sqlite3.Connection) -> int:
    """Of the pages that hold something."""
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * pragma(connection, "page_size")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    # IMMEDIATE: a transaction that reads first and writes later fails at once when another process has written.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back itself when the disk is full
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
