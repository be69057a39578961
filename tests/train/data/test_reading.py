"""From files to stores: every format, every kind of bad row, and the copies on disk."""

from __future__ import annotations

import csv
import gzip
import io
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from grace_st.bulk.rows import InputError
from grace_train.data import prepare as prepare_module
from grace_train.data.instances import text_key
from grace_train.data.prepare import cache_folder
from grace_train.data.store import RowStore
from tests.train.data.helpers import pair, pairs, prepare, write_jsonl

ROWS = [
    pair("what eats fish?", "herons", "bears", negatives=["cows", "deer"]),
    pair("two\nlines", "Wie spät?\u2028日本語 🙂"),
    pair("same", "herons", negatives=["herons", "", "same ", "cows", "cows"]),
]


def _stored(store: RowStore) -> list[tuple[Any, ...]]:
    rows = (store.row(index) for index in range(len(store)))
    return [(row.number, row.query, row.positives, row.negatives) for row in rows]


EXPECTED = [
    (0, "what eats fish?", ("herons", "bears"), ("cows", "deer")),
    (1, "two\nlines", ("Wie spät?\u2028日本語 🙂",), ()),
    (2, "same", ("herons",), ("cows",)),
]


def _parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def _csv(path: Path, rows: list[list[str]], delimiter: str = ",") -> Path:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    return path


# ------------------------------------------------------------ formats


def test_lists_are_read_from_json_parquet_and_saved_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain = write_jsonl(tmp_path / "a.jsonl", ROWS)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    saved = datasets.Dataset.from_list([*ROWS])
    saved.save_to_disk(str(tmp_path / "flat"))
    datasets.DatasetDict({"train": saved, "dev": saved.select([1])}).save_to_disk(str(tmp_path / "splits"))
    for path in (plain, packed, _parquet(tmp_path / "c.parquet", ROWS), tmp_path / "flat", tmp_path / "splits"):
        store = prepare(path)
        assert _stored(store) == EXPECTED, path
        assert (store.facts.false_negatives, store.facts.empty_negatives) == (2, 1)
        assert store.keys_of(0) == [text_key(text) for text in ("what eats fish?", "herons", "bears")]
    assert len(prepare(tmp_path / "splits", split="dev")) == 1
    with pytest.raises(InputError, match=r"has the splits train, dev, not test: name one with data.split=train"):
        prepare(tmp_path / "splits", split="test")


def test_single_texts_are_read_from_csv_and_tsv(tmp_path: Path) -> None:
    rows = [["id", "question", "answer", "negative"], ["7", "q, 1", "p\n1", ""], ["8", "q2", "p2", "n2"]]
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        store = prepare(_csv(tmp_path / name, rows, delimiter), query_field="question", positive_field="answer")
        assert _stored(store) == [(0, "q, 1", ("p\n1",), ()), (1, "q2", ("p2",), ("n2",))]


@pytest.mark.parametrize("plural", [False, True])
def test_singular_or_plural(plural: bool, tmp_path: Path) -> None:
    names = ("positives", "negatives") if plural else ("positive", "negative")
    rows = [{"query": "q", names[0]: "p", names[1]: ["n"], "other": 3}]
    for path in (write_jsonl(tmp_path / "a.jsonl", rows), _parquet(tmp_path / "a.parquet", rows)):
        assert _stored(prepare(path)) == [(0, "q", ("p",), ("n",))]


def test_plain_text_is_one_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\n   \n two \r\nthree")
    rows = _stored(prepare(path, "unsupervised"))
    assert [(number, text) for number, text, _, _ in rows] == [(0, "one"), (3, " two "), (4, "three")]
    with pytest.raises(InputError, match=r"plain text, .* supervised training needs queries"):
        prepare(path)


def test_texts_in_a_named_field(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"body": "one"}, {"body": "two"}])
    assert [row[1] for row in _stored(prepare(path, "unsupervised", text_field="body"))] == ["one", "two"]


def test_a_lone_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "a\\ud800b", "positive": "p", "negative": ["\\udfff"]}\n')
    assert _stored(prepare(path)) == [(0, "a\ufffdb", ("p",), ("\ufffd",))]


def test_the_bundled_data(tmp_path: Path) -> None:
    store = prepare("nano", cache=str(tmp_path))
    assert len(store) == 4096
    assert len(store.row(0).negatives) == 1
    texts = prepare("nano", "unsupervised", cache=str(tmp_path))
    assert len({texts.row(index).query for index in range(len(texts))}) == len(texts) > 8000


# ------------------------------------------------------------ bad rows

