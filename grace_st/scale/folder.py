"""The output folder while it is made: which run it is of, its plan, its shards, and putting it in place.

On a disk everything is in ``OUTPUT.partial``, which becomes OUTPUT by one rename when it is complete. An object store
has no renames of folders: there everything is in OUTPUT from the beginning, and ``_SUCCESS`` is written last. Each
file is whole or not there.
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from grace_st.bulk.formats import import_parquet
from grace_st.bulk.lock import LOCK_NAME, FolderLock
from grace_st.bulk.resuming import Mode, Settings, compare_settings
from grace_st.scale.files import InputFile, Place, place_of
from grace_st.scale.shards import Shard, shard_name
from grace_st.store import RationaleStore, StoreError

SUCCESS = "_SUCCESS"
MANIFEST = "_manifest.json"
METADATA_KEY = "grace_st"

_RUN, _PLAN, _STORES = "_run", "plan.json.gz", "store"
_SHARD = re.compile(r"shard-(\d{6,})-([0-9a-f]{8})\.parquet")
_TEMPORARY = ".tmp"
_UPLOADED_AT_ONCE = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does.

    Attributes:
        run: Its name, eight hexadecimal digits.
        settings: What the output depends on, by the name that messages give it.
        files: The corpus.
        shards: The output.
        bad_rows: Rows of the corpus that are left out.
        id_kinds: The kinds of all ids.
        replace: Whether an output that is there may be replaced.
    """

    run: str
    settings: Mapping[str, Any]
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    bad_rows: int
    id_kinds: frozenset[str]
    replace: bool = False

    @property
    def rows(self) -> int:
        """Of the output."""
        return sum(shard.rows for shard in self.shards)

    def to_bytes(self) -> bytes:
        """For `from_bytes`."""
        head = {
            "run": self.run,
            "settings": dict(self.settings),
            "files": [asdict(file) for file in self.files],
            "bad_rows": self.bad_rows,
            "id_kinds": sorted(self.id_kinds),
            "replace": self.replace,
        }
        lines = [json.dumps(head), *(shard.to_json() for shard in self.shards)]
        return gzip.compress("\n".join(lines).encode("ascii"), compresslevel=1, mtime=0)

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """The plan that `to_bytes` wrote.

        Raises:
            ValueError: It is something else.
            OSError: It is damaged.
        """
        head, *shards = gzip.decompress(data).decode("ascii").split("\n")
        values = json.loads(head)
        return cls(
            run=values["run"],
            settings=values["settings"],
            files=tuple(InputFile(**file) for file in values["files"]),
            shards=tuple(map(Shard.from_json, shards)),
            bad_rows=values["bad_rows"],
            id_kinds=frozenset(values["id_kinds"]),
            replace=values["replace"],
        )


def new_run() -> str:
    """A name for a run."""
    return uuid.uuid4().hex[:8]


