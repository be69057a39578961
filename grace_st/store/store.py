"""RationaleStore: entries of a store by what they depend on."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grace_st.store.errors import DamagedError, StoreNotWritableError
from grace_st.store.file import StoreFile
from grace_st.store.paths import size
from grace_st.store.records import (
    ExportedEntry,
    SpaceInfo,
    StoredRollout,
    StoreInfo,
    packed,
    space_digest,
    unpacked,
)
from grace_st.store.sqlite import pragma, primary_code, transaction, truncate_journal, used_bytes

logger = logging.getLogger(__name__)

_AT_ONCE = 500  # keys of one SELECT; SQLite allows 999 variables
_VACUUMED_AT_ONCE = 2000  # pages


class RationaleStore:
    """Rationales and vectors in a file, by what they depend on.

    The file is made when it is not there. Entries are in it when `put` returns, also when the process is killed then.
    A damaged file is renamed, with a warning that names the new file, and a new one is begun.

    Args:
        path: The file. On a local disk: SQLite's locks do not work on most network file systems.
        max_bytes: Largest size of the file. When it is reached, the oldest entries of other spaces go; where those
            are not enough, new entries are not kept, with a warning.
        read_only: Only read, also where the file may not be written.

    Raises:
        StoreError: The file is no store, or one of another version.
        StoreNotWritableError: It may not be written; a `PermissionError`.
        StoreNotFoundError: Its folder is not there, or with ``read_only`` the file; a `FileNotFoundError`.
        StoreBusyError: Another process keeps it locked.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int | None = None, read_only: bool = False) -> None:
        if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1):
            raise ValueError(f"max_bytes must be an integer >= 1 (the size of the store in bytes), got {max_bytes!r}")
        self.path = Path(path).expanduser().absolute()
        self.max_bytes = max_bytes
        self.read_only = read_only
        self._is_full = False
        self._file = StoreFile(self.path, read_only=read_only)

    # A store goes to worker processes as its path: a connection cannot.

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "max_bytes": self.max_bytes, "read_only": self.read_only, "_is_full": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = StoreFile(self.path, read_only=self.read_only)

    def __enter__(self) -> RationaleStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RationaleStore({str(self.path)!r})"

    def close(self) -> None:
        """Close the file. It is opened again when it is used again."""
        self._file.close()

    # ------------------------------------------------------------ use

    def get(self, settings: Mapping[str, Any], keys: Sequence[bytes]) -> dict[bytes, StoredRollout]:
        """The entries that are there.

        Args:
            settings: What the vectors depend on, but for the prompts; JSON values.
            keys: Hashes of prompts.

        Returns:
            Entries by key. Where the store turns out to be damaged it is set aside and nothing is found.
        """
        digest = space_digest(settings)
        with self._file.lock, self._file.errors():
            try:
                return self._read(digest, list(dict.fromkeys(keys)))
            except (DamagedError, sqlite3.DatabaseError) as error:
                self._file.recover(error)
                return {}

    def put(self, settings: Mapping[str, Any], entries: Mapping[bytes, StoredRollout]) -> None:
        """Keep entries. One that is there already stays as it is.

        Raises:
            StoreNotWritableError: The store may not be written; a `PermissionError`.
            StoreBusyError: Another process keeps it locked.
            StoreFileError: The disk is full; an `OSError`.
        """
        if not entries:
            return
        self.check_writable()
        with self._file.lock, self._file.errors():
            try:
                self._write(settings, entries)
            except (DamagedError, sqlite3.DatabaseError) as error:
                self._file.recover(error)
                self._write(settings, entries)

    def check_writable(self) -> None:
        """Refuse a store that is only read.

        Raises:
            StoreNotWritableError: It was opened with ``read_only``.
        """
        if self.read_only:
            raise StoreNotWritableError(f"the store {self.path} was opened to be read only: open it without read_only")

    def info(self) -> StoreInfo:
        """What is in the store."""
        with self._file.lock, self._file.errors():
            connection = self._file.connected()
            rows = connection.execute(
                "SELECT digest, settings, (SELECT count(*) FROM entries WHERE space = spaces.id), created FROM spaces "
                "ORDER BY created DESC"
            ).fetchall()
            spaces = tuple(
                SpaceInfo(digest=digest, settings=json.loads(settings), entries=count, created=created)
                for digest, settings, count, created in rows
            )
            total = sum(space.entries for space in spaces)
            return StoreInfo(path=self.path, bytes=self._file_bytes(), entries=total, spaces=spaces)

    def prune(
        self, *, spaces: Sequence[str] = (), older_than: float | None = None, max_bytes: int | None = None
    ) -> int:
        """Remove entries, and give their room back to the file system.

        Args:
            spaces: Remove these spaces; the beginning of a digest is enough.
            older_than: Remove entries that are older, in seconds.
            max_bytes: Remove the oldest until the file is at most this large.

        Returns:
            The number of entries removed.

        Raises:
            ValueError: A space is not there, or its name fits several.
            StoreFileError: The disk is so full that not even the journal of the removal fits; the error says so.
        """
        self.check_writable()
        with self._file.lock, self._file.errors():
            connection = self._file.connected()
            before = self._count(connection)
            chosen = [self._space_like(connection, name) for name in spaces]
            with transaction(connection):
                for space in chosen:
                    connection.execute("DELETE FROM entries WHERE space = ?", (space,))
                if older_than is not None:
                    connection.execute("DELETE FROM entries WHERE created < ?", (time.time() - older_than,))
                if max_bytes is not None:
                    self._evict(connection, max_bytes, sparing=None)
                connection.execute("DELETE FROM spaces WHERE id NOT IN (SELECT space FROM entries)")
            removed = before - self._count(connection)
            self._give_back(connection)
            return removed

    def _give_back(self, connection: sqlite3.Connection) -> None:
        """Give free pages back to the file system."""
        truncate_journal(connection)
        if not pragma(connection, "freelist_count"):
            return
        # A copy of what is left is the fast way, and needs room for it twice: for the copy, and in the journal.
        if shutil.disk_usage(self.path.parent).free > 3 * used_bytes(connection):
            try:
                connection.execute("VACUUM")
                truncate_journal(connection)
                return
            except sqlite3.OperationalError as error:
                if primary_code(error) != sqlite3.SQLITE_FULL:
                    raise
        # On a disk that is nearly full in steps, slow for many pages, which need room for one step.
        while free := pragma(connection, "freelist_count"):
            # A page goes with each row that is fetched.
            connection.execute(f"PRAGMA incremental_vacuum({_VACUUMED_AT_ONCE})").fetchall()
            truncate_journal(connection)
            if pragma(connection, "freelist_count") >= free:
                return

    def export(self, space: str | None = None) -> Iterator[ExportedEntry]:
        """All entries, one at a time, or those of one space (the beginning of its digest is enough).

        Read in pages: others may use the store meanwhile, and what they write may or may not be among it.

        Raises:
            ValueError: The space is not there, or its name fits several.
            StoreError: An entry is damaged.
        """
        with self._file.lock, self._file.errors():
            connection = self._file.connected()
            chosen = None if space is None else self._space_like(connection, space)
            spaces = connection.execute(
                "SELECT id, digest FROM spaces WHERE ? IS NULL OR id = ? ORDER BY digest", (chosen, chosen)
            ).fetchall()
        for number, digest in spaces:
            last = b""
            while page := self._page(number, digest, last):
                yield from page
                last = bytes.fromhex(page[-1].key)

    def _page(self, space: int, digest: str, after: bytes) -> list[ExportedEntry]:
        with self._file.lock, self._file.errors():
            rows = (
                self._file.connected()
                .execute(
                    "SELECT key, ids, stop_id, vector, crc, created FROM entries WHERE space = ? AND key > ? "
                    "ORDER BY key LIMIT ?",
                    (space, after, _AT_ONCE),
                )
                .fetchall()
            )
            return [
                ExportedEntry(
                    space=digest,
                    key=key.hex(),
                    rollout=unpacked(digest, key, ids, stop_id, vector, crc),
                    created=created,
                )
                for key, ids, stop_id, vector, crc, created in rows
            ]

    # ------------------------------------------------------------ rows

    def _read(self, digest: str, keys: list[bytes]) -> dict[bytes, StoredRollout]:
        connection = self._file.connected()
        space = self._space(connection, digest)
        found: dict[bytes, StoredRollout] = {}
        if space is None:
            return found
        for first in range(0, len(keys), _AT_ONCE):
            part = keys[first : first + _AT_ONCE]
            marks = ",".join("?" * len(part))
            rows = connection.execute(
                f"SELECT key, ids, stop_id, vector, crc FROM entries WHERE space = ? AND key IN ({marks})",
                (space, *part),
            ).fetchall()
            for key, ids, stop_id, vector, crc in rows:
                found[key] = unpacked(digest, key, ids, stop_id, vector, crc)
        return found

    def _write(self, settings: Mapping[str, Any], entries: Mapping[bytes, StoredRollout]) -> None:
        connection = self._file.connected()
        digest = space_digest(settings)
        now = time.time()
        rows = [(key, *packed(digest, key, rollout), now) for key, rollout in entries.items()]
        with transaction(connection):
            text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
            connection.execute(
                "INSERT OR IGNORE INTO spaces (digest, settings, created) VALUES (?, ?, ?)", (digest, text, now)
            )
            # Asked anew, not remembered: another process may have pruned the space.
            (space,) = connection.execute("SELECT id FROM spaces WHERE digest = ?", (digest,)).fetchone()
            if self.max_bytes is not None:
                rows = self._fitting(connection, space, rows)
            connection.executemany(
                "INSERT OR IGNORE INTO entries (space, key, ids, stop_id, vector, crc, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(space, *row) for row in rows],
            )
            if not rows:
                connection.execute(
                    "DELETE FROM spaces WHERE id = ? AND id NOT IN (SELECT space FROM entries)", (space,)
                )

    def _fitting(
        self, connection: sqlite3.Connection, space: int, rows: list[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """The rows that fit into the size limit, once old entries of other spaces have made room for them.

        Nothing is removed for what does not fit then either.
        """
        assert self.max_bytes is not None
        page = pragma(connection, "page_size")  # the last one is never full
        free = self.max_bytes - used_bytes(connection) - page
        if sum(map(_row_bytes, rows)) <= free:
            return rows
        others = self._bytes_of_others(connection, space)
        kept = _first_within(rows, free + others)
        needed = sum(map(_row_bytes, kept))
        if kept and needed > free:
            self._evict(connection, self.max_bytes - page - needed, sparing=space)
            kept = _first_within(kept, self.max_bytes - page - used_bytes(connection))  # entries are not quite pages
        if len(kept) < len(rows) and not self._is_full:
            self._is_full = True
            logger.warning(
                "the store %s has reached its limit of %d bytes: what is generated from here on is not kept. Raise the "
                "limit, or make room with `grace-st store prune`",
                self.path,
                self.max_bytes,
            )
        return kept

    @staticmethod
    def _bytes_of_others(connection: sqlite3.Connection, space: int) -> int:
        # In two ranges, which the index finds: a store that is full of this space is not read through.
        total = 0
        for relation in ("<", ">"):
            (found,) = connection.execute(
                "SELECT sum(2 * length(key) + length(ids) + length(vector) + 64) FROM entries "
                f"WHERE space {relation} ?",
                (space,),
            ).fetchone()
            total += found or 0
        return total

    @staticmethod
    def _evict(connection: sqlite3.Connection, most: int, sparing: int | None) -> None:
        while (excess := used_bytes(connection) - most) > 0:
            # A page holds several entries, or an entry several pages: a guess, rather too few than too many, and made
            # again until it is enough.
            (bytes_each,) = connection.execute(
                "SELECT avg(length(ids) + length(vector)) FROM (SELECT ids, vector FROM entries WHERE ? IS NULL OR "
                "space != ? ORDER BY id LIMIT 100)",
                (sparing, sparing),
            ).fetchone()
            page = pragma(connection, "page_size")
            each = (bytes_each or 0) + 256
            count = max(1, min(1000, int(excess // (each if each < page else page * math.ceil(each / page)))))
            cursor = connection.execute(
                "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE ? IS NULL OR space != ? "
                "ORDER BY id LIMIT ?)",
                (sparing, sparing, count),
            )
            if cursor.rowcount == 0:
                return

    def _space(self, connection: sqlite3.Connection, digest: str) -> int | None:
        row = connection.execute("SELECT id FROM spaces WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else int(row[0])

    def _space_like(self, connection: sqlite3.Connection, name: str) -> int:
        rows = connection.execute("SELECT id, digest FROM spaces").fetchall()
        fitting = [space for space, digest in rows if name and digest.startswith(name)]
        if len(fitting) != 1:
            listed = ", ".join(digest[:12] for _, digest in rows) or "none"
            problem = "no space begins with" if not fitting else "several spaces begin with"
            raise ValueError(f"{problem} {name!r} in {self.path}; there are: {listed}")
        return int(fitting[0])

    @staticmethod
    def _count(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    def _file_bytes(self) -> int:
        beside = [Path(f"{self.path}{suffix}") for suffix in ("", "-wal")]
        return sum(map(size, beside))


def _row_bytes(row: tuple[Any, ...]) -> int:
    key = row[0]
    return sum(len(value) for value in row if isinstance(value, bytes)) + len(key) + 64  # the index has the key again


def _first_within(rows: list[tuple[Any, ...]], room: int) -> list[tuple[Any, ...]]:
    """The first rows, as many as fit."""
    for index, row in enumerate(rows):
        room -= _row_bytes(row)
        if room < 0:
            return rows[:index]
    return rows