GOOD = '{"query": "q", "positive": "p"}'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not valid JSON"),
        ('["q", "p"]', "must be a JSON object with the field 'query', got an array"),
        ('{"positive": "p"}', "query is expected: name it with data.query_field=..."),
        ('{"query": "q"}', "positive or positives is expected: name it with data.positive_field=..."),
        ('{"query": "", "positive": "p"}', "the field 'query' is empty"),
        ('{"query": " \\n", "positive": "p"}', "the field 'query' is empty"),
        ('{"query": 3, "positive": "p"}', "the field 'query' must be a string, got a number"),
        ('{"query": ["q"], "positive": "p"}', "the field 'query' must be a string, got an array"),
        ('{"query": "q", "positive": null}', "must be a string or a list of strings, got null"),
        ('{"query": "q", "positive": []}', "the field 'positive' is an empty list"),
        ('{"query": "q", "positive": ["p", " "]}', "the field 'positive' is empty at item 1"),
        ('{"query": "q", "positive": ["p", 1]}', "item 1 of the field 'positive' must be a string, got a number"),
        ('{"query": "q", "positive": {"text": "p"}}', "must be a string or a list of strings, got an object"),
        ('{"query": "q", "positive": "p", "negative": 7}', "the field 'negative' must be a string or a list"),
    ],
)
def test_the_first_bad_row_is_an_error_unless_it_is_skipped(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(InputError) as raised:
        prepare(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: row 1 (line 3): ")
    assert problem in message
    assert "data.on_bad_row=skip" in message
    assert "--field" not in message
    store = prepare(path, on_bad_row="skip")
    assert ([row[0] for row in _stored(store)], store.facts.bad_rows) == ([0, 2], 1)
    # The copy is there now, and still refused where bad rows are errors.
    with pytest.raises(InputError, match=r"row 1 \(line 3\): "):
        prepare(path)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntw\xffo\n")
    with pytest.raises(InputError, match=r"row 1: line 2 is not valid UTF-8"):
        prepare(path, "unsupervised")


def test_a_wrong_column_is_told_before_any_row(tmp_path: Path) -> None:
    rows = [["question", "answer"], ["q", "p"]]
    expected = "a.csv has the fields 'question', 'answer'; query is expected: name it with data.query_field=..."
    with pytest.raises(InputError) as raised:
        prepare(_csv(tmp_path / "a.csv", rows), on_bad_row="skip")
    assert str(raised.value).endswith(expected)
    parquet = _parquet(tmp_path / "a.parquet", [{"query": "q", "answer": "p"}])
    with pytest.raises(InputError, match=r"positive or positives is expected: name it with data.positive_field="):
        prepare(parquet)
    with pytest.raises(InputError, match=r"text is expected: name it with data.text_field="):
        prepare(parquet, "unsupervised")
    with pytest.raises(InputError, match=r"bad is expected: name it with data.negative_field="):
        prepare(parquet, positive_field="answer", negative_field="bad")
    with pytest.raises(InputError, match=r"more than one column 'query'"):
        prepare(_csv(tmp_path / "b.csv", [["query", "query", "positive"], ["q", "q", "p"]]))


def test_negatives_that_no_row_has(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"query": "q", "positive": "p"}])
    with pytest.raises(InputError, match=r"no row of .* has the field 'bad'.*data.negative_field="):
        prepare(path, negative_field="bad")


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_both_forms_in_one_file_are_refused(on_bad_row: str, tmp_path: Path) -> None:
    one_row = [{"query": "q", "positive": "p", "positives": ["p"]}]
    two_rows = [{"query": "q", "positive": "p"}, {"query": "r", "positives": ["p"]}]
    for rows in (one_row, two_rows):
        path = write_jsonl(tmp_path / "a.jsonl", rows)
        with pytest.raises(InputError, match=r"has both 'positive' and 'positives': name the one to use with data.pos"):
            prepare(path, on_bad_row=on_bad_row)
    assert len(prepare(write_jsonl(tmp_path / "b.jsonl", one_row), positive_field="positives")) == 1


def test_a_file_without_a_good_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "q"}, {"question": "r"}])
    with pytest.raises(InputError, match=r"none of the 2 rows can be used; row 0 .*data.query_field="):
        prepare(path, on_bad_row="skip")
    for content in ("", "\n\n"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"has no rows"):
            prepare(path)


