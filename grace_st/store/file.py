"""The file of a store: opening it, checking it, setting a damaged one aside, and errors that say what to do."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grace_st.store import forks
from grace_st.store.errors import (
    DamagedError,
    StoreBusyError,
    StoreError,
    StoreFileError,
    StoreNotFoundError,
    StoreNotWritableError,
)
from grace_st.store.paths import FileId, file_at, folder_lock, size
from grace_st.store.sqlite import (
    APPLICATION_ID,
    BUSY,
    BUSY_SECONDS,
    DAMAGED,
    FORMAT_VERSION,
    MOVED,
    READ_ONLY,
    SCHEMA,
    is_empty,
    persistently,
    pragma,
    primary_code,
    set_journal,
    transaction,
)

logger = logging.getLogger(__name__)

SUFFIXES = (".sqlite", ".sqlite3", ".store")
"""Of files that may be renamed when nothing in them tells any more what they were."""

_OPENINGS = 5  # of a file that others replace meanwhile
_MAGIC = b"SQLite format 3\x00"
_CHECKED_WHOLE_BELOW = 256 * 1024**2


class StoreFile:
    """An SQLite file that is opened when it is used, also anew: after a fork, and where another took its place.

    A damaged file is renamed, with a warning that names the new file, and a new one is begun.

    Args:
        path: The file.
        read_only: Only read, also where the file may not be written.

    Raises:
        StoreError: The file is no store, or one of another version.
        StoreNotWritableError: It may not be written; a `PermissionError`.
        StoreNotFoundError: Its folder is not there, or with ``read_only`` the file; a `FileNotFoundError`.
        StoreBusyError: Another process keeps it locked.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._file: FileId | None = None  # that the connection is to
        forks.watch(self)
        with self.lock:
            self._open_or_set_aside()

    def close(self) -> None:
        """Close the file. It is opened again when it is used again."""
        with self.lock:
            if self._connection is not None:
                if self._owner == os.getpid():
                    self._connection.close()
                else:
                    forks.keep(self._connection)
            self._connection = None

    def connected(self) -> sqlite3.Connection:
        """A connection to the file that has the name now. The caller holds `lock`."""
        # The file may have been renamed, removed or replaced since, and what is written to it then is lost. (A fork
        # closes all stores, but not every way to fork asks Python.)
        if self._connection is None or self._owner != os.getpid() or self._file != file_at(self.path):
            self.close()
            self._open_or_set_aside()
        assert self._connection is not None
        return self._connection

    def _open_or_set_aside(self) -> None:
        with self.errors():
            for left in reversed(range(_OPENINGS)):
                self._check_path()
                try:
                    with folder_lock(self.path.parent, fcntl.LOCK_SH):
                        self._open()
                    return
                except (DamagedError, sqlite3.DatabaseError) as error:
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
        if size(self.path) > 0:
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
            if size(self.path) == 0:
                # So that room can be given back page by page. Later on it would have no effect, but be a write.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            persistently(lambda: set_journal(connection))
            # A killed process loses nothing of what was committed; a power cut may lose the last batches, but no more.
            connection.execute("PRAGMA synchronous = NORMAL")
            if is_empty(connection):
                with transaction(connection):
                    if is_empty(connection):
                        for statement in SCHEMA.split(";"):
                            connection.execute(statement)
                        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
                # Into the file itself: its head tells whose it is, should it ever be damaged.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._check_is_ours(connection)
        if size(self.path) < _CHECKED_WHOLE_BELOW:
            # Larger ones would take long: there SQLite's own checks and the sum of each entry have to do.
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise DamagedError(" ".join(said.split()))

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

    def recover(self, error: Exception) -> None:
        """Set a damaged file aside and begin a new one. Any other error is raised again."""
        self._set_aside_if_damaged(error)
        self._open_or_set_aside()

    def _set_aside_if_damaged(self, error: Exception) -> None:
        """Rename a damaged file, unless another process has done so. Any other error is raised again."""
        code = primary_code(error) if isinstance(error, sqlite3.DatabaseError) else sqlite3.SQLITE_CORRUPT
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
    def errors(self) -> Iterator[None]:
        """SQLite's errors as those of the file system that they are."""
        try:
            yield
        except DamagedError as error:
            raise self._broken(error) from None
        except sqlite3.DatabaseError as error:
            code = primary_code(error)
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
