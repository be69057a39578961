"""RationaleStore: what was generated once is not generated again.

One SQLite file, which several processes may use at once. An entry is found by what its vector depends on: a *space*
holds all that a whole call has in common (weights, dtype, engine, sampling, ...), a *key* is the hash of one prompt.
Knows neither models nor texts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

from grace_st.store_entries import (
    Damaged,
    ExportedEntry,
    SpaceInfo,
    StoreBusyError,
    StoredRollout,
    StoreError,
    StoreFileError,
    StoreInfo,
    StoreNotFoundError,
    StoreNotWritableError,
    first_within,
    packed,
    row_bytes,
    space_digest,
    unpacked,
)
from grace_st.store_sqlite import (
    BUSY,
    BUSY_SECONDS,
    DAMAGED,
    MOVED,
    READ_ONLY,
    FileId,
    error_code,
    file_at,
    file_size,
    folder_lock,
    is_empty,
    persistently,
    pragma,
    set_journal,
    transaction,
    truncate_journal,
    used_bytes,
)

__all__ = [
    "FORMAT_VERSION",
    "ExportedEntry",
    "RationaleStore",
    "SpaceInfo",
    "StoreBusyError",
    "StoreError",
    "StoreFileError",
    "StoreInfo",
    "StoreNotFoundError",
    "StoreNotWritableError",
    "StoredRollout",
    "space_digest",
]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
APPLICATION_ID = 0x47524143  # "GRAC", in the header of the file
SUFFIXES = (".sqlite", ".sqlite3", ".store")
"""Of files that may be renamed when nothing in them tells any more what they were."""

_OPENINGS = 5  # of a file that others replace meanwhile
_MAGIC = b"SQLite format 3\x00"
_VACUUMED_AT_ONCE = 2000  # pages
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
        self._set_up()

    def _set_up(self) -> None:
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._file: FileId | None = None  # that the connection is to
        _stores.add(self)
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
            if self._connection is not None:
                if self._owner == os.getpid():
                    self._connection.close()
                else:
                    _inherited.append(self._connection)
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
            except (Damaged, sqlite3.DatabaseError) as error:
                self._recover(error)
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
        with self._lock, self._errors():
            try:
                self._write(settings, entries)
            except (Damaged, sqlite3.DatabaseError) as error:
                self._recover(error)
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
            StoreFileError: The disk is so full that not even the journal of the removal fits; the error says so.
        """
        self.check_writable()
        with self._lock, self._errors():
            connection = self._connected()
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
                if error_code(error) != sqlite3.SQLITE_FULL:
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
        with self._lock, self._errors():
            connection = self._connected()
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
        with self._lock, self._errors():
            rows = (
                self._connected()
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
            ).fetchall()
            for key, ids, stop_id, vector, crc in rows:
                found[key] = unpacked(digest, key, ids, stop_id, vector, crc)
        return found

    def _write(self, settings: Mapping[str, Any], entries: Mapping[bytes, StoredRollout]) -> None:
        connection = self._connected()
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
        if sum(map(row_bytes, rows)) <= free:
            return rows
        others = self._bytes_of_others(connection, space)
        kept = first_within(rows, free + others)
        needed = sum(map(row_bytes, kept))
        if kept and needed > free:
            self._evict(connection, self.max_bytes - page - needed, sparing=space)
            kept = first_within(kept, self.max_bytes - page - used_bytes(connection))  # entries are not quite pages
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
        return sum(map(file_size, beside))

    # ------------------------------------------------------------ opening

    def _connected(self) -> sqlite3.Connection:
        # The file may have been renamed, removed or replaced since, and what is written to it then is lost. (A fork
        # closes all stores, but not every way to fork asks Python.)
        if self._connection is None or self._owner != os.getpid() or self._file != file_at(self.path):
            self.close()
            self._open_or_set_aside()
        assert self._connection is not None
        return self._connection

    def _open_or_set_aside(self) -> None:
        with self._errors():
            for left in reversed(range(_OPENINGS)):
                self._check_path()
                try:
                    with folder_lock(self.path.parent, fcntl.LOCK_SH):
                        self._open()
                    return
                except (Damaged, sqlite3.DatabaseError) as error:
                    self._set_aside_if_damaged(error)
                    if not left:
                        raise

    def _check_path(self) -> None:
        if not self.path.parent.is_dir():
            raise StoreNotFoundError(f"there is no folder {self.path.parent} for the store: make it first")
        found = file_at(self.path)
        if found is None:
            if self.read_only:
                raise StoreNotFoundError(f"there is no store {self.path}")
            if not os.access(self.path.parent, os.W_OK | os.X_OK):
                raise StoreNotWritableError(f"the folder {self.path.parent} is not writable: put the store elsewhere")
            return
        is_file = self.path.is_file()
        writable = os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK | os.X_OK)
        if file_at(self.path) != found:
            return  # another process has set it aside meanwhile
        if not is_file:
            raise StoreError(f"{self.path} is no file, so it is no store: name another one")
        if not self.read_only and not writable:
            raise self._not_writable()

    def _not_writable(self) -> StoreNotWritableError:
        return StoreNotWritableError(
            f"the store {self.path} may not be written (the file or its folder is read-only): copy it to a folder "
            "where it may, or name another one"
        )

    def _open(self) -> None:
        if file_size(self.path) > 0:
            with contextlib.closing(self._connect(read_only=True)) as connection:
                # Before anything is written: opening a file of something else must not change it.
                self._check_is_ours(connection)
        connection = self._connect(read_only=self.read_only)
        try:
            self._begin(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._owner = os.getpid()

    def _connect(self, *, read_only: bool) -> sqlite3.Connection:
        """A connection. Sets which file it is to."""
        if read_only:
            writable = os.access(self.path.parent, os.W_OK | os.X_OK)
            # Without a journal nobody is writing, and where none can be made SQLite has to be told so.
            is_still = not writable and not Path(f"{self.path}-wal").exists()
            uri = f"{self.path.as_uri()}?mode=ro{'&immutable=1' if is_still else ''}"
        else:
            uri = f"{self.path.as_uri()}?mode=rwc"
        for _ in range(_OPENINGS):
            self._file = before = file_at(self.path)
            connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._file = file_at(self.path)
            if self._file is not None and before in (None, self._file):
                return connection
            connection.close()  # it was replaced meanwhile
        raise StoreFileError(f"the store {self.path} is replaced again and again by another process: name another one")

    def _begin(self, connection: sqlite3.Connection) -> None:
        if not self.read_only:
            if file_size(self.path) == 0:
                # So that room can be given back page by page. Later on it would have no effect, but be a write.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            persistently(lambda: set_journal(connection))
            # A killed process loses nothing of what was committed; a power cut may lose the last batches, but no more.
            connection.execute("PRAGMA synchronous = NORMAL")
            if is_empty(connection):
                with transaction(connection):
                    if is_empty(connection):
                        for statement in _SCHEMA.split(";"):
                            connection.execute(statement)
                        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
                # Into the file itself: its head tells whose it is, should it ever be damaged.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._check_is_ours(connection)
        if file_size(self.path) < _CHECKED_WHOLE_BELOW:
            # Larger ones would take long: there SQLite's own checks and the sum of each entry have to do.
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise Damaged(" ".join(said.split()))

    def _check_is_ours(self, connection: sqlite3.Connection) -> None:
        if not self.read_only and is_empty(connection):
            return  # another process is about to make it
        if pragma(connection, "application_id") != APPLICATION_ID:
            raise StoreError(f"{self.path} is an SQLite file of something else: name another one for the store")
        version = pragma(connection, "user_version")
        if version != FORMAT_VERSION:
            newer = " (upgrade: pip install -U grace-st)" if version > FORMAT_VERSION else ""
            raise StoreError(
                f"the store {self.path} has format version {version}, and this grace-st reads {FORMAT_VERSION}{newer}: "
                "name another file for the store, or remove this one"
            )

    # ------------------------------------------------------------ damage and other trouble

    def _recover(self, error: Exception) -> None:
        """Set a damaged file aside and begin a new one. Any other error is raised again."""
        self._set_aside_if_damaged(error)
        self._open_or_set_aside()

    def _set_aside_if_damaged(self, error: Exception) -> None:
        """Rename a damaged file, unless another process has done so. Any other error is raised again."""
        code = error_code(error) if isinstance(error, sqlite3.DatabaseError) else sqlite3.SQLITE_CORRUPT
        if code not in (*DAMAGED, *MOVED):
            raise error
        damaged = self._file
        # Two processes that find the same damage come one after the other.
        with folder_lock(self.path.parent, fcntl.LOCK_EX):
            found = file_at(self.path)
            if found is None or found != damaged:
                self.close()
                return  # another process has set it aside, and the file of that name is a new one
            if code not in DAMAGED:
                raise error
            self.close()
            with self.path.open("rb") as stream:
                head = stream.read(100)
            if not self._was_ours(head):
                # Renaming it would help if it was a store, and be rude if it is anything else.
                raise StoreError(
                    f"{self.path} is not a store: name another file, or move it away if it was one (it is damaged then)"
                ) from error
            if self.read_only:
                raise StoreError(f"the store {self.path} is damaged ({error}): it cannot be read") from error
            aside = self._set_aside()
        logger.warning(
            "the store %s is damaged (%s): it was renamed to %s, and a new one is begun", self.path, error, aside
        )

    def _was_ours(self, head: bytes) -> bool:
        """Whether a damaged file was a store, by the beginning of it, or by its name where that is damaged too."""
        if head.startswith(_MAGIC):
            return int.from_bytes(head[68:72], "big") == APPLICATION_ID
        return self.path.suffix in SUFFIXES

    def _set_aside(self) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        number = 0
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}-{number}")
        # The file itself last: as long as its name is taken nobody begins a new one, whose journal might be taken away.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        return aside

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as those of the file system that they are."""
        try:
            yield
        except Damaged as error:
            raise self._broken(error) from None
        except sqlite3.DatabaseError as error:
            code = error_code(error)
            if code in DAMAGED:
                raise self._broken(error) from error
            if code == sqlite3.SQLITE_FULL:
                raise StoreFileError(
                    f"no space is left for the store {self.path}: make room (`grace-st store prune` needs a little "
                    "itself, for its journal). What the store holds is kept"
                ) from error
            if code in READ_ONLY:
                raise self._not_writable() from error
            if code in BUSY:
                raise StoreBusyError(
                    f"another process has kept the store {self.path} locked for {BUSY_SECONDS:.0f} seconds: wait for "
                    "it, or name another store"
                ) from error
            raise StoreFileError(f"the store {self.path} cannot be used: {error}") from error

    def _broken(self, error: Exception) -> StoreError:
        return StoreError(f"the store {self.path} is damaged ({error}): move it away, and begin a new one")


_stores: WeakSet[RationaleStore] = WeakSet()
_inherited: list[sqlite3.Connection] = []
"""Connections of another process. To close one, or to let it go, would take that process's journal away."""

_forking = threading.Lock()  # one thread at a time: two that took the stores' locks in turn might wait for each other
_held: list[RationaleStore] = []


def _before_fork() -> None:
    # SQLite's locks belong to a process, but what it knows about them would go to the child: there it would take locks
    # for held that are not, and the two would remove each other's journals. So no file is open while a process forks;
    # both sides open it again when they use it.
    _forking.acquire()
    for store in list(_stores):
        store._lock.acquire()
        _held.append(store)
        store.close()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking
    _forking = threading.Lock()
    while _held:
        _held.pop()._lock = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
