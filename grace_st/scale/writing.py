"""Writing files that are whole or not there, on a disk and in an object store."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from grace_st.scale.files import Place

TEMPORARY = ".tmp"
"""The end of the names of files on a disk that are not whole yet."""

_UPLOADED_AT_ONCE = 16 * 2**20


def write_whole(place: Place, data: bytes) -> None:
    """Write a file that is there when it is whole."""
    with written(place) as stream:
        stream.write(data)


def written(place: Place) -> AbstractContextManager[IO[bytes]]:
    """A stream into a file that is there when the block ends, and not if it fails."""
    return _on_disk(Path(place.path)) if place.is_local else _in_object_store(place)


@contextmanager
def _on_disk(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _in_object_store(place: Place) -> Iterator[IO[bytes]]:
    # In a file here first: an upload that is closed early leaves an object that is cut off.
    with tempfile.TemporaryFile() as stream:
        yield stream
        stream.seek(0)
        place.system.create_dir(place.parent, recursive=True)
        try:
            with place.system.open_output_stream(place.path, compression=None) as out:
                shutil.copyfileobj(stream, out, _UPLOADED_AT_ONCE)
        except BaseException:
            with suppress(OSError):
                place.system.delete_file(place.path)
            raise
