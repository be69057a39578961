"""Readers: the records of a file or a stream, one at a time, bad ones marked and not raised.

`Source.records` knows formats; `Source.rows` makes ids and texts of the records, for encoding. A blank line of plain
text is an empty text. Blank lines of JSONL and CSV hold no row and are passed over.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from grace_st.bulk.formats import COMPRESSED, InputFormat, import_parquet
from grace_st.bulk.rows import BadRow, InputError, Record, Row, kind_of, listed, parse_json, row_of

ColumnCheck = Callable[[list[str]], list[str]]
"""Given the columns that a file has, refuses what is wrong with them and returns those that are wanted."""

MAX_CSV_FIELD = 64 * 1024 * 1024
"""Longest field of a CSV file in characters. A quote that is never closed must not take the whole file in."""

_PARQUET_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Source:
    """An input.

    Attributes:
        path: The file; None is standard input.
        format: How it is read.
        field: Where the text is; plain text has no fields.
        id_field: Where the id is; the running row number from 0 if None.
    """

    path: Path | None
    format: InputFormat
    field: str = "text"
    id_field: str | None = None

    @property
    def name(self) -> str:
        """The name for messages."""
        return "standard input" if self.path is None else str(self.path)

    @property
    def is_stream(self) -> bool:
        """Whether it can be read only once: standard input, a pipe."""
        return self.path is None or (self.path.exists() and not self.path.is_file())

    def check(self) -> None:
        """Refuse what can be refused before anything is read.

        Raises:
            FileNotFoundError: There is no such file.
            IsADirectoryError: It is a folder.
            ValueError: The format cannot be read from there, or pyarrow is missing.
        """
        if self.path is not None and not self.path.exists():
            raise FileNotFoundError(f"there is no file {self.path}")
        if self.path is not None and self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder: name a file")
        if self.format == "text" and self.id_field is not None:
            raise ValueError("plain text has no fields, so --id-field has no meaning: leave it out")
        if self.format == "parquet":
            import_parquet()
            if self.is_stream:
                raise ValueError(f"Parquet cannot be read from {self.name}, which is a stream: name a file")

    def rows(self) -> Iterator[Row | BadRow]:
        """The rows, each read when it is asked for.

        Raises:
            InputError: The file as a whole is not what its format says.
            OSError: It cannot be read.
        """
        for record in self.records(self._check_columns):
            yield record if isinstance(record, BadRow) else self._row(record)

    def records(self, check_columns: ColumnCheck) -> Iterator[Record | BadRow]:
        """The records, each read when it is asked for. Those of plain text have one value, named by ``field``.

        Args:
            check_columns: Called with the columns of a CSV or Parquet file; of Parquet, only those that it returns
                are read. JSON lines have no columns: each may have other fields.

        Raises:
            InputError: The file as a whole is not what its format says.
            OSError: It cannot be read.
        """
        if self.format == "parquet":
            yield from self._parquet_records(check_columns)
            return
        with self._open() as stream:
            lines = Lines(stream)
            if self.format == "text":
                yield from self._text_records(lines)
            elif self.format == "jsonl":
                yield from self._json_records(lines)
            else:
                yield from self._csv_records(lines, check_columns, delimiter="," if self.format == "csv" else "\t")

    def _row(self, record: Record) -> Row | BadRow:
        row = row_of(record.values, record.number, self.field, self.id_field)
        return BadRow(record.place, row) if isinstance(row, str) else row

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if self.path is None:
            yield sys.stdin.buffer
            return
        compressed = self.path.suffix.lower() == COMPRESSED
        try:
            with gzip.open(self.path) if compressed else self.path.open("rb") as stream:
                yield stream  # type: ignore[misc]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self.path} is no complete gzip file ({error}): make it anew") from error

    def _text_records(self, lines: Lines) -> Iterator[Record | BadRow]:
        for number, line in enumerate(lines):
            problem = lines.take_problem()
            if problem is not None:
                yield BadRow(f"row {number}", problem)
            else:
                yield Record(number, f"row {number}", {self.field: line.removesuffix("\n").removesuffix("\r")})

    def _json_records(self, lines: Lines) -> Iterator[Record | BadRow]:
        number = 0
        for line in lines:
            if not line.strip():
                continue
            yield json_record(lines, line, number, self.field)
            number += 1

    def _csv_records(self, lines: Lines, check_columns: ColumnCheck, delimiter: str) -> Iterator[Record | BadRow]:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CSV_FIELD))
        records = csv.reader(lines, delimiter=delimiter, strict=True)
        header = self._csv_header(records, lines)
        if header:
            check_columns(header)
        number, last_line = 0, lines.number
        while True:
            try:
                values, problem = next(records), None
            except StopIteration:
                return
            except csv.Error as error:
                values, problem = [], f"not valid {self.format.upper()}: {error}"
            problem = lines.take_problem() or problem
            place = f"row {number} (line {last_line + 1})"
            last_line = lines.number
            if problem is None and not values:
                continue
            if problem is None and len(values) != len(header):
                problem = f"has {len(values)} values, and the header has {len(header)}"
            if problem is None:
                yield Record(number, place, dict(zip(header, values, strict=True)))
            else:
                yield BadRow(place, problem)
            number += 1

    def _csv_header(self, records: Iterator[list[str]], lines: Lines) -> list[str]:
        try:
            header = next((values for values in records if values), [])
            problem = lines.take_problem()
        except csv.Error as error:
            problem = f"the header is not valid {self.format.upper()}: {error}"
        if problem is not None:
            raise InputError(f"{self.name}: line {lines.number}: {problem}")
        return header

    def _check_columns(self, columns: list[str]) -> list[str]:
        return wanted_columns(columns, self.name, self.field, self.id_field)

    def _parquet_records(self, check_columns: ColumnCheck) -> Iterator[Record | BadRow]:
        pyarrow, parquet = import_parquet()
        try:
            with parquet.ParquetFile(self.path, pre_buffer=False) as file:
                wanted = check_columns(file.schema_arrow.names)
                number = 0
                for batch in file.iter_batches(_PARQUET_BATCH, columns=wanted):
                    for index in range(batch.num_rows):
                        yield parquet_record(batch, index, number)
                        number += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{self.name} is no readable Parquet file ({error}): make it anew") from error


def wanted_columns(columns: list[str], name: str, field: str, id_field: str | None) -> list[str]:
    """Those that hold texts and ids.

    Raises:
        InputError: One is missing, or there twice.
    """
    for wanted, option in ((field, "--field"), (id_field, "--id-field")):
        if wanted is not None and columns.count(wanted) != 1:
            trouble = "no column" if wanted not in columns else "more than one column"
            raise InputError(f"{name} has {trouble} {wanted!r} ({listed(columns)}): name one with {option}")
    return [field] if id_field is None or id_field == field else [field, id_field]


def json_record(lines: Lines, line: str, number: int, field: str) -> Record | BadRow:
    """The record of a line of JSON that has just been read from ``lines``."""
    place = f"row {number} (line {lines.number})"
    problem = lines.take_problem()
    if problem is not None:
        return BadRow(place, problem)
    try:
        record = parse_json(line)
    except ValueError as error:
        return BadRow(place, f"not valid JSON: {error}")
    if not isinstance(record, dict):
        what = "a string" if isinstance(record, str) else kind_of(record)
        return BadRow(place, f"must be a JSON object with the field {field!r}, got {what}")
    return Record(number, place, record)


def parquet_record(batch: Any, index: int, number: int) -> Record | BadRow:
    """The record at an index of a record batch."""
    place = f"row {number}"
    try:
        return Record(number, place, {name: batch.column(name)[index].as_py() for name in batch.schema.names})
    except UnicodeDecodeError as error:
        return BadRow(place, f"not valid UTF-8: {error.reason}")


class Lines:
    """The lines of a binary stream as text, with their ends.

    Only a line feed ends a line: texts may hold the other separators that Unicode knows. A line that is not UTF-8 is
    given with replacements, and `take_problem` tells.

    Args:
        stream: The lines.
        number: How many came before them.
    """

    def __init__(self, stream: Iterable[bytes], number: int = 0) -> None:
        self.number = number
        self._stream = iter(stream)
        self._problem: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._stream)
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self._problem = self._problem or (
                f"line {self.number} is not valid UTF-8 (byte 0x{line[error.start]:02x} at place {error.start + 1})"
            )
            return line.decode("utf-8", "replace")

    def take_problem(self) -> str | None:
        """What was wrong with the lines since the last call."""
        problem, self._problem = self._problem, None
        return problem
