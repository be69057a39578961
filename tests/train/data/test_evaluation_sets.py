"""Hold-out and evaluation sets: nothing on both sides, and the right documents for each query."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_st.bulk.rows import InputError
from grace_train.data.config import DataConfig, SourceConfig
from grace_train.data.holdout import split_holdout
from grace_train.data.loading import load_training_data
from grace_train.data.retrieval_data import RetrievalData, load_retrieval, split_in_two
from grace_train.data.sources import TrainingData
from tests.train.data.helpers import pair, pairs, training_data, write_jsonl

_ROW = st.builds(lambda query, positive: pair(f"q{query}", f"p{positive}"), st.integers(0, 15), st.integers(0, 15))


def _texts(data: TrainingData) -> set[str]:
    rows = [source.store.row(int(index)) for source in data.sources for index in source.rows]
    return {text for row in rows for text in (row.query, *row.positives)}


def _config(folder: Path, train: Any, **options: Any) -> DataConfig:
    return DataConfig(train=train, cache=str(folder / "cache"), **options)


def _retrieve(data: RetrievalData) -> dict[str, set[str]]:
    return {
        query: {data.documents[index] for index in relevant}
        for query, relevant in zip(data.queries, data.relevant, strict=True)
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(_ROW, min_size=2, max_size=30), st.lists(_ROW, min_size=1, max_size=10), st.integers(1, 12))
def test_no_text_is_on_both_sides(first: list[Any], second: list[Any], most: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = training_data(Path(folder), first, second)
        try:
            training, held_out = split_holdout(data, most, seed=0)
        except InputError as error:
            assert "data.holdout=" in str(error)
            return
        assert _texts(training).isdisjoint(_texts(held_out))
        assert 1 <= len(held_out) <= most
        assert len(training) + len(held_out) == len(data)
        for side in (training, held_out):
            assert all(len(source.rows) and np.all(np.diff(source.rows) > 0) for source in side.sources)


def test_as_many_rows_as_wanted_and_by_the_seed(tmp_path: Path) -> None:
    data = training_data(tmp_path, pairs(50, "a"), pairs(30, "b"))
    held_out = [split_holdout(data, 20, seed)[1] for seed in (0, 0, 1)]
    assert [len(side) for side in held_out] == [20] * 3
    assert _texts(held_out[0]) == _texts(held_out[1]) != _texts(held_out[2])


def test_groups_that_are_too_large_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A chain: each row shares a text with the next one. And three rows that stand alone.
    chain = [pair(f"t{i}", f"t{i + 1}") for i in range(30)]
    data = training_data(tmp_path, [*chain, *pairs(3)])
    with caplog.at_level(logging.WARNING):
        _, held_out = split_holdout(data, 10, seed=0)
    assert {row for source in held_out.sources for row in source.rows} == {30, 31, 32}
    assert "data.holdout is 10, and 3 rows are held out" in caplog.text
    with pytest.raises(InputError, match=r"no rows can be held out"):
        split_holdout(training_data(tmp_path, chain), 10, seed=0)
    with pytest.raises(InputError, match=r"data.holdout=30 would leave nothing of the 30 rows"):
        split_holdout(training_data(tmp_path, chain), 30, seed=0)


def test_a_hold_out_that_takes_most_rows_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The default of 200 rows, for a file of 240."""
    data = training_data(tmp_path, pairs(24))
    with caplog.at_level(logging.WARNING):
        split_holdout(data, 12, seed=0)
        assert not caplog.records
        split_holdout(data, 20, seed=0)
    assert "data.holdout=20 leaves 4 of 24 rows to train on: lower it" in caplog.text