def test_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no file or folder .*a\.jsonl"):
        prepare(tmp_path / "a.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"a folder without a data set saved by datasets"):
        prepare(tmp_path / "empty")
    (tmp_path / "a.dat").write_text(GOOD)
    with pytest.raises(InputError, match=r"cannot tell the format of .*a\.dat.*data.format=\.\.\. \(text, jsonl"):
        prepare(tmp_path / "a.dat")
    assert len(prepare(tmp_path / "a.dat", format="jsonl")) == 1
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match=r"is a stream"):
        prepare(tmp_path / "pipe.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(f"{GOOD}\n".encode() * 1000)[:-10])
    with pytest.raises(InputError, match=r"no complete gzip file"):
        prepare(tmp_path / "cut.jsonl.gz")
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", None)
    with pytest.raises(ImportError, match=r"pip install 'grace-st\[train\]'"):
        prepare("some-owner/some-data", cache=str(tmp_path))


def test_a_data_set_of_the_hub_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load(name: str, subset: str | None, split: str, revision: str | None) -> Any:
        assert (name, subset, split, revision) == ("some-owner/some-data", "triplet", "dev", None)
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError, match=r"there is no file or folder some-owner/some-data, and .*hub: no network"):
        prepare("some-owner/some-data", cache=str(tmp_path), subset="triplet", split="dev")
    made = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **options: made)
    assert _stored(prepare("some-owner/some-data", cache=str(tmp_path))) == EXPECTED


def test_a_revision_of_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str | None]] = []

    def load(name: str, subset: str | None, split: str, revision: str | None) -> Any:
        asked.append((name, revision))
        rows = ROWS if revision == "main" else ROWS[:1]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    cache = str(tmp_path / "cache")
    named = [f"some-owner/some-data@{revision}" for revision in ("main", "v1.0", "refs/convert/parquet", "0a1b2c3")]
    assert [len(prepare(name, cache=cache)) for name in named] == [len(ROWS), 1, 1, 1]
    assert asked == [tuple(name.split("@")) for name in named]
    for wrong in (
        "some-owner/some-data@",
        "some-owner/some-data@a b",
        "some-owner/some-data@a@b",
        "pairs.jsonl@main",
        "data/a@2.csv",
    ):
        with pytest.raises(InputError, match=rf"no file or folder {wrong}: .*owner/name@revision"):
            prepare(wrong, cache=cache)


# ------------------------------------------------------------ copies


def test_a_second_run_does_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    prepare(path)
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_write", None)
        assert _stored(prepare(path)) == EXPECTED
    write_jsonl(path, ROWS[:1] + ROWS)
    assert len(prepare(path)) == 4


def test_a_copy_belongs_to_its_fields(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"query": "q", "positive": "p", "other": "o"}])
    assert [_stored(prepare(path, query_field=name))[0][1] for name in ("query", "other")] == ["q", "o"]
    assert _stored(prepare(path, "unsupervised", text_field="other"))[0][1] == "o"


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{GOOD}\n{{\n")
    with pytest.raises(InputError):
        prepare(path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    read = prepare_module._read

    def read_and_change(*arguments: Any) -> None:
        read(*arguments)
        write_jsonl(path, ROWS * 2)

    monkeypatch.setattr(prepare_module, "_read", read_and_change)
    with pytest.raises(InputError, match=r"changed while it was read"):
        prepare(path)


def test_what_killed_runs_left_is_removed_after_a_day(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    old, young = (tmp_path / "cache" / f"{name}.partial-x" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    prepare(path)
    assert (old.exists(), young.exists()) == (False, True)


def _prepare_and_count(path: Path) -> int:
    return len(prepare(path))


def test_runs_at_the_same_time_share_a_copy(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", pairs(3000))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_prepare_and_count, [path] * 4, chunksize=1) == [3000] * 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_where_copies_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "grace-st" / "data"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / "home" / ".cache" / "grace-st" / "data"
    assert cache_folder("~/x") == tmp_path / "home" / "x"


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [pair("q", "p")])
    for cache in (path, path / "below"):
        with pytest.raises(InputError, match=r"is a file, or in one: name another with data.cache"):
            prepare(path, cache=str(cache))


def test_many_rows_and_long_rows(tmp_path: Path) -> None:
    rows = [pair(f"q{i}", *(f"p{i}.{j}" for j in range(i % 4 + 1))) for i in range(2500)]
    rows[7]["positive"] = ["x" * 9_000_000]
    store = prepare(write_jsonl(tmp_path / "a.jsonl", rows))
    assert len(store) == 2500
    for index in (0, 6, 7, 8, 1031, 1032, 2499):
        row = store.row(index)
        assert (row.number, row.query, list(row.positives)) == (index, f"q{index}", rows[index]["positive"])
        assert store.keys_of(index) == [text_key(text) for text in (row.query, *row.positives)]


def test_json_lines_stay_as_they_are(tmp_path: Path) -> None:
    # What a text is made of survives the way through the store: nothing is stripped or normalised.
    texts = ["  q  ", "e\u0301", "\u00e9", "a\tb\r\nc", "\x00"]
    rows = [pair(text, f"p{i}") for i, text in enumerate(texts)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row[1] for row in _stored(prepare(path))] == texts