class OutputFolder:
    """The output of a run, of which the driver has one. Workers write shards through `write_shard`.

    Args:
        output: Path or URI.
        mode: ``"new"`` refuses to replace anything, ``"resume"`` goes on with what is finished and starts where nothing
            is, ``"overwrite"`` starts afresh and replaces the output at the end (in an object store: at once).

    Attributes:
        place: The output.
        work: Where it is made.
        is_complete: The output is there and nothing is left to do (``"resume"`` only).
        plan: That of the run that is resumed, once `begin` has been called of this one.

    Raises:
        OSError: Something is in the way, or another process is at work.
        ValueError: The plan of the run to resume cannot be read.
    """

    def __init__(self, output: str, mode: Mode) -> None:
        self.place = place_of(output)
        self.mode = mode
        self.plan: Plan | None = None
        self._lock: FolderLock | None = None
        self.work = (
            Place(
                system=self.place.system,
                path=f"{self.place.path.rstrip('/')}.partial",
                shown=f"{self.place.shown.rstrip('/')}.partial",
            )
            if self.place.is_local
            else self.place
        )
        self._check_place()
        # What goes on comes first: it may be about to replace what is there.
        goes_on = self.place.is_local and self._exists(self._plan_place)
        self.is_complete = mode == "resume" and not goes_on and self._exists(self.place.child(SUCCESS))
        if self.is_complete:
            self._remove_run()  # should the run have ended just before
            return
        self._check_free()
        self._make()
        try:
            self.plan = self._read_plan()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others in; a folder without a plan goes."""
        if self._lock is None:
            return
        try:
            if self.plan is None and not self._exists(self._plan_place):
                shutil.rmtree(self.work.path)
        finally:
            self._lock.release()
            self._lock = None

    # ------------------------------------------------------------ opening

    @property
    def _plan_place(self) -> Place:
        return self.work.child(_RUN).child(_PLAN)

    @property
    def store(self) -> str | None:
        """The folder for what is generated of shards that are not finished; None in an object store."""
        return f"{self.work.path}/{_RUN}/{_STORES}" if self.place.is_local else None

    def _exists(self, place: Place) -> bool:
        from pyarrow import fs

        return bool(place.system.get_file_info(place.path).type != fs.FileType.NotFound)

    def _names(self, place: Place) -> list[str]:
        from pyarrow import fs

        infos = place.system.get_file_info(fs.FileSelector(place.path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def _check_place(self) -> None:
        if not self.place.is_local:
            return
        folder = Path(self.place.parent)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}: make it first, or choose another output")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"the folder {folder} is not writable: choose another output")
        for place in (self.place, self.work):
            if self._exists(place) and not Path(place.path).is_dir():
                raise FileExistsError(f"{place.shown} is a file, and --ray writes a folder: choose another output")

    def _check_free(self) -> None:
        """Refuse what is in the way."""
        for place in {self.place.path: self.place, self.work.path: self.work}.values():
            foreign = [name for name in self._names(place) if not _is_own(name)]
            if foreign:
                raise FileExistsError(
                    f"{place.shown} holds {foreign[0]}, which is not from this command: choose another output"
                )
        if self.mode == "new" and self._exists(self._plan_place):
            raise FileExistsError(
                f"{self.work.shown} holds what an earlier run has finished: go on with --resume, or start afresh with "
                "--overwrite"
            )
        replaces = self.mode == "overwrite" or (self.place.is_local and self._exists(self._plan_place))
        if self._exists(self.place.child(SUCCESS)) and not replaces:
            raise FileExistsError(f"{self.place.shown} exists: choose another output, or replace it with --overwrite")

    def _make(self) -> None:
        if self.place.is_local:
            run = Path(self.work.path) / _RUN
            run.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(run)

    def _read_plan(self) -> Plan | None:
        if self.mode != "resume" or not self._exists(self._plan_place):
            return None
        try:
            with self.place.system.open_input_file(self._plan_place.path) as stream:
                return Plan.from_bytes(stream.read())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._plan_place.shown} cannot be read ({error}), so there is no going on: start afresh with "
                "--overwrite"
            ) from error

    # ------------------------------------------------------------ a run

    def check(self, settings: Settings) -> None:
        """Compare settings with those of the run that is resumed.

        Raises:
            ValueError: One differs; it is named.
        """
        if self.plan is not None:
            compare_settings(self.work.shown, self.plan.settings, settings)

    def begin(self, plan: Plan) -> None:
        """Write a new plan down, after everything that was there has been removed."""
        for name in self._names(self.work):
            self._remove(self.work.child(name), sparing_lock=True)
        write_whole(self._plan_place, plan.to_bytes())
        self.plan = plan

    def has_stores(self) -> bool:
        """Whether something was generated for shards that are not finished."""
        return any(map(_has_entries, [] if self.store is None else Path(self.store).glob("*.sqlite")))

    def abandon(self) -> None:
        """Remove what the run has made, of which nothing is finished."""
        for name in self._names(self.work):
            self._remove(self.work.child(name), sparing_lock=True)
        self.plan = None

    def _remove(self, place: Place, *, sparing_lock: bool = False) -> None:
        from pyarrow import fs

        if place.system.get_file_info(place.path).type != fs.FileType.Directory:
            place.system.delete_file(place.path)
        elif sparing_lock and self.place.is_local and place.path.endswith(f"/{_RUN}"):
            for name in self._names(place):
                if name != LOCK_NAME:
                    self._remove(place.child(name))
        else:
            place.system.delete_dir(place.path)

    def finished(self) -> list[int]:
        """The indices of shards of this run that have a file, in order."""
        assert self.plan is not None
        found = (_SHARD.fullmatch(name) for name in self._names(self.work))
        return sorted(int(match[1]) for match in found if match and match[2] == self.plan.run)

    def complete(self, manifest: Mapping[str, Any]) -> None:
        """Put the output in place.

        Args:
            manifest: Goes into it as ``_manifest.json``.

        Raises:
            FileExistsError: Something has appeared there that may not be replaced.
        """
        assert self.plan is not None
        expected = {shard_name(shard.index, self.plan.run) for shard in self.plan.shards}
        there = set(self._names(self.work))
        if expected - there:
            raise FileNotFoundError(
                f"{self.work.shown} lacks {min(expected - there)}, which was finished: it was removed while the run "
                "went on; run again with --resume"
            )
        for name in there - expected - {_RUN}:
            self._remove(self.work.child(name))
        write_whole(self.work.child(MANIFEST), json.dumps(manifest, indent=2).encode("ascii") + b"\n")
        if self.place.is_local:
            self._rename()
        else:
            write_whole(self.place.child(SUCCESS), b"")
            self._remove_run()

    def _rename(self) -> None:
        assert self.plan is not None
        write_whole(self.work.child(SUCCESS), b"")
        work, final = Path(self.work.path), Path(self.place.path)
        old = final.with_name(f".{final.name}.{new_run()}.old")
        if final.exists():
            if any(final.iterdir()) and not self.plan.replace:
                raise FileExistsError(
                    f"{self.place.shown} has appeared since the run began: move it away, then --resume"
                )
            final.rename(old)
        try:
            work.rename(final)
        except BaseException:
            if old.exists():
                old.rename(final)
            raise
        # Only now: without the plan there was no going on.
        self._remove_run()
        for replaced in final.parent.glob(f".{glob.escape(final.name)}.*.old"):
            shutil.rmtree(replaced)

    def _remove_run(self) -> None:
        if self._exists(self.place.child(_RUN)):
            self._remove(self.place.child(_RUN))


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
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_TEMPORARY}")
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


def shard_report(place: Place) -> dict[str, Any] | None:
    """What the end of a shard says of it; None where there is no whole shard.

    Raises:
        OSError: It is there, and cannot be read.
    """
    pyarrow, parquet = import_parquet()
    from pyarrow import fs

    if place.system.get_file_info(place.path).type == fs.FileType.NotFound:
        return None
    try:
        with place.system.open_input_file(place.path) as stream, parquet.ParquetFile(stream) as file:
            said = file.metadata.metadata.get(METADATA_KEY.encode())
            rows = file.metadata.num_rows
    except pyarrow.ArrowInvalid:  # cut off
        return None
    report: dict[str, Any] | None = None if said is None else json.loads(said)
    return report if report is not None and report["rows"] == rows else None


def _has_entries(path: Path) -> bool:
    try:
        with RationaleStore(path, read_only=True) as store:
            return store.info().entries > 0
    except (StoreError, OSError):
        return True  # nobody can tell, so it stays


def _is_own(name: str) -> bool:
    return name in (_RUN, MANIFEST, SUCCESS) or bool(_SHARD.match(name)) or name.endswith(_TEMPORARY)
