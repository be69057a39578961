"""What a store of rationales holds, how an entry is written, and what can be wrong with one."""

from __future__ import annotations

import hashlib
import json
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class StoreError(ValueError):
    """A file that cannot be used as a store as it is."""


class StoreFileError(OSError):
    """The disk, the file system or another process keeps a store from being used."""


class StoreBusyError(StoreFileError):
    """Another process keeps a store locked."""


class StoreNotWritableError(StoreFileError, PermissionError):
    """A store may not be written."""


class StoreNotFoundError(StoreFileError, FileNotFoundError):
    """A store, or the folder for it, is not there."""


class Damaged(Exception):
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


def row_bytes(row: tuple[Any, ...]) -> int:
    """About what a row of the table of entries takes in the file, with its part of the index."""
    key = row[0]
    return sum(len(value) for value in row if isinstance(value, bytes)) + len(key) + 64  # the index has the key again


def first_within(rows: list[tuple[Any, ...]], room: int) -> list[tuple[Any, ...]]:
    """The first rows, as many as fit."""
    for index, row in enumerate(rows):
        room -= row_bytes(row)
        if room < 0:
            return rows[:index]
    return rows


def packed(space: str, key: bytes, rollout: StoredRollout) -> tuple[bytes, int | None, bytes, int]:
    """The columns of an entry: ids, EOS id, vector, checksum."""
    ids = np.asarray(rollout.ids, dtype="<i4").tobytes()
    vector = np.ascontiguousarray(rollout.vector, dtype="<f4").tobytes()
    return ids, rollout.stop_id, vector, _crc(space, key, ids, rollout.stop_id, vector)


def unpacked(space: str, key: bytes, ids: bytes, stop_id: int | None, vector: bytes, crc: int) -> StoredRollout:
    """An entry from its columns.

    Raises:
        Damaged: The checksum is another one.
    """
    if _crc(space, key, ids, stop_id, vector) != crc:
        raise Damaged(f"the entry {key.hex()[:12]} is not what was written")
    return StoredRollout(
        tuple(np.frombuffer(ids, dtype="<i4").tolist()), stop_id, np.frombuffer(vector, dtype="<f4").copy()
    )


def _crc(space: str, key: bytes, ids: bytes, stop_id: int | None, vector: bytes) -> int:
    stop = b"" if stop_id is None else array("q", [stop_id]).tobytes()
    return zlib.crc32(vector, zlib.crc32(stop, zlib.crc32(ids, zlib.crc32(key, zlib.crc32(space.encode())))))
