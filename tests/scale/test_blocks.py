"""Blocks and shards: every row once, in order, wherever the reading begins."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from grace_st.bulk.rows import InputError, Row
from grace_st.scale.blocks import Block, FileContent, RowReader
from grace_st.scale.files import InputFile, list_files
from grace_st.scale.shards import Shard, block_rows, packed

LOCAL = fs.LocalFileSystem()
TEXTS = [f"text {number} é 🙂" + "x" * (number % 7) for number in range(50)]


def write(path: Path, texts: list[object], **options: object) -> InputFile:
    rows = [{"text": text, "key": index} for index, text in enumerate(texts)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" + "\n" * (row["key"] % 2) for row in rows)
        data = lines.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    (file,) = list_files(str(path)).files
    return file


def read(reader: RowReader, file: InputFile, content: FileContent) -> list[Row]:
    return [row for block in reversed(content.blocks) for row in reversed(reader.read(file, block))][::-1]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_blocks_hold_every_row_once_with_ids_of_file_and_row(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, list(TEXTS), **({"row_group_size": 9} if name.endswith("parquet") else {}))
    reader = RowReader(system=LOCAL)
    content = reader.content(file, 8)
    assert [block.rows for block in content.blocks] == [8] * 6 + [2]
    assert read(reader, file, content) == [Row(f"{name}:{index}", text) for index, text in enumerate(TEXTS)]
    assert content.id_kinds == {"string"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_bad_rows_count_for_the_ids_and_are_left_out(tmp_path: Path, name: str) -> None:
    texts: list[object] = [None, "a", None, None, "b", "c", None]
    file = write(tmp_path / name, texts)
    with pytest.raises(InputError, match=rf"{name}: row 0.*the field 'text' must be a string, got null.*--on-bad-row"):
        RowReader(system=LOCAL).content(file, 2)
    reader = RowReader(system=LOCAL, skip_bad_rows=True)
    content = reader.content(file, 2)
    assert content.bad_rows == 4
    assert read(reader, file, content) == [Row(f"{name}:1", "a"), Row(f"{name}:4", "b"), Row(f"{name}:5", "c")]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.one_of(st.text(max_size=6), st.none()), min_size=1, max_size=20),
    size=st.integers(1, 9),
    kind=st.sampled_from(["jsonl", "parquet"]),
)
def test_any_file_is_read_as_from_its_beginning(tmp_path: Path, texts: list[object], size: int, kind: str) -> None:
    if kind == "parquet" and all(text is None for text in texts):
        return  # a column of nulls has no type
    file = write(tmp_path / f"a.{kind}", texts)
    reader = RowReader(system=LOCAL, id_field="key", skip_bad_rows=True)
    content = reader.content(file, size)
    assert read(reader, file, content) == [Row(index, text) for index, text in enumerate(texts) if text is not None]


def test_rows_that_have_changed_since_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", list(TEXTS))
    content = RowReader(system=LOCAL).content(file, 16)
    write(tmp_path / "a.jsonl", [*TEXTS[:20], "another", *TEXTS[21:]])
    assert len(RowReader(system=LOCAL).read(file, content.blocks[0])) == 16
    with pytest.raises(InputError, match=r"a\.jsonl: rows 16 and those after it are not what they were"):
        RowReader(system=LOCAL).read(file, content.blocks[1])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.parquet", b"PAR1 this is none", r"a\.parquet is no readable file of Parquet"),
        ("a.parquet", b"", r"a\.parquet is no readable file of Parquet"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], r"a\.jsonl\.gz is no complete gzip file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl: row 1 \(line 2\): not valid JSON"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl: row 0 \(line 1\): line 1 is not valid UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    (file,) = list_files(str(tmp_path / name)).files
    with pytest.raises(InputError, match=message):
        RowReader(system=LOCAL).content(file, 8)


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 30))
def test_shards_hold_all_blocks_in_order_and_are_filled(rows: list[int], most: int) -> None:
    size = block_rows(most)
    files = []
    for count in rows:
        cut = [min(size, count - first) for first in range(0, count, size)]
        files.append([Block(index * size, 0, 0, number, "") for index, number in enumerate(cut)])
    shards = packed(files, most)
    flat = [(part.file, part.block) for shard in shards for part in shard.parts]
    assert flat == [(file, block) for file, blocks in enumerate(files) for block in blocks]
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(0 < shard.rows <= most for shard in shards)
    for shard, following in pairwise(shards):
        assert shard.rows + following.parts[0].block.rows > most
    assert [Shard.from_json(shard.to_json()) for shard in shards] == shards
