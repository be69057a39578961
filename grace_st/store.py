"""RationaleStore: what was generated once is not generated again.

One SQLite file, which several processes may use at once. An entry is found by what its vector depends on: a *space*
holds all that a whole call has in common (weights, dtype, engine, sampling, ...), a *key* is the hash of one prompt.
Knows neither models nor texts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
APPLICATION_ID = 0x47524143  # "GRAC", in the header of the file
SUFFIXES = (".sqlite", ".sqlite3", ".db", ".store")

_BUSY_SECONDS = 120.0
_CHECKED_WHOLE_BELOW = 256 * 1024**2
_AT_ONCE = 500  # keys of one SELECT; SQLite allows 999 variables
_SCHEMA = """
CREATE TABLE spaces (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, space INTEGER NOT NULL REFERENCES spaces (id), key BLOB NOT NULL, ids BLOB NOT NULL,
    stop_id INTEGER, vector BLOB NOT NULL, crc INTEGER NOT NULL, created REAL NOT NULL, UNIQUE (space, key)
);
"""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


class StoreError(ValueError):
    """A file that cannot be used as a store as it is."""


class _Damaged(Exception):
    """What was read is not what was written."""


@dataclass(frozen=True, eq=False)
class StoredRollout:
    """A rationale and its vector.

    Attributes:
        ids: Token ids of the rationale, without the EOS that ended it.
        stop_id: That EOS id, or None where the budget ended it.
        vector: ``[d]`` float32.
    """

    ids: tuple[int, ...]
    stop_id: int | None
    vector: np.ndarray


@dataclass(frozen=True, kw_only=True)
class SpaceInfo:
    """One space of a store.

    Attributes:
        digest: Hash of the settings, which names the space.
        settings: What its vectors depend on, but for the prompts.
        entries: Number of entries.
        created: When the space was made, in seconds since 1970.
    """

    digest: str
    settings: dict[str, Any]
    entries: int
    created: float


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What is in a store.

    Attributes:
        path: The file.
        bytes: Its size with its journal, in bytes.
        entries: Number of entries.
        spaces: The spaces, newest first.
    """

    path: Path
    bytes: int
    entries: int
    spaces: tuple[SpaceInfo, ...]


@dataclass(frozen=True, kw_only=True)
class ExportedEntry:
    """An entry as `RationaleStore.export` gives it.

    Attributes:
        space: Digest of its space.
        key: Hash of its prompt, in hexadecimal digits.
        rollout: Rationale and vector.
        created: When it was written, in seconds since 1970.
    """

    space: str
    key: str
    rollout: StoredRollout
    created: float


