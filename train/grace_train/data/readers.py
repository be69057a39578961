"""Where records come from: files, folders saved by ``datasets``, data sets of the hub, and the bundled data."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from grace_st.bulk.formats import COMPRESSED, INPUT_FORMATS, InputFormat, input_format_of
from grace_st.bulk.readers import ColumnCheck, Source
from grace_st.bulk.rows import BadRow, InputError, Record
from grace_train.data.bundled import bundled_records
from grace_train.data.config import BUNDLED, Mode, SourceConfig
from grace_train.data.instances import OptionName, data_option

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>\w[\w./-]*))?")
"""``owner/name``, or ``owner/name@revision`` with a branch, a tag or a commit."""

_FILE_SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", COMPRESSED)
_ARROW_BATCH = 512


class MissingDatasetsError(ImportError, ValueError):
    """The package ``datasets``, which reads data sets, is not installed."""


class RecordSource(Protocol):
    """Records that can be read more than once."""

    def identity(self) -> dict[str, Any]:
        """What tells these records from others without reading them; JSON-able."""
        ...

    def records(self, check_columns: ColumnCheck) -> Iterator[Record | BadRow]:
        """The records, see `grace_st.bulk.readers.Source.records`.

        Raises:
            InputError: The source as a whole cannot be used.
        """
        ...


def open_source(config: SourceConfig, mode: Mode, option_name: OptionName = data_option) -> RecordSource:
    """The records that a source names. Nothing is read yet but what tells that it is there.

    Args:
        config: The source.
        mode: What is trained: the bundled data differ, and plain text has no queries.
        option_name: How messages name a setting.

    Raises:
        InputError: There is no such file, folder or data set, or its format cannot be told.
        MissingDatasetsError: The package ``datasets`` is not installed.
    """
    if config.path == BUNDLED:
        return _Bundled(mode)
    path = Path(config.path).expanduser()
    if path.is_dir():
        return _saved_dataset(path, config, option_name)
    if path.exists():
        return _file(path, config, mode, option_name)
    on_hub = _HUB_NAME.fullmatch(config.path)
    suffixes = {part.suffix.lower() for part in (path, Path(config.path.partition("@")[0]))}
    if on_hub is None or config.path.startswith(".") or suffixes & set(_FILE_SUFFIXES):
        what = "correct the path"
        if "@" in config.path:
            what += ", or name a data set on the hub as owner/name@revision, with a branch, a tag or a commit"
        raise InputError(f"there is no file or folder {config.path}: {what}")
    return _hub_dataset(on_hub["name"], on_hub["revision"], config)


def _file(path: Path, config: SourceConfig, mode: Mode, option_name: OptionName) -> RecordSource:
    if not path.is_file():
        raise InputError(f"{path} is a stream, which can be read only once: name a file")
    format_: InputFormat
    try:
        format_ = config.format or input_format_of(path)
    except ValueError:
        raise InputError(
            f"cannot tell the format of {path} by its name: name it with "
            f"{option_name('format', '...')} ({', '.join(INPUT_FORMATS)})"
        ) from None
    if format_ == "text" and mode == "supervised":
        raise InputError(
            f"{path} is plain text, one text a line, and supervised training needs queries and positives: "
            "give JSON lines, CSV or Parquet, or train unsupervised"
        )
    field = config.text_field or "text" if mode == "unsupervised" else config.query_field or "query"
    source = Source(path=path, format=format_, field=field)
    source.check()
    return _File(source)


@dataclass(frozen=True)
class _File:
    source: Source

    def identity(self) -> dict[str, Any]:
        path = self.source.path
        assert path is not None
        state = path.stat()
        return {
            "file": str(path.resolve()),
            "size": state.st_size,
            "changed": state.st_mtime_ns,
            "format": self.source.format,
        }

    def records(self, check_columns: ColumnCheck) -> Iterator[Record | BadRow]:
        is_text = self.source.format == "text"
        for record in self.source.records(check_columns):
            if is_text and isinstance(record, Record) and not record.values[self.source.field].strip():
                continue  # a blank line separates texts, and is none
            yield record


@dataclass(frozen=True)
class _Dataset:
    """A table of the ``datasets`` library, which is an Arrow file on disk."""

    table: Any
    known_as: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        return self.known_as

    def records(self, check_columns: ColumnCheck) -> Iterator[Record | BadRow]:
        wanted = check_columns(list(self.table.column_names))
        number = 0
        for batch in self.table.select_columns(wanted).with_format("arrow").iter(_ARROW_BATCH):
            for values in batch.to_pylist():
                yield Record(number, f"row {number}", values)
                number += 1


def _saved_dataset(folder: Path, config: SourceConfig, option_name: OptionName) -> RecordSource:
    if not any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        raise InputError(
            f"{folder} is a folder without a data set saved by datasets (dataset_info.json): name a file in it"
        )
    datasets = _import_datasets()
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} cannot be loaded as a data set ({error}): save it anew") from error
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    known_as: dict[str, Any] = {"folder": str(folder.resolve()), "files": state}
    if isinstance(loaded, datasets.DatasetDict):
        split = config.split or "train"
        if split not in loaded:
            raise InputError(
                f"{folder} has the splits {', '.join(loaded)}, not {split}: name one with "
                f"{option_name('split', next(iter(loaded), '...'))}"
            )
        loaded, known_as["split"] = loaded[split], split
    return _Dataset(loaded, known_as)


def _hub_dataset(name: str, revision: str | None, config: SourceConfig) -> RecordSource:
    datasets = _import_datasets()
    split = config.split or "train"
    try:
        table = datasets.load_dataset(name, config.subset, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"there is no file or folder {config.path}, and the data set of this name could not be loaded from the "
            f"hub: {said}"
        ) from error
    # The fingerprint follows the revision that was downloaded.
    known_as = {"dataset": config.path, "subset": config.subset, "split": split, "fingerprint": table._fingerprint}
    return _Dataset(table, known_as)


def _import_datasets() -> Any:
    try:
        importlib.import_module("datasets.exceptions")
        return importlib.import_module("datasets")
    except ImportError as error:
        raise MissingDatasetsError("data sets need the package datasets: pip install 'grace-st[train]'") from error


@dataclass(frozen=True)
class _Bundled:
    """The data of grace-nano."""

    mode: Mode

    @cached_property
    def _all(self) -> list[Record]:
        return bundled_records(self.mode)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.blake2b(repr(self._all).encode(), digest_size=16)
        return {"bundled": digest.hexdigest()}

    def records(self, check_columns: ColumnCheck) -> Iterator[Record | BadRow]:
        check_columns(list(self._all[0].values))
        yield from self._all
