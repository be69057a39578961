"""What is finished of an output: the folder ``OUTPUT.partial``, from which an interrupted run goes on.

A file in it is whole or not there: each is written under another name, synced and renamed. ``run.json`` holds what the
vectors depend on. The folder goes when the output is complete, or when nothing was finished.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from grace_st.bulk.chunks import Chunk, Totals, read_chunk, read_meta, write_chunk
from grace_st.bulk.destination import Destination
from grace_st.bulk.lock import LOCK_NAME, FolderLock
from grace_st.bulk.resuming import Mode, Settings, compare_settings
from grace_st.bulk.rows import InputError

_RUN_NAME = "run.json"
_TEMPORARY = ".tmp"
_CHUNK_NAME = re.compile(r"chunk-(\d{8,})\.zip")
_OWN_NAME = re.compile(rf"{LOCK_NAME}|((run\.json|chunk-\d+\.zip)(\.tmp)?)|output-\d\.tmp")


class PartialOutput:
    """What is finished of an output. Only one process at a time can open it.

    Args:
        destination: The output.
        mode: ``"new"`` refuses to replace anything, ``"resume"`` goes on with what is finished and starts where
            nothing is, ``"overwrite"`` starts afresh and replaces the output at the end.

    Attributes:
        is_complete: The output is there and nothing is left to do (``"resume"`` only).

    Raises:
        OSError: Something is in the way, or another process is at work.
        ValueError: ``run.json`` cannot be read.
    """

    def __init__(self, destination: Destination, mode: Mode) -> None:
        destination.check()
        self.folder = destination.partial
        self._destination = destination
        self._mode = mode
        self._begun = False
        self.folder.mkdir(exist_ok=True)
        self._check_names()  # first: nothing is written or removed in a folder of something else
        self._lock = FolderLock(self.folder)
        try:
            self._run = self._read_run()
            if self._run is not None and self._run["state"] == "complete":
                self._remove_content()
                self._run = None
            self._check_mode()
            self._remove_temporary()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PartialOutput:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others in. Without a finished chunk the folder goes."""
        try:
            self._remove_temporary()
            if not any(self._chunk_paths()):
                self._remove_content()
                (self.folder / LOCK_NAME).unlink()
                self.folder.rmdir()
        except OSError as error:
            # Another process may have made its lock there in this moment.
            if error.errno != errno.ENOTEMPTY:
                raise
        finally:
            self._lock.release()

    # ------------------------------------------------------------ opening

    def _check_names(self) -> None:
        names = sorted(path.name for path in self.folder.iterdir())
        foreign = [name for name in names if not _OWN_NAME.fullmatch(name)]
        if foreign:
            raise FileExistsError(
                f"{self.folder} holds {foreign[0]}, which is not from this command: move the folder away, or choose "
                "another output"
            )

    def _read_run(self) -> dict[str, Any] | None:
        path = self.folder / _RUN_NAME
        has_chunks = any(self._chunk_paths())
        if not path.exists() and not has_chunks:
            return None
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if {"state", "replace", "settings"} <= run.keys():
                # Killed before its first chunk there is nothing to go on with, but for the leave to replace.
                is_empty = run["state"] == "encoding" and not has_chunks
                return None if is_empty and not run["replace"] else dict(run)
            trouble = "holds something else"
        except (OSError, ValueError, AttributeError) as error:
            trouble = str(error)
        if self._mode == "overwrite":
            return None
        raise ValueError(f"{path} cannot be read ({trouble}), so there is no going on: start afresh with --overwrite")

    def _check_mode(self) -> None:
        there = [path for path in self._destination.paths if path.exists()]
        self.is_complete = self._mode == "resume" and self._run is None and len(there) == len(self._destination.paths)
        if self._mode == "overwrite" or self.is_complete:
            return
        if self._run is not None and self._mode == "new":
            raise FileExistsError(
                f"{self.folder} holds what an earlier run has finished: go on with --resume, or start afresh with "
                "--overwrite"
            )
        # An interrupted run may have put a file in place already, or may be replacing one that was there.
        if there and not (self._run is not None and (self._run["replace"] or self._run["state"] == "placing")):
            raise FileExistsError(f"{there[0]} exists: choose another output, or replace it with --overwrite")

    def _remove_temporary(self) -> None:
        for path in self.folder.iterdir():
            if path.name.endswith(_TEMPORARY):
                path.unlink()

    def how_to_go_on(self) -> str:
        """What is kept, for someone whose run has stopped."""
        if self._run is not None and self._run["state"] == "complete":
            return "(the output is complete)"
        kept = self.totals().rows
        if not kept:
            return "(nothing was finished yet)"
        instead = " instead of --overwrite" if self._mode == "overwrite" else ""
        return f"({kept} rows are kept in {self.folder}: run the same with --resume{instead} to go on)"

    # ------------------------------------------------------------ settings

    @property
    def _goes_on(self) -> bool:
        return self._begun or (self._mode == "resume" and self._run is not None)

    def check(self, settings: Settings) -> None:
        """Compare some of the settings with those of the run that is resumed.

        Raises:
            ValueError: One differs; it is named.
        """
        if not self._goes_on or self._run is None:
            return
        compare_settings(self.folder, self._run["settings"], settings)

    def begin(self, settings: Settings) -> None:
        """Write the settings down before the first chunk, or compare all of them.

        Raises:
            ValueError: One differs from the run that is resumed.
        """
        if self._goes_on and self._run is not None:
            self.check({**dict.fromkeys(self._run["settings"]), **settings})
            return
        self._remove_content()
        self._run = {"state": "encoding", "replace": self._mode == "overwrite", "settings": dict(settings)}
        self._write_run()
        self._begun = True

    def _write_run(self, **changes: Any) -> None:
        assert self._run is not None
        self._run |= changes
        with self._written(self.folder / _RUN_NAME) as stream:
            stream.write(json.dumps(self._run, indent=2).encode("ascii") + b"\n")

    # ------------------------------------------------------------ chunks

    def _chunk_paths(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if _CHUNK_NAME.fullmatch(path.name))

    def _chunk_path(self, index: int) -> Path:
        return self.folder / f"chunk-{index:08}.zip"

    def finished(self) -> list[int]:
        """The indices of the finished chunks, in order."""
        if not self._goes_on:
            return []
        found = (_CHUNK_NAME.fullmatch(path.name) for path in self._chunk_paths())
        return sorted(int(match[1]) for match in found if match)

    def totals(self) -> Totals:
        """Counts over the finished chunks."""
        totals = Totals()
        for index in self.finished():
            totals.add(read_meta(self._chunk_path(index))[0])
        return totals

    def check_chunk(self, index: int, digest: str, place: str) -> None:
        """Compare what is encoded now with what a finished chunk was made from.

        Raises:
            InputError: They differ.
        """
        if read_meta(self._chunk_path(index))[1] != digest:
            raise InputError(
                f"{place} are not those that {self.folder} was made from: go on with the same input and --resume, or "
                "start afresh with --overwrite"
            )

    def check_count(self, count: int, name: str) -> None:
        """Compare the number of chunks of the input with what is finished.

        Raises:
            InputError: There are finished chunks after the end of the input.
        """
        if any(index >= count for index in self.finished()):
            raise InputError(
                f"{name} has fewer rows than {self.folder} was made from: go on with the same input and --resume, or "
                "start afresh with --overwrite"
            )

    def write(self, index: int, chunk: Chunk, totals: Totals, digest: str) -> None:
        """Keep a finished chunk."""
        with self._written(self._chunk_path(index)) as stream:
            write_chunk(stream, chunk, totals, digest)

    def chunks(self) -> Iterator[Chunk]:
        """The finished chunks, in order, one in memory at a time."""
        for index in self.finished():
            yield read_chunk(self._chunk_path(index))

    @contextmanager
    def _written(self, path: Path) -> Iterator[IO[bytes]]:
        """A file that is there when it is whole, and on the disk."""
        temporary = path.with_name(path.name + _TEMPORARY)
        with self._room(), temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(f"no space is left in {self.folder.parent} ({error.strerror}): make room") from error

    # ------------------------------------------------------------ the output

    def place(self, write: Callable[..., None]) -> None:
        """Write the output and put it in place, and remove what it was made from.

        Args:
            write: Called with a stream for each of the destination's files, in order.

        Raises:
            FileExistsError: A file has appeared there that may not be replaced.
        """
        assert self._run is not None
        finals = self._destination.paths
        made = [self.folder / f"output-{number}{_TEMPORARY}" for number in range(len(finals))]
        with self._room(), ExitStack() as stack:
            streams = [stack.enter_context(path.open("wb")) for path in made]
            write(*streams)
            for stream in streams:
                stream.flush()
                os.fsync(stream.fileno())
        there = [path for path in finals if path.exists()]
        if there and not self._run["replace"] and self._run["state"] != "placing":
            raise FileExistsError(f"{there[0]} has appeared since the run began: move it away and go on with --resume")
        self._write_run(state="placing")
        if len(finals) > 1:
            # The last file says that all are there, so an old one goes before the others change.
            finals[-1].unlink(missing_ok=True)
        for temporary, path in zip(made, finals, strict=True):
            temporary.replace(path)
            _sync_folder(path.parent)
        self._write_run(state="complete")
        self._remove_content()

    def _remove_content(self) -> None:
        # run.json goes last: it says what the rest is.
        for path in [*self._chunk_paths(), *self.folder.glob(f"*{_TEMPORARY}"), self.folder / _RUN_NAME]:
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last, should the machine stop."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