def space_digest(settings: Mapping[str, Any]) -> str:
    """The name of the space with these settings: 64 hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


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
        PermissionError: It may not be written.
        FileNotFoundError: Its folder is not there, or with ``read_only`` the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int | None = None, read_only: bool = False) -> None:
        if max_bytes is not None and (isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1):
            raise ValueError(f"max_bytes must be an integer >= 1 (the size of the store in bytes), got {max_bytes!r}")
        self.path = Path(path).expanduser().absolute()
        self.max_bytes = max_bytes
        self.read_only = read_only
        self._is_full = False
        self._set_up()

    def _set_up(self) -> None:
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._inode = 0
        with self._lock:
            self._open_or_set_aside()

    # A store goes to worker processes as its path: a connection cannot.

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "max_bytes": self.max_bytes, "read_only": self.read_only, "_is_full": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()

    def __enter__(self) -> RationaleStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RationaleStore({str(self.path)!r})"

    def close(self) -> None:
        """Close the file. It is opened again when it is used again."""
        with self._lock:
            if self._connection is not None and self._owner == os.getpid():
                self._connection.close()
            self._connection = None

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
        with self._lock, self._errors():
            try:
                return self._read(digest, list(dict.fromkeys(keys)))
            except (_Damaged, sqlite3.DatabaseError) as error:
                self._recover(error)
                return {}

    def put(self, settings: Mapping[str, Any], entries: Mapping[bytes, StoredRollout]) -> None:
        """Keep entries. One that is there already stays as it is.

        Raises:
            PermissionError: The store may not be written.
            OSError: The disk is full.
        """
        if not entries:
            return
        if self.read_only:
            raise PermissionError(f"the store {self.path} was opened to be read only: open it without read_only")
        with self._lock, self._errors():
            try:
                self._write(settings, entries)
            except (_Damaged, sqlite3.DatabaseError) as error:
                self._recover(error)
                self._write(settings, entries)

    def info(self) -> StoreInfo:
        """What is in the store."""
        with self._lock, self._errors():
            connection = self._connected()
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
        """
        with self._lock, self._errors():
            connection = self._connected()
            before = self._count(connection)
            chosen = [self._space_like(connection, name) for name in spaces]
            with _transaction(connection):
                for space in chosen:
                    connection.execute("DELETE FROM entries WHERE space = ?", (space,))
                if older_than is not None:
                    connection.execute("DELETE FROM entries WHERE created < ?", (time.time() - older_than,))
                if max_bytes is not None:
                    self._evict(connection, max_bytes, sparing=None)
                connection.execute("DELETE FROM spaces WHERE id NOT IN (SELECT space FROM entries)")
            removed = before - self._count(connection)
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return removed

    def export(self, space: str | None = None) -> Iterator[ExportedEntry]:
        """All entries, one at a time, or those of one space (the beginning of its digest is enough).

        Raises:
            ValueError: The space is not there, or its name fits several.
            StoreError: An entry is damaged.
        """
        with self._lock, self._errors():
            connection = self._connected()
            chosen = None if space is None else self._space_like(connection, space)
            cursor = connection.execute(
                "SELECT digest, key, ids, stop_id, vector, crc, entries.created FROM entries JOIN spaces ON "
                "spaces.id = entries.space WHERE ? IS NULL OR space = ? ORDER BY digest, key",
                (chosen, chosen),
            )
            for digest, key, ids, stop_id, vector, crc, created in cursor:
                try:
                    rollout = _unpacked(key, ids, stop_id, vector, crc)
                except _Damaged:
                    raise StoreError(f"{self.path} is damaged: {key.hex()} is not what was written") from None
                yield ExportedEntry(space=digest, key=key.hex(), rollout=rollout, created=created)

    # ------------------------------------------------------------ rows

    def _read(self, digest: str, keys: list[bytes]) -> dict[bytes, StoredRollout]:
        connection = self._connected()
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
            )
            for key, ids, stop_id, vector, crc in rows:
                found[key] = _unpacked(key, ids, stop_id, vector, crc)
        return found

    def _write(self, settings: Mapping[str, Any], entries: Mapping[bytes, StoredRollout]) -> None:
        connection = self._connected()
        digest = space_digest(settings)
        now = time.time()
        rows = [(key, *_packed(key, rollout), now) for key, rollout in entries.items()]
        with _transaction(connection):
            text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
            connection.execute(
                "INSERT OR IGNORE INTO spaces (digest, settings, created) VALUES (?, ?, ?)", (digest, text, now)
            )
            # Asked anew, not remembered: another process may have pruned the space.
            (space,) = connection.execute("SELECT id FROM spaces WHERE digest = ?", (digest,)).fetchone()
            if self.max_bytes is not None and not self._make_room(connection, space, rows):
                return
            connection.executemany(
                "INSERT OR IGNORE INTO entries (space, key, ids, stop_id, vector, crc, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(space, *row) for row in rows],
            )

    def _make_room(self, connection: sqlite3.Connection, space: int, rows: list[tuple[Any, ...]]) -> bool:
        """Whether the rows fit into the size limit, after old entries of other spaces are gone."""
        assert self.max_bytes is not None
        needed = sum(sum(len(value) for value in row if isinstance(value, bytes)) + 64 for row in rows)
        if _used_bytes(connection) + needed > self.max_bytes:
            self._evict(connection, self.max_bytes - needed, sparing=space)
        fits = _used_bytes(connection) + needed <= self.max_bytes
        if not fits and not self._is_full:
            self._is_full = True
            logger.warning(
                "the store %s has reached its limit of %d bytes: what is generated from here on is not kept. Raise the "
                "limit, or make room with `grace-st store prune`",
                self.path,
                self.max_bytes,
            )
        return fits

    @staticmethod
    def _evict(connection: sqlite3.Connection, most: int, sparing: int | None) -> None:
        while (excess := _used_bytes(connection) - most) > 0:
            # A page holds several entries, or an entry several pages: a guess, made again until it is enough.
            count = max(1, min(1000, excess // 4096))
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
        return sum(path.stat().st_size for path in beside if path.exists())

    # ------------------------------------------------------------ opening

    def _connected(self) -> sqlite3.Connection:
        # A connection must not be used in a forked child; dropping the reference there closes nothing of the parent's
        # that matters, since SQLite's locks belong to a process.
        if self._connection is None or self._owner != os.getpid():
            self._open_or_set_aside()
        assert self._connection is not None
        return self._connection

    def _open_or_set_aside(self) -> None:
        self._check_file()
        with self._errors():
            try:
                self._open()
            except (_Damaged, sqlite3.DatabaseError) as error:
                self._recover(error)

    def _check_file(self) -> None:
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {self.path.parent} for the store: make it first")
        if not self.path.exists():
            if self.read_only:
                raise FileNotFoundError(f"there is no store {self.path}")
            if not os.access(self.path.parent, os.W_OK | os.X_OK):
                raise PermissionError(f"the folder {self.path.parent} is not writable: put the store elsewhere")
            return
        if not self.path.is_file():
            raise StoreError(f"{self.path} is no file, so it is no store: name another one")
        with self.path.open("rb") as stream:
            head = stream.read(16)
        if head and head != b"SQLite format 3\x00" and self.path.suffix not in SUFFIXES:
            # Renaming it would help if it was a store, and be rude if it is anything else.
            raise StoreError(
                f"{self.path} is not a store: name another file, or move it away if it was one (it is damaged then)"
            )
        writable = os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK | os.X_OK)
        if not self.read_only and not writable:
            raise self._not_writable()

    def _not_writable(self) -> PermissionError:
        return PermissionError(
            f"the store {self.path} may not be written (the file or its folder is read-only): copy it to a folder "
            "where it may, or name another one"
        )

    def _open(self) -> None:
        if self.read_only:
            writable = os.access(self.path.parent, os.W_OK | os.X_OK)
            # Without a journal nobody is writing, and where none can be made SQLite has to be told so.
            is_still = not writable and not Path(f"{self.path}-wal").exists()
            uri = f"{self.path.as_uri()}?mode=ro{'&immutable=1' if is_still else ''}"
        else:
            uri = f"{self.path.as_uri()}?mode=rwc"
        connection = sqlite3.connect(
            uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._begin(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._owner = os.getpid()
        self._inode = self.path.stat().st_ino

    def _begin(self, connection: sqlite3.Connection) -> None:
        if not self.read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing of what was committed; a power cut may lose the last batches, but no more.
            connection.execute("PRAGMA synchronous = NORMAL")
            with _transaction(connection):
                is_new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
                if is_new and _pragma(connection, "application_id") == 0:
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        if _pragma(connection, "application_id") != APPLICATION_ID:
            raise StoreError(f"{self.path} is an SQLite file of something else: name another one for the store")
        version = _pragma(connection, "user_version")
        if version != FORMAT_VERSION:
            newer = " (upgrade: pip install -U grace-st)" if version > FORMAT_VERSION else ""
            raise StoreError(
                f"the store {self.path} has format version {version}, and this grace-st reads {FORMAT_VERSION}{newer}: "
                "name another file for the store, or remove this one"
            )
        if self.path.stat().st_size < _CHECKED_WHOLE_BELOW:
            # Larger ones would take long: there SQLite's own checks and the sum of each entry have to do.
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                raise _Damaged(said)

    # ------------------------------------------------------------ damage and other trouble

    def _recover(self, error: Exception) -> None:
        """Set a damaged file aside and begin a new one. Any other error is raised again."""
        if isinstance(error, sqlite3.DatabaseError) and _code(error) not in _DAMAGED:
            raise error
        was_inode = self._inode
        self.close()
        if self.read_only:
            raise StoreError(f"the store {self.path} is damaged ({error}): it cannot be read") from error
        # Another process may have set it aside already, and the file of that name is a new one.
        is_the_same = self.path.exists() and was_inode in (0, self.path.stat().st_ino)
        if is_the_same:
            aside = self._set_aside()
            logger.warning(
                "the store %s is damaged (%s): it was renamed to %s, and a new one is begun", self.path, error, aside
            )
        self._open()

    def _set_aside(self) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        number = 0
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}-{number}")
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as those of the file system that they are."""
        try:
            yield
        except sqlite3.OperationalError as error:
            code = _code(error)
            if code == sqlite3.SQLITE_FULL:
                raise OSError(
                    f"no space is left for the store {self.path}: make room, or lower what it keeps with "
                    "`grace-st store prune`. What it holds is kept"
                ) from error
            if code in _READ_ONLY:
                raise self._not_writable() from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise OSError(
                    f"another process has kept the store {self.path} locked for {_BUSY_SECONDS:.0f} seconds: wait for "
                    "it, or name another store"
                ) from error
            raise OSError(f"the store {self.path} cannot be used: {error}") from error


def _code(error: sqlite3.Error) -> int:
    """The primary code of an error; 0 where SQLite gave none."""
    return (error.sqlite_errorcode or 0) & 0xFF


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE: a transaction that reads first and writes later fails at once when another process has written.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back itself when the disk is full
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _packed(key: bytes, rollout: StoredRollout) -> tuple[bytes, int | None, bytes, int]:
    ids = np.asarray(rollout.ids, dtype="<i4").tobytes()
    vector = np.ascontiguousarray(rollout.vector, dtype="<f4").tobytes()
    return ids, rollout.stop_id, vector, _crc(key, ids, rollout.stop_id, vector)


def _unpacked(key: bytes, ids: bytes, stop_id: int | None, vector: bytes, crc: int) -> StoredRollout:
    if _crc(key, ids, stop_id, vector) != crc:
        raise _Damaged(f"the entry {key.hex()[:12]} is not what was written")
    return StoredRollout(
        tuple(np.frombuffer(ids, dtype="<i4").tolist()), stop_id, np.frombuffer(vector, dtype="<f4").copy()
    )


def _crc(key: bytes, ids: bytes, stop_id: int | None, vector: bytes) -> int:
    stop = b"" if stop_id is None else array("q", [stop_id]).tobytes()
    return zlib.crc32(vector, zlib.crc32(stop, zlib.crc32(ids, zlib.crc32(key))))
