"""The output folder while it is made: which run it is of, its plan, its shards, and putting it in place.

On a disk everything is in ``OUTPUT.partial``, which becomes OUTPUT by one rename when it is complete. An object store
has no renames of folders: there everything is in OUTPUT from the beginning, and ``_SUCCESS`` is written last. Each
file is whole or not there.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grace_st.bulk.lock import LOCK_NAME, FolderLock
from grace_st.bulk.resuming import Mode, Settings, compare_settings
from grace_st.scale.files import Place, place_of
from grace_st.scale.plan import Plan, new_run
from grace_st.scale.shards import shard_name
from grace_st.scale.writing import TEMPORARY, write_whole
from grace_st.store import RationaleStore, StoreError

SUCCESS = "_SUCCESS"
MANIFEST = "_manifest.json"
RUN = "_run"
"""What the output holds only while it is made: the plan, the lock, stores, and how often shards were tried."""

_PLAN, _STORES = "plan.json.gz", "store"
_SHARD = re.compile(r"shard-(\d{6,})-([0-9a-f]{8})\.parquet")


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
        goes_on = self.place.is_local and self._plan_place.exists()
        self.is_complete = mode == "resume" and not goes_on and self.place.child(SUCCESS).exists()
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
            if self.plan is None and not self._plan_place.exists():
                shutil.rmtree(self.work.path)
        finally:
            self._lock.release()
            self._lock = None

    # ------------------------------------------------------------ opening

    @property
    def _plan_place(self) -> Place:
        return self.work.child(RUN).child(_PLAN)

    @property
    def store(self) -> str | None:
        """The folder for what is generated of shards that are not finished; None in an object store."""
        return f"{self.work.path}/{RUN}/{_STORES}" if self.place.is_local else None

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
            if place.exists() and not Path(place.path).is_dir():
                raise FileExistsError(f"{place.shown} is a file, and --ray writes a folder: choose another output")

    def _check_free(self) -> None:
        """Refuse what is in the way."""
        for place in {self.place.path: self.place, self.work.path: self.work}.values():
            foreign = [name for name in self._names(place) if not _is_own(name)]
            if foreign:
                raise FileExistsError(
                    f"{place.shown} holds {foreign[0]}, which is not from this command: choose another output"
                )
        if self.mode == "new" and self._plan_place.exists():
            raise FileExistsError(
                f"{self.work.shown} holds what an earlier run has finished: go on with --resume, or start afresh with "
                "--overwrite"
            )
        replaces = self.mode == "overwrite" or (self.place.is_local and self._plan_place.exists())
        if self.place.child(SUCCESS).exists() and not replaces:
            raise FileExistsError(f"{self.place.shown} exists: choose another output, or replace it with --overwrite")

    def _make(self) -> None:
        if self.place.is_local:
            run = Path(self.work.path) / RUN
            run.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(run)

    def _read_plan(self) -> Plan | None:
        if self.mode != "resume" or not self._plan_place.exists():
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
        elif sparing_lock and self.place.is_local and place.path.endswith(f"/{RUN}"):
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
        for name in there - expected - {RUN}:
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
        if self.place.child(RUN).exists():
            self._remove(self.place.child(RUN))


def _has_entries(path: Path) -> bool:
    try:
        with RationaleStore(path, read_only=True) as store:
            return store.info().entries > 0
    except (StoreError, OSError):
        return True  # nobody can tell, so it stays


def _is_own(name: str) -> bool:
    return name in (RUN, MANIFEST, SUCCESS) or bool(_SHARD.match(name)) or name.endswith(TEMPORARY)
