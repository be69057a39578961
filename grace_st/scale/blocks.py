"""Blocks: rows of a file that lie one after another, found by reading it once, and read again by place.

Shards are made of blocks. The first reading checks every row; the second compares a block with what was found then.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from grace_st.bulk.chunks import id_kind
from grace_st.bulk.formats import import_parquet
from grace_st.bulk.readers import Lines, json_record, parquet_record, wanted_columns
from grace_st.bulk.rows import BadRow, InputError, Record, Row, digest_of, row_of
from grace_st.scale.files import InputFile

MOST_ROWS = 1024
"""Of a block. Fewer, and the plan of a large corpus is long; more, and reading begins far before what is wanted."""

_PARQUET_BATCH = 512


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a file.

    Attributes:
        first: The number of its first row in the file, from 0.
        offset: Where that begins, in bytes of the uncompressed file; 0 in Parquet.
        line: How many lines are before it; 0 in Parquet.
        rows: How many good rows; bad ones may lie among them.
        digest: Hash of their ids and texts.
    """

    first: int
    offset: int
    line: int
    rows: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """What a file holds.

    Attributes:
        blocks: Its good rows.
        bad_rows: How many others.
        id_kinds: The kinds of the ids, see `grace_st.bulk.chunks.id_kind`.
    """

    blocks: tuple[Block, ...]
    bad_rows: int
    id_kinds: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A row, good or bad, with what a block that begins there needs to know."""

    row: Row | BadRow
    number: int
    offset: int
    line: int


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Reads rows of the files of a corpus.

    Attributes:
        system: The ``pyarrow.fs.FileSystem`` that they are on.
        field: Where the text is.
        id_field: Where the id is. Without, ids are made: the file's name, a colon and the row's number in the file.
        skip_bad_rows: Leave bad rows out instead of refusing them.
    """

    system: Any
    field: str = "text"
    id_field: str | None = None
    skip_bad_rows: bool = False

    def content(self, file: InputFile, block_rows: int) -> FileContent:
        """Read a file and check every row.

        Args:
            file: The file.
            block_rows: Rows of each block but the last.

        Raises:
            InputError: It cannot be read, or has a bad row.
        """
        blocks: list[Block] = []
        kinds: set[str] = set()
        bad_rows = 0
        begin: _Placed | None = None
        rows: list[Row] = []
        for placed in self._rows(file):
            if isinstance(placed.row, BadRow):
                bad_rows += 1
                continue
            begin = begin or placed
            rows.append(placed.row)
            kinds.add(id_kind(placed.row.id))
            if len(rows) == block_rows:
                blocks.append(_block(begin, rows))
                begin, rows = None, []
        if begin is not None:
            blocks.append(_block(begin, rows))
        return FileContent(blocks=tuple(blocks), bad_rows=bad_rows, id_kinds=frozenset(kinds))

    def read(self, file: InputFile, block: Block) -> list[Row]:
        """The good rows of a block.

        Raises:
            InputError: The file cannot be read, or is no longer what it was.
        """
        rows: list[Row] = []
        for placed in self._rows(file, block):
            if isinstance(placed.row, Row):
                rows.append(placed.row)
            if len(rows) == block.rows:
                break
        if digest_of(rows) != block.digest:
            raise InputError(
                f"{file.path}: rows {block.first} and those after it are not what they were when the run began: give "
                "the same input and go on with --resume, or start afresh with --overwrite"
            )
        return rows

    def _rows(self, file: InputFile, start: Block | None = None) -> Iterator[_Placed]:
        for record, offset, line in self._records(file, start or Block(0, 0, 0, 0, "")):
            row = record if isinstance(record, BadRow) else self._row(file, record)
            if isinstance(row, BadRow) and not self.skip_bad_rows:
                raise InputError(
                    f"{file.path}: {row.place}: {row.problem}; correct it, or leave bad rows out and count them with "
                    "--on-bad-row skip"
                )
            number = record.number if isinstance(record, Record) else -1
            yield _Placed(row, number, offset, line)

    def _row(self, file: InputFile, record: Record) -> Row | BadRow:
        row = row_of(record.values, record.number, self.field, self.id_field)
        if isinstance(row, str):
            return BadRow(record.place, row)
        return row if self.id_field is not None else Row(f"{file.name}:{row.id}", row.text)

    def _records(self, file: InputFile, start: Block) -> Iterator[tuple[Record | BadRow, int, int]]:
        pyarrow, _ = import_parquet()
        try:
            yield from self._parquet(file, start) if file.format == "parquet" else self._json(file, start)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{file.path} is no complete gzip file ({error}): make it anew") from error
        except (pyarrow.ArrowException, OSError) as error:
            kind = "Parquet" if file.format == "parquet" else "JSON lines"
            raise InputError(f"{file.path} is no readable file of {kind} ({error}): make it anew") from error

    def _json(self, file: InputFile, start: Block) -> Iterator[tuple[Record | BadRow, int, int]]:
        number = start.first
        with self._opened(file) as stream:
            stream.seek(start.offset)
            measured = _Measured(stream, start.offset)
            lines = Lines(measured, start.line)
            for line in lines:
                if line.strip():
                    yield json_record(lines, line, number, self.field), measured.begin, lines.number - 1
                    number += 1

    @contextmanager
    def _opened(self, file: InputFile) -> Iterator[IO[bytes]]:
        with self.system.open_input_file(file.path) as raw, io.BufferedReader(raw) as stream:
            if not file.is_compressed:
                yield stream
                return
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield unpacked  # type: ignore[misc]

    def _parquet(self, file: InputFile, start: Block) -> Iterator[tuple[Record | BadRow, int, int]]:
        _, parquet = import_parquet()
        with self.system.open_input_file(file.path) as raw, parquet.ParquetFile(raw, pre_buffer=False) as opened:
            wanted = wanted_columns(opened.schema_arrow.names, file.path, self.field, self.id_field)
            number, groups = _groups_from(opened.metadata, start.first)
            for batch in opened.iter_batches(_PARQUET_BATCH, row_groups=groups, columns=wanted):
                skipped = min(max(start.first - number, 0), batch.num_rows)
                for index in range(skipped, batch.num_rows):
                    yield parquet_record(batch, index, number + index), 0, 0
                number += batch.num_rows


class _Measured:
    """Lines of a stream, and where each began."""

    def __init__(self, stream: IO[bytes], offset: int) -> None:
        self.begin = offset
        self._end = offset
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            self.begin, self._end = self._end, self._end + len(line)
            yield line


def _block(begin: _Placed, rows: list[Row]) -> Block:
    return Block(begin.number, begin.offset, begin.line, len(rows), digest_of(rows))


def _groups_from(metadata: Any, row: int) -> tuple[int, list[int]]:
    """The row groups from the one that holds a row on, and the number of their first row."""
    before = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if before + count > row:
            return before, list(range(group, metadata.num_row_groups))
        before += count
    return before, []
