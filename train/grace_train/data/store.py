"""Rows on disk, read through memory maps: texts in an Arrow file, their keys in plain arrays beside it.

Knows rows, not where they come from. A folder is complete when it has its final name.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grace_st.bulk.formats import import_parquet
from grace_train.data.config import Mode
from grace_train.data.instances import Example

ROWS_PER_BATCH = 1024
_CHARACTERS_PER_BATCH = 8_000_000  # so that a few very long rows do not make a huge batch in memory

_ROWS_KEPT_MAPPED = 32

_ROWS, _KEYS, _OFFSETS, _STARTS, _FACTS = "rows.arrow", "keys.u64", "offsets.i64", "starts.i64", "facts.json"
_KEY_TYPE, _OFFSET_TYPE = np.dtype("<u8"), np.dtype("<i8")


@dataclass(kw_only=True)
class StoreFacts:
    """What is known of a store beside its rows.

    Attributes:
        mode: What its rows are for.
        rows: How many rows it has.
        bad_rows: How many were left out.
        first_bad_row: Place and problem of the first of them.
        empty_negatives: Negatives left out for being empty.
        false_negatives: Negatives left out for being the query or a positive of their row.
    """

    mode: Mode
    rows: int = 0
    bad_rows: int = 0
    first_bad_row: str = ""
    empty_negatives: int = 0
    false_negatives: int = 0


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of a store.

    Attributes:
        number: Its number in its file, from 0.
        query: The query, or the text.
        positives: One or more; none in an unsupervised store.
        negatives: Perhaps none.
    """

    number: int
    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


@dataclass
class RowStore:
    """The rows of one source. Takes no memory of its own to speak of: the files are mapped.

    Args:
        folder: Written by `RowWriter`.
    """

    folder: Path
    facts: StoreFacts = field(init=False)

    def __post_init__(self) -> None:
        self.facts = StoreFacts(**json.loads((self.folder / _FACTS).read_text(encoding="utf-8")))
        self._starts = np.fromfile(self.folder / _STARTS, _OFFSET_TYPE)
        self._rows_read = 0

    def __len__(self) -> int:
        return self.facts.rows

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """`text_key` of the query and the positives of all rows, one row after the other."""
        return np.memmap(self.folder / _KEYS, _KEY_TYPE, mode="r").view(np.ndarray)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """``[rows + 1]``: where the keys of each row begin; the first of a row is the query's."""
        return np.memmap(self.folder / _OFFSETS, _OFFSET_TYPE, mode="r").view(np.ndarray)

    @cached_property
    def _map(self) -> mmap.mmap:
        with (self.folder / _ROWS).open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _batches(self) -> Any:
        pyarrow, _ = import_parquet()
        return pyarrow.ipc.open_file(pyarrow.BufferReader(pyarrow.py_buffer(self._map)))

    def keys_of(self, index: int) -> list[int]:
        """The keys of a row."""
        start, end = self.offsets[index : index + 2]
        found: list[int] = self.keys[start:end].tolist()
        return found

    def row(self, index: int) -> StoredRow:
        """A row by its index in the store."""
        self._rows_read += 1
        if self._rows_read % _ROWS_KEPT_MAPPED == 0:
            # Reading here and there maps the whole file in the end, which counts as this process's memory. The pages
            # stay in the system's cache, as far as it has room.
            self._map.madvise(mmap.MADV_DONTNEED)
        batch_index = int(np.searchsorted(self._starts, index, side="right")) - 1
        batch = self._batches.get_batch(batch_index)
        number, query, positives, negatives = (
            column[index - int(self._starts[batch_index])].as_py() for column in batch.columns
        )
        return StoredRow(number, query, tuple(positives), tuple(negatives))


class RowWriter:
    """Writes a store, a batch of rows at a time.

    Args:
        folder: An empty folder.
        facts: Completed and written at the end.
    """

    def __init__(self, folder: Path, facts: StoreFacts) -> None:
        pyarrow, _ = import_parquet()
        self.facts = facts
        self._folder = folder
        texts = pyarrow.list_(pyarrow.string())
        self._schema = pyarrow.schema(
            {"number": pyarrow.int64(), "query": pyarrow.string(), "positives": texts, "negatives": texts}
        )
        self._record_batch = pyarrow.record_batch
        self._arrow = pyarrow.ipc.new_file(str(folder / _ROWS), self._schema)
        self._keys, self._offsets, self._starts = ((folder / name).open("wb") for name in (_KEYS, _OFFSETS, _STARTS))
        self._pending: list[tuple[int, Example]] = []
        self._characters = self._key_count = 0
        self.count = 0

    def add(self, number: int, example: Example) -> None:
        """Add a row."""
        self._pending.append((number, example))
        self.count += 1
        self._characters += sum(map(len, (example.query, *example.positives, *example.negatives)))
        self.facts.empty_negatives += example.empty_negatives
        self.facts.false_negatives += example.false_negatives
        if len(self._pending) >= ROWS_PER_BATCH or self._characters >= _CHARACTERS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        examples = [example for _, example in self._pending]
        columns: Mapping[str, Sequence[Any]] = {
            "number": [number for number, _ in self._pending],
            "query": [example.query for example in examples],
            "positives": [example.positives for example in examples],
            "negatives": [example.negatives for example in examples],
        }
        self._arrow.write_batch(self._record_batch(columns, schema=self._schema))
        counts = np.array([len(example.keys) for example in examples])
        self._starts.write(np.array([self.facts.rows], _OFFSET_TYPE).tobytes())
        self._keys.write(np.array([key for example in examples for key in example.keys], _KEY_TYPE).tobytes())
        first_keys = self._key_count + np.cumsum(counts) - counts
        self._offsets.write(first_keys.astype(_OFFSET_TYPE).tobytes())
        self._key_count += int(counts.sum())
        self.facts.rows += len(examples)
        self._pending, self._characters = [], 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
            self._offsets.write(np.array([self._key_count], _OFFSET_TYPE).tobytes())
            facts = json.dumps(asdict(self.facts), ensure_ascii=False, indent=2)
            (self._folder / _FACTS).write_text(facts + "\n", encoding="utf-8")
        for stream in (self._arrow, self._keys, self._offsets, self._starts):
            stream.close()
