"""What there is to know of training data before a run: every row read, bad ones listed, texts measured.

Keeps a few bytes for each text, never the texts.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from grace_st.bulk.rows import BadRow, InputError, Record
from grace_train.data.config import Mode, SourceConfig
from grace_train.data.instances import BadRecordError, Example, OptionName, RecordParser, data_option
from grace_train.data.readers import open_source

LISTED_BAD_ROWS = 10
LISTED_SOURCES = 20

_SOURCE_FIELD = "source"
_MOST_SOURCES = 10_000
_MOST_FIELDS = 100
_TEXTS_AT_ONCE = 1024

CountTokens = Callable[[Sequence[str]], Sequence[int]]
"""The length of each text's whole prompt in tokens, before anything is truncated."""


@dataclass(frozen=True, kw_only=True)
class TokenLimit:
    """How texts are measured in tokens.

    Attributes:
        count: Measures some texts.
        most: ``max_seq_length``, what a prompt has room for.
    """

    count: CountTokens
    most: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How numbers are spread."""

    median: int
    p95: int
    max: int

    @classmethod
    def of(cls, numbers: array[int]) -> Spread:
        """Of one or more numbers."""
        median, p95 = np.quantile(np.frombuffer(numbers, np.uint32), (0.5, 0.95), method="higher")
        return cls(median=int(median), p95=int(p95), max=max(numbers))


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the texts of one role are.

    Attributes:
        texts: How many there are.
        characters: Their lengths.
        tokens: Lengths of their prompts, template included; None without a model.
        too_long: How many prompts exceed ``max_seq_length``, so that their texts are cut.
    """

    texts: int
    characters: Spread
    tokens: Spread | None
    too_long: int | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a check has found.

    Attributes:
        path: What was checked.
        mode: For which training.
        rows: All rows.
        bad_rows: Those that cannot be used.
        first_bad_rows: The first of them.
        texts_per_row: ``positives`` and ``negatives``, over usable rows.
        rows_without_negatives: Usable rows that have none.
        lengths: By role: ``query``, ``positive`` and ``negative``, or ``text``.
        duplicates: By role except ``negative``: how many texts are there a second time, or more often.
        query_is_positive: Rows whose query is one of their positives.
        false_negatives: Negatives left out for being the query or a positive of their row.
        empty_negatives: Negatives left out for being empty.
        sources: Rows by their field ``source``, the most frequent ones first.
        source_count: How many different ones there are; None where there are too many to be counted.
        unread_fields: What rows have besides, and training does not read; by name.
        max_seq_length: Of the model; None without one.
    """

    path: str
    mode: Mode
    rows: int
    bad_rows: int
    first_bad_rows: tuple[BadRow, ...]
    texts_per_row: dict[str, Spread]
    rows_without_negatives: int
    lengths: dict[str, Lengths]
    duplicates: dict[str, int]
    query_is_positive: int
    false_negatives: int
    empty_negatives: int
    sources: dict[str, int]
    source_count: int | None
    unread_fields: tuple[str, ...]
    max_seq_length: int | None


def check_source(
    config: SourceConfig, mode: Mode, *, limit: TokenLimit | None = None, option_name: OptionName = data_option
) -> Report:
    """Read a whole source and report on it.

    Args:
        config: The source.
        mode: What it is to be used for.
        limit: Measures texts in tokens as well.
        option_name: How messages name a setting.

    Raises:
        InputError: The source as a whole cannot be used: it is not there, has no rows, or lacks a column.
    """
    parser = RecordParser(config, mode, option_name)
    counts = _Counts(limit)

    def wanted(columns: list[str]) -> list[str]:
        counts.add_fields(columns)
        return list(dict.fromkeys([*parser.check_columns(columns), *({_SOURCE_FIELD} & set(columns))]))

    records = open_source(config, mode, option_name).records(wanted)
    for record in tqdm(records, f"Checking {config.path}", unit="row", disable=None, leave=False, dynamic_ncols=True):
        counts.rows += 1
        if isinstance(record, BadRow):
            counts.add_bad(record)
            continue
        counts.add_fields(record.values)
        try:
            example = parser.parse(record.values)
        except BadRecordError as error:
            counts.add_bad(BadRow(record.place, str(error)))
            continue
        counts.add(record, example, mode)
    if not counts.rows:
        raise InputError(f"{config.path} has no rows: check that it is the right file")
    if counts.bad < counts.rows:
        parser.finish()
    return counts.report(config.path, mode, parser.fields)


@dataclass
class _Texts:
    """The texts of one role."""

    limit: TokenLimit | None
    keys: array[int] = field(default_factory=lambda: array("Q"))
    characters: array[int] = field(default_factory=lambda: array("I"))
    tokens: array[int] = field(default_factory=lambda: array("I"))
    pending: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.characters.append(len(text))
        if self.limit is not None:
            self.pending.append(text)
            if len(self.pending) >= _TEXTS_AT_ONCE:
                self.count_tokens(self.limit)

    def count_tokens(self, limit: TokenLimit) -> None:
        self.tokens.extend(limit.count(self.pending))
        self.pending = []

    def lengths(self) -> Lengths:
        tokens = too_long = None
        if self.limit is not None:
            self.count_tokens(self.limit)
            tokens, too_long = Spread.of(self.tokens), sum(count > self.limit.most for count in self.tokens)
        return Lengths(
            texts=len(self.characters), characters=Spread.of(self.characters), tokens=tokens, too_long=too_long
        )

    def duplicates(self) -> int:
        ordered = np.sort(np.frombuffer(self.keys, np.uint64))
        return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


class _Counts:
    """What is counted row by row."""

    def __init__(self, limit: TokenLimit | None) -> None:
        self.rows = self.bad = 0
        self._limit = limit
        self._first_bad: list[BadRow] = []
        self._texts: dict[str, _Texts] = {}
        self._per_row = {"positives": array("I"), "negatives": array("I")}
        self._query_is_positive = self._false_negatives = self._empty_negatives = 0
        self._sources: Counter[str] | None = Counter()
        self._fields: set[str] = set()

    def add_fields(self, names: Iterable[str]) -> None:
        if len(self._fields) < _MOST_FIELDS:
            self._fields.update(names)

    def add_bad(self, row: BadRow) -> None:
        self.bad += 1
        if self.bad <= LISTED_BAD_ROWS:
            self._first_bad.append(row)

    def add(self, record: Record, example: Example, mode: Mode) -> None:
        source = record.values.get(_SOURCE_FIELD)
        if self._sources is not None and isinstance(source, str):
            self._sources[source] += 1
            if len(self._sources) > _MOST_SOURCES:
                self._sources = None
        if mode == "unsupervised":
            self._add_texts("text", (example.query,), example.keys)
            return
        is_positive = len(example.keys) == len(example.positives)
        self._query_is_positive += is_positive
        self._add_texts("query", (example.query,), example.keys[:1])
        self._add_texts("positive", example.positives, example.keys if is_positive else example.keys[1:])
        self._add_texts("negative", example.negatives)
        self._per_row["positives"].append(len(example.positives))
        self._per_row["negatives"].append(len(example.negatives))
        self._false_negatives += example.false_negatives
        self._empty_negatives += example.empty_negatives

    def _add_texts(self, role: str, texts: Sequence[str], keys: Sequence[int] = ()) -> None:
        known = self._texts.setdefault(role, _Texts(self._limit))
        known.keys.extend(keys)
        for text in texts:
            known.add(text)

    def report(self, path: str, mode: Mode, read: frozenset[str]) -> Report:
        return Report(
            path=path,
            mode=mode,
            rows=self.rows,
            bad_rows=self.bad,
            first_bad_rows=tuple(self._first_bad),
            texts_per_row={role: Spread.of(numbers) for role, numbers in self._per_row.items() if numbers},
            rows_without_negatives=self._per_row["negatives"].count(0),
            lengths={role: texts.lengths() for role, texts in self._texts.items() if texts.characters},
            duplicates={role: texts.duplicates() for role, texts in self._texts.items() if texts.keys},
            query_is_positive=self._query_is_positive,
            false_negatives=self._false_negatives,
            empty_negatives=self._empty_negatives,
            sources=dict(() if self._sources is None else self._sources.most_common(LISTED_SOURCES)),
            source_count=None if self._sources is None else len(self._sources),
            unread_fields=tuple(sorted(self._fields - read - {_SOURCE_FIELD})) if self.bad < self.rows else (),
            max_seq_length=None if self._limit is None else self._limit.most,
        )


def as_json(report: Report) -> dict[str, Any]:
    """A report as JSON has it."""
    return asdict(report)
