"""What happens to open stores when a process forks."""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """What has an SQLite file open."""

    lock: threading.RLock

    def close(self) -> None:
        """Close it, until it is used again."""
        ...


_stores: WeakSet[Forked] = WeakSet()
_inherited: list[sqlite3.Connection] = []
"""Connections of another process. To close one, or to let it go, would take that process's journal away."""


def watch(store: Forked) -> None:
    """Close this one whenever the process forks."""
    _stores.add(store)


def keep(connection: sqlite3.Connection) -> None:
    """Keep a connection of another process."""
    _inherited.append(connection)


_forking = threading.Lock()  # one thread at a time: two that took the stores' locks in turn might wait for each other
_held: list[Forked] = []


def _before_fork() -> None:
    # SQLite's locks belong to a process, but what it knows about them would go to the child: there it would take locks
    # for held that are not, and the two would remove each other's journals. So no file is open while a process forks;
    # both sides open it again when they use it.
    _forking.acquire()
    for store in list(_stores):
        store.lock.acquire()
        _held.append(store)
        store.close()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().lock.release()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking
    _forking = threading.Lock()
    while _held:
        _held.pop().lock = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