def test_the_hold_out_becomes_an_evaluation_set(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", pairs(40))
    training, evaluation = load_training_data(
        _config(tmp_path, str(path), holdout=10, query_instruction="Q: "), "supervised", seed=0
    )
    assert evaluation is not None
    assert (len(training), len(evaluation.queries), len(evaluation.documents)) == (30, 10, 20)
    assert _retrieve(evaluation) == {query: {query.replace("q", "p")} for query in evaluation.queries}
    assert (evaluation.query_instruction, evaluation.document_instruction) == ("Q: ", None)


def test_sources_with_different_instructions_have_no_common_hold_out(tmp_path: Path) -> None:
    paths = [str(write_jsonl(tmp_path / f"{name}.jsonl", pairs(20, name))) for name in "ab"]
    train = (paths[0], SourceConfig(path=paths[1], query_instruction="Q: "))
    with pytest.raises(InputError, match=r"different instructions"):
        load_training_data(_config(tmp_path, train, holdout=20), "supervised", seed=0)


def test_queries_are_grouped_by_their_text(tmp_path: Path) -> None:
    rows = [
        pair("q", "a", negatives=["x"]),
        pair("r", "b", "c"),
        pair("q ", "d", negatives=["b"]),
        pair("r", "b", negatives=["x"]),
    ]
    path = str(write_jsonl(tmp_path / "dev.jsonl", rows))
    data = load_retrieval(path, _config(tmp_path, "unused", document_instruction="D: "))
    assert _retrieve(data) == {"q": {"a", "d"}, "r": {"b", "c"}}
    assert sorted(data.documents) == ["a", "b", "c", "d", "x"]
    assert (data.query_instruction, data.document_instruction) == (None, "D: ")


def test_fewer_queries_are_spread_over_the_file(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "dev.jsonl", pairs(10)))
    config = _config(tmp_path, "unused")
    some = load_retrieval(path, config, max_queries=5)
    assert some.queries == ("q0", "q2", "q4", "q6", "q8")
    assert _retrieve(some)["q4"] == {"p4"}
    assert len(some.documents) == 20
    assert len(load_retrieval(path, config, max_queries=99).queries) == 10


@pytest.mark.parametrize(
    ("text", "halves"),
    [
        ("a b c d e f g h", ("a b c d", "e f g h")),
        (" one two three four five six seven a-very-long-last-word ", None),
        ("one two three four five six seven", "short"),
        ("a b c d e f\n\n g h i j k l", ("a b c d e f", "g h i j k l")),
    ],
)
def test_texts_are_cut_near_their_middle(text: str, halves: Any) -> None:
    found = split_in_two(text)
    if halves == "short":
        assert found is None
        return
    assert found is not None
    assert " ".join(found).split() == text.split()
    assert abs(len(found[0]) - len(found[1])) <= max(map(len, text.split())) + 1
    if halves is not None:
        assert found == halves


def test_unsupervised_texts_are_cut_in_two(tmp_path: Path) -> None:
    texts = [" ".join(f"w{number}{letter}" for letter in "abcdefgh") for number in range(3)]
    (tmp_path / "dev.txt").write_text("\n".join(["too short", *texts]))
    config = _config(tmp_path, "unused", query_instruction="Q: ", document_instruction="D: ")
    data = load_retrieval(str(tmp_path / "dev.txt"), config, mode="unsupervised")
    assert [f"{query} {data.documents[i]}" for query, (i,) in zip(data.queries, data.relevant, strict=True)] == texts
    assert (data.query_instruction, data.document_instruction) == ("D: ", "D: ")
    (tmp_path / "dev.txt").write_text("too short\n")
    with pytest.raises(InputError, match=r"no text of 8 words or more"):
        load_retrieval(str(tmp_path / "dev.txt"), config, mode="unsupervised")


def test_one_document_measures_nothing(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "dev.jsonl", [pair("q", "a"), pair("r", "a")]))
    with pytest.raises(InputError, match=r"a single document"):
        load_retrieval(path, _config(tmp_path, "unused"))


def test_the_bundled_sets(tmp_path: Path) -> None:
    config = _config(tmp_path, "nano")
    dev, test = (load_retrieval(f"nano:{split}", config, max_queries=50) for split in ("dev", "test"))
    for data in (dev, test):
        assert len(data.queries) == 50
        assert len(data.documents) > 600
        assert all(len(relevant) == 1 for relevant in data.relevant)
    assert set(dev.queries).isdisjoint(test.queries)
    with pytest.raises(InputError, match=r"no bundled set nano:train: there are nano:dev and nano:test"):
        load_retrieval("nano:train", config)
