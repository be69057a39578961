"""Readers: every format gives the rows that were written, and says where a row is bad."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_st.bulk import formats
from grace_st.bulk.readers import Source
from grace_st.bulk.rows import BadRow, BadRows, InputError, Row

TEXTS = [
    "one",
    "",
    "  spaced ",
    "Wie spät?\u2028日本語 🙂",
    'quotes " and , commas; \t tabs',
    "vertical\x0btab\x85\x1c",
]
ENDINGS = ["\n", "\r\n"]


def _source(path: Path, content: bytes | str, format_: Any = None, **options: Any) -> Source:
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return Source(path=path, format=format_ or formats.input_format_of(path), **options)


def _rows(source: Source) -> list[Row | BadRow]:
    source.check()
    return list(source.rows())


def _problem(row: Row | BadRow) -> str:
    assert isinstance(row, BadRow), row
    return f"{row.place}: {row.problem}"


def _csv(rows: list[list[str]], ending: str = "\r\n", delimiter: str = ",") -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator=ending, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    return stream.getvalue()


def _json(texts: list[str]) -> list[str]:
    return [json.dumps({"text": text, "n": [1]}, ensure_ascii=False) for text in texts]


WRITERS: dict[str, Callable[[list[str], str], str]] = {
    "a.txt": lambda texts, end: "".join(text + end for text in texts),
    "a.jsonl": lambda texts, end: "".join(line + end for line in _json(texts)),
    "a.NDJSON": lambda texts, end: end.join(_json(texts)),
    "a.csv": lambda texts, end: _csv([["n", "text"], *(["1", text] for text in texts)], end),
    "a.tsv": lambda texts, end: _csv([["n", "text"], *(["1", text] for text in texts)], end, "\t"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("name", [*WRITERS, *(f"{name}.gz" for name in WRITERS)])
def test_every_format_gives_its_rows(name: str, bom: str, ending: str, tmp_path: Path) -> None:
    content = bom + WRITERS[name.removesuffix(".gz")](TEXTS, ending)
    assert _rows(_source(tmp_path / name, content)) == [Row(number, text) for number, text in enumerate(TEXTS)]


def test_parquet_gives_its_rows(tmp_path: Path) -> None:
    texts = TEXTS * 300  # more than a batch
    table = pyarrow.table(
        {"body": texts, "key": [f"k{i}" for i in range(len(texts))], "other": list(range(len(texts)))}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    source = Source(path=tmp_path / "a.parquet", format="parquet", field="body", id_field="key")
    assert _rows(source) == [Row(f"k{i}", text) for i, text in enumerate(texts)]
    dictionary = pyarrow.table({"text": pyarrow.array(TEXTS).dictionary_encode()})
    pyarrow.parquet.write_table(dictionary, tmp_path / "b.parquet")
    assert _rows(Source(path=tmp_path / "b.parquet", format="parquet")) == [
        Row(i, text) for i, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_line_breaks_inside_texts(ending: str, tmp_path: Path) -> None:
    texts = ["one\ntwo\r\n\nthree", "four"]
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        content = WRITERS[name](texts, ending)
        assert _rows(_source(tmp_path / name, content)) == [Row(0, texts[0]), Row(1, texts[1])], name


@pytest.mark.parametrize(
    ("content", "texts"),
    [("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("a\n\n\nb", ["a", "", "", "b"]), ("a\r\n\r\n", ["a", ""])],
)
def test_plain_text_is_one_text_a_line(content: str, texts: list[str], tmp_path: Path) -> None:
    assert [row.text for row in _rows(_source(tmp_path / "a.txt", content)) if isinstance(row, Row)] == texts


_TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(_TEXT, min_size=1, max_size=8), st.sampled_from(ENDINGS), st.booleans())
def test_round_trip(texts: list[str], ending: str, bom: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, write in WRITERS.items():
            wanted = [text.replace("\n", " ").rstrip("\r") for text in texts] if name == "a.txt" else texts
            content = "\ufeff" * bom + write(wanted, ending)
            if name == "a.txt" and not bom and wanted[0].startswith("\ufeff"):
                continue  # a text that begins with what a BOM is
            found = _rows(_source(Path(folder) / name, content))
            assert found == [Row(number, text) for number, text in enumerate(wanted)], name


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["text", "jsonl", "csv", "tsv"]))
def test_no_bytes_are_a_crash(content: bytes, format_: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = _rows(_source(Path(folder) / "a", content, format_))
        except InputError as error:
            assert format_ in ("csv", "tsv") and "\n" not in str(error)
        else:
            assert all(isinstance(row, (Row, BadRow)) for row in rows)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"body": "x"}', "there is no field 'text' (found: 'body'; --field names another)"),
        ("{}", "found: none"),
        ('{"text": null}', "the field 'text' must be a string, got null"),
        ('{"text": 3}', "got a number"),
        ('{"text": true}', "got a boolean"),
        ('{"text": ["x"]}', "got an array"),
        ('["x"]', "must be a JSON object with the field 'text', got an array"),
        ('"x"', "got a string"),
        ('{"text": "x"', "not valid JSON"),
        ('{"text": "x", "n": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": "x", "n": ' + "1" * 5000 + "}", "not valid JSON"),
    ],
)
def test_bad_json_rows_are_told(line: str, problem: str, tmp_path: Path) -> None:
    good = '{"text": "x"}\n'
    rows = _rows(_source(tmp_path / "a.jsonl", f"{good}\n{line}\n{good}"))
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    assert _problem(rows[1]).startswith("row 1 (line 3): ")
    assert problem in _problem(rows[1])
    assert rows[2] == Row(2, "x")


@pytest.mark.parametrize("identifier", ["s", "", "\ud800", 0, -7, 2**80, 1.5, True, False, None])
def test_an_id_is_any_json_scalar(identifier: Any, tmp_path: Path) -> None:
    content = json.dumps({"text": "x", "id": identifier})
    (row,) = _rows(_source(tmp_path / "a.jsonl", content, id_field="id"))
    assert isinstance(row, Row)
    assert (row.id, type(row.id)) == (identifier, type(identifier))


@pytest.mark.parametrize(
    ("identifier", "problem"),
    [("[1]", "got an array"), ("{}", "got an object"), ("1e999", "finite"), (None, "no field 'id'")],
)
def test_other_ids_are_bad(identifier: str | None, problem: str, tmp_path: Path) -> None:
    content = '{"text": "x"' + ("" if identifier is None else f', "id": {identifier}') + "}"
    (row,) = _rows(_source(tmp_path / "a.jsonl", content, id_field="id"))
    assert problem in _problem(row)


def test_bad_csv_rows_are_told(tmp_path: Path) -> None:
    content = 'id,text\n1,one\n2\n\n3,"a\nb"\n4,x,y\n5,"q"z\n6,six\n7,"never closed\n'
    rows = _rows(_source(tmp_path / "a.csv", content, id_field="id"))
    assert [row.id for row in rows if isinstance(row, Row)] == ["1", "3", "6"]
    assert [_problem(row).split(": ")[0] for row in rows if isinstance(row, BadRow)] == [
        "row 1 (line 3)",
        "row 3 (line 7)",
        "row 4 (line 8)",
        "row 6 (line 10)",
    ]
    assert "has 1 values, and the header has 2" in _problem(rows[1])


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.txt", b"one\n\xff\nthree\n", "row 1: line 2"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "\xff"}\n{"text": "three"}\n', "row 1 (line 2): line 2"),
        ("a.csv", b'text\none\n"a\nb\xff"\nthree\n', "row 1 (line 3): line 4"),
    ],
)
def test_invalid_utf8_is_a_bad_row(name: str, content: bytes, place: str, tmp_path: Path) -> None:
    rows = _rows(_source(tmp_path / name, content))
    assert [row.text if isinstance(row, Row) else None for row in rows] == ["one", None, "three"]
    assert _problem(rows[1]).startswith(f"{place} is not valid UTF-8 (byte 0xff")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "id,body\n1,x\n", "no column 'text' ('id', 'body'): name one with --field"),
        ("a.csv", "text,text\n1,x\n", "more than one column 'text'"),
        ("a.csv", b"te\xffxt\n1\n", "line 1 is not valid UTF-8"),
        ("a.csv", 'text"\n"a"b,\n', "no column 'text'"),
        ("a.csv", '"text"x\n', "the header is not valid CSV"),
        ("a.parquet", "no parquet", "no readable Parquet file"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole(name: str, content: bytes | str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        _rows(_source(tmp_path / name, content))
    assert problem in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)


def test_bad_parquet_rows_are_told(tmp_path: Path) -> None:
    texts = pyarrow.array([b"one", None, b"\xff", b"four"], pyarrow.binary()).view(pyarrow.string())
    ids = pyarrow.array([1, 2, 3, None])
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": ids}), tmp_path / "a.parquet")
    rows = _rows(Source(path=tmp_path / "a.parquet", format="parquet", id_field="id"))
    assert [rows[0], rows[3]] == [Row(1, "one"), Row(None, "four")]
    assert _problem(rows[1]) == "row 1: the field 'text' must be a string, got null"
    assert _problem(rows[2]).startswith("row 2: not valid UTF-8")
    dates = pyarrow.table({"text": ["x"], "id": pyarrow.array([0], pyarrow.date32())})
    pyarrow.parquet.write_table(dates, tmp_path / "b.parquet")
    (row,) = _rows(Source(path=tmp_path / "b.parquet", format="parquet", id_field="id"))
    assert "must be a string, number, boolean or null, got a date" in _problem(row)
    missing = Source(path=tmp_path / "a.parquet", format="parquet", field="body")
    with pytest.raises(InputError, match="no column 'body' \\('text', 'id'\\)"):
        _rows(missing)


@pytest.mark.parametrize("damage", ["truncated", "changed", "none"])
def test_a_damaged_gzip_file_is_told(damage: str, tmp_path: Path) -> None:
    data = gzip.compress(os.urandom(3000).hex().encode())
    data = {"truncated": data[:-20], "changed": data[:100] + b"\0" * 50 + data[150:], "none": b"plain text\n"}[damage]
    path = tmp_path / "a.txt.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match="no complete gzip file"):
        _rows(Source(path=path, format="text"))


def test_a_long_csv_field_is_read(tmp_path: Path) -> None:
    text = "word, " * 100_000
    assert _rows(_source(tmp_path / "a.csv", _csv([["text"], [text]]))) == [Row(0, text)]


def test_a_pipe_is_a_stream(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    source = Source(path=pipe, format="text")
    assert source.is_stream
    writer = threading.Thread(target=pipe.write_text, args=("one\ntwo\n",))
    writer.start()
    assert _rows(source) == [Row(0, "one"), Row(1, "two")]
    writer.join()
    with pytest.raises(ValueError, match="Parquet cannot be read"):
        Source(path=pipe, format="parquet").check()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.txt", "text"), ("a.b.JSONL", "jsonl"), ("a.csv.gz", "csv"), ("a.tsv.GZ", "tsv"), ("a.parquet", "parquet")],
)
def test_the_suffix_tells_the_format(name: str, expected: str) -> None:
    assert formats.input_format_of(Path(name)) == expected


@pytest.mark.parametrize("name", ["a", "a.gz", "a.json", "a.npy", ".txt"])
def test_another_suffix_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="--input-format"):
        formats.input_format_of(Path(name))


def test_bad_rows_stop_or_are_counted() -> None:
    rows = [Row(0, "a"), BadRow("row 1", "is bad"), Row(2, "c"), BadRow("row 3", "is worse")]
    skipping = BadRows("in.txt", skip=True)
    assert list(skipping.leave_out(rows)) == [rows[0], rows[2]]
    assert skipping.count == 2
    with pytest.raises(InputError, match=r"in.txt: row 1: is bad; .*--on-bad-row skip"):
        list(BadRows("in.txt", skip=False).leave_out(rows))
    with pytest.raises(InputError, match="none of the 2 rows can be used; row 1: is bad"):
        list(BadRows("in.txt", skip=True).leave_out([rows[1], rows[3]]))
    with pytest.raises(InputError, match=r"in\.txt has no rows"):
        list(BadRows("in.txt", skip=True).leave_out([]))
