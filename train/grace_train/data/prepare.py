"""From a source to its store: every row is read and checked, once, and found again by later runs.

1. The key of the copy: what tells the source from others (path, size, time of change, ...), its fields, the mode.
2. Is there a copy of this key, open it.
3. Otherwise read all rows into a folder beside it, and rename that at the end: a copy is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tqdm.auto import tqdm

from grace_st.bulk.rows import BadRow, InputError, Record
from grace_train.data.config import DataConfig, Mode, OnBadRow, SourceConfig
from grace_train.data.instances import BadRecordError, RecordParser
from grace_train.data.readers import RecordSource, open_source
from grace_train.data.store import RowStore, RowWriter, StoreFacts

_LAYOUT = 1
"""Counted up when the files of a store, or what parsing makes of a record, change."""

_ABANDONED_S = 24 * 3600


def cache_folder(cache: str | None = None) -> Path:
    """Where copies go: the folder that is given, or ``grace-st/data`` in the user's cache (``XDG_CACHE_HOME``)."""
    if cache is not None:
        return Path(cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG standard says that a relative path is to be ignored.
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "grace-st" / "data"


def prepare_source(config: SourceConfig, data: DataConfig, mode: Mode) -> RowStore:
    """The store of a source, made if it is not there.

    Args:
        config: The source, as `DataConfig.source` gives it.
        data: What to do with bad rows, and where the copy goes.
        mode: What the rows are for.

    Raises:
        InputError: The source cannot be used, or has a bad row that is not to be left out.
        OSError: It cannot be read, or the copy not be written.
    """
    source = open_source(config, mode)
    root = cache_folder(data.cache)
    folder = root / _key(source, config, mode)
    if not folder.is_dir():
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"the folder of copies {root} is a file, or in one: name another with data.cache"
            ) from error
        _remove_abandoned(root)
        _write(source, config, data.on_bad_row, mode, folder)
    store = RowStore(folder)
    _check(config.path, store.facts, data.on_bad_row)
    return store


def _key(source: RecordSource, config: SourceConfig, mode: Mode) -> str:
    parts = {
        "layout": _LAYOUT,
        "mode": mode,
        "fields": [config.query_field, config.positive_field, config.negative_field, config.text_field],
        **source.identity(),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _write(source: RecordSource, config: SourceConfig, on_bad_row: OnBadRow, mode: Mode, folder: Path) -> None:
    before = source.identity()
    partial = folder.with_name(f"{folder.name}.partial-{secrets.token_hex(8)}")
    partial.mkdir()
    try:
        parser = RecordParser(config, mode)
        with RowWriter(partial, StoreFacts(mode=mode)) as writer:
            _read(config.path, source.records(parser.check_columns), parser, writer, on_bad_row)
        if source.identity() != before:
            raise InputError(f"{config.path} changed while it was read: leave it alone, and run again")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            # Another process made the same copy in the meantime.
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(
    path: str, records: Iterable[Record | BadRow], parser: RecordParser, writer: RowWriter, on_bad_row: OnBadRow
) -> None:
    facts = writer.facts
    for record in tqdm(records, f"Reading {path}", unit="row", disable=None, leave=False, dynamic_ncols=True):
        problem = record.problem if isinstance(record, BadRow) else None
        if isinstance(record, Record):
            try:
                writer.add(record.number, parser.parse(record.values))
            except BadRecordError as error:
                problem = str(error)
        if problem is not None:
            facts.bad_rows += 1
            facts.first_bad_row = facts.first_bad_row or f"{record.place}: {problem}"
            _check(path, facts, on_bad_row)
    if not writer.count and not facts.bad_rows:
        raise InputError(f"{path} has no rows: check that it is the right file")
    if not writer.count:
        raise InputError(f"{path}: none of the {facts.bad_rows} rows can be used; {facts.first_bad_row}")
    parser.finish()


def _check(path: str, facts: StoreFacts, on_bad_row: OnBadRow) -> None:
    if facts.bad_rows and on_bad_row == "error":
        raise InputError(
            f"{path}: {facts.first_bad_row}; correct it (`grace-st data check` lists all such rows), or leave such "
            "rows out and count them with data.on_bad_row=skip"
        )


def _remove_abandoned(root: Path) -> None:
    """Remove what processes that were killed left behind."""
    for partial in root.glob("*.partial-*"):
        with suppress(FileNotFoundError):  # another process may just have finished it
            if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(partial, ignore_errors=True)
