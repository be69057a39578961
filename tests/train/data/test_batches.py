"""Batches: no false negatives, no row lost, shares by weight, and the same stream after an interruption."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from grace_st.bulk.rows import InputError
from grace_train.data.batches import AnyInstance, BatchSampler, in_batch_mask
from grace_train.data.config import DataConfig
from grace_train.data.instances import Instance, TextInstance
from grace_train.data.loading import load_training_data
from tests.train.data.helpers import pair, pairs, training_data

# Few different texts, so that rows often share some; a query may be another row's positive.
_TEXT = st.integers(0, 9).map(lambda number: f"text {number}")
_ROW = st.builds(
    lambda query, positives, negatives: pair(query, *positives, negatives=negatives),
    _TEXT,
    st.lists(_TEXT, min_size=1, max_size=2),
    st.lists(_TEXT, max_size=3),
)
_ROWS = st.lists(_ROW, min_size=1, max_size=25)


def _texts(instance: AnyInstance) -> set[str]:
    if isinstance(instance, TextInstance):
        return {instance.text}
    return {instance.query, *instance.positives}


def _rows(batches: list[list[AnyInstance]]) -> list[tuple[str, int]]:
    return [(instance.source, instance.row) for batch in batches for instance in batch]


def _supervised(instance: AnyInstance) -> Instance:
    assert isinstance(instance, Instance)
    return instance


# Where a source had its text first in each batch, and where one text of a source stood behind another.
@example([pair("0", "0"), pair("0", "0")], [pair("0", "0"), pair("1", "1")], 2, 0)
@example([pair("1", "1"), pair("1", "1"), pair("2", "2")], [pair("0", "0"), pair("0", "0"), pair("1", "2")], 2, 0)
@example([pair("0", "0"), pair("1", "0"), pair("1", "0")], [pair("0", "1"), pair("2", "2")], 2, 1)
@settings(max_examples=25, deadline=None)
@given(_ROWS, _ROWS, st.integers(1, 4), st.integers(0, 3))
def test_no_text_twice_and_no_row_lost(first: list[Any], second: list[Any], batch_size: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = training_data(Path(folder), first, second)
        try:
            sampler = BatchSampler(data, batch_size, seed)
        except InputError as error:
            assert batch_size > 1 and "lower the batch size" in str(error)
            return
        batches = []
        try:
            batches = [sampler.next() for _ in range(200)]
        except InputError:
            assume(False)  # the bound is near to the truth, and not a proof
        for batch in batches:
            assert len(batch) == batch_size
            texts = [_texts(instance) for instance in batch]
            assert all(a.isdisjoint(b) for i, a in enumerate(texts) for b in texts[:i])
            for instance in map(_supervised, batch):
                given_row = (first, second)[int(instance.source)][instance.row]
                assert instance.query == given_row["query"]
                assert instance.positive in given_row["positive"]
                assert set(instance.negatives) <= set(given_row["negative"]) - _texts(instance)
        # 200 batches are many epochs of at most 50 rows: none was left out for good.
        assert len(set(_rows(batches))) == len(first) + len(second)


@settings(max_examples=40, deadline=None)
@given(_ROWS, _ROWS, st.integers(1, 4), st.integers(0, 12), st.integers(0, 3))
def test_the_stream_goes_on_exactly(first: list[Any], second: list[Any], batch_size: int, done: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = training_data(Path(folder), first, second, weights=(1.0, 2.5), negatives=2)
        try:
            sampler, other = BatchSampler(data, batch_size, seed), BatchSampler(data, batch_size, seed)
            for _ in range(done):
                sampler.next()
            other.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
            expected = [sampler.next() for _ in range(15)]
        except InputError:
            assume(False)
        assert other.epoch == (sampler.drawn - 15 * batch_size) / len(data)
        assert [other.next() for _ in range(15)] == expected
        assert other.state_dict() == sampler.state_dict()


def test_an_epoch_visits_every_row_once(tmp_path: Path) -> None:
    data = training_data(tmp_path, pairs(20, "a"), pairs(44, "b"))
    sampler = BatchSampler(data, 8, seed=3)
    assert (sampler.steps_per_epoch, sampler.epoch) == (8, 0.0)
    epochs = []
    for number in range(3):
        batches = [sampler.next() for _ in range(8)]
        assert sampler.epoch == number + 1
        epochs.append(_rows(batches))
        assert sorted(epochs[-1]) == sorted([*(("0", i) for i in range(20)), *(("1", i) for i in range(44))])
    assert epochs[0] != epochs[1] != epochs[2]
    assert BatchSampler(data, 10, 0).steps_per_epoch == 7


def test_the_seed_decides(tmp_path: Path) -> None:
    data = training_data(tmp_path, [pair(f"q{i}", "a" * i, "b" * i, negatives=["x", "y", "z"]) for i in range(1, 30)])

    def stream(seed: int) -> list[list[AnyInstance]]:
        sampler = BatchSampler(data, 6, seed)
        return [sampler.next() for _ in range(12)]

    assert stream(1) == stream(1)
    assert _rows(stream(1)) != _rows(stream(2))


def test_sources_are_mixed_by_weight(tmp_path: Path) -> None:
    data = training_data(tmp_path, pairs(30, "a"), pairs(10, "b"), weights=(1.0, 3.0))
    sampler = BatchSampler(data, 8, 0)
    batches = [sampler.next() for _ in range(30)]
    assert Counter(source for source, _ in _rows(batches)) == {"0": 120, "1": 120}
    # ... and in each batch to within one row, so that no step sees one source only.
    assert {sum(instance.source == "0" for instance in batch) for batch in batches} <= {3, 4, 5}


def test_every_positive_is_drawn_and_as_many_negatives_as_wanted(tmp_path: Path) -> None:
    rows = [pair("q0", "a", "b", "c", negatives=["x", "y", "z"]), pair("q1", "d", negatives=["x"]), pair("q2", "e")]
    for wanted, expected in ((0, {0}), (2, {2, 1, 0}), (9, {3, 1, 0})):
        sampler = BatchSampler(training_data(tmp_path, rows, negatives=wanted), 3, 0)
        drawn = [_supervised(instance) for _ in range(60) for instance in sampler.next()]
        assert {len(instance.negatives) for instance in drawn} == expected
        assert {instance.positive for instance in drawn if instance.query == "q0"} == {"a", "b", "c"}
        assert all(len(set(instance.negatives)) == len(instance.negatives) for instance in drawn)
        if wanted == 2:
            pairs_drawn = {frozenset(instance.negatives) for instance in drawn if instance.query == "q0"}
            assert pairs_drawn == {frozenset(("x", "y")), frozenset(("x", "z")), frozenset(("y", "z"))}


def test_rows_of_one_text_wait_and_others_go_on(tmp_path: Path) -> None:
    # Two thirds of the rows have the positive of all others of their kind: one of them goes into each batch.
    labels = [pair(f"q{i}", "label") for i in range(40)]
    data = training_data(tmp_path, [*labels, *pairs(20)])
    sampler = BatchSampler(data, 4, 0)
    batches = [sampler.next() for _ in range(40)]
    labelled = [sum("label" in _texts(instance) for instance in batch) for batch in batches]
    assert set(labelled[1:]) == {1}
    visited = Counter(row for _, row in _rows(batches) if row < 40)
    assert len(visited) == 40 and set(visited.values()) == {1}  # in turn, none before the others
    waiting = sum(len(visits) for source in sampler.state_dict()["sources"] for _, visits in source["waiting"])
    assert waiting <= 60  # once each, however long this goes on


def test_a_batch_that_cannot_be_filled_is_refused_at_once(tmp_path: Path) -> None:
    rows = [pair(f"q{i}", f"label {i % 3}") for i in range(90)]
    data = training_data(tmp_path, rows)
    assert len(BatchSampler(data, 3, 0).next()) == 3
    with pytest.raises(
        InputError, match=r"a batch of 4 cannot be filled from 90 rows .*: 3 is the size .*lower the ba"
    ):
        BatchSampler(data, 4, 0)
    with pytest.raises(ValueError, match=r"batch size must be >= 1"):
        BatchSampler(data, 0, 0)


def test_a_source_with_few_texts_does_not_stop_the_others(tmp_path: Path) -> None:
    data = training_data(tmp_path, [pair(f"q{i}", "label") for i in range(30)], pairs(30))
    sampler = BatchSampler(data, 8, 0)
    for _ in range(20):
        assert Counter(instance.source for instance in sampler.next()) == {"0": 1, "1": 7}


def test_unsupervised_batches_hold_no_text_twice(tmp_path: Path) -> None:
    rows = [{"text": text} for text in ["a", "b", " a ", "c  d", "c d", "e"]]
    sampler = BatchSampler(training_data(tmp_path, rows, mode="unsupervised"), 4, 0)
    batches = [sampler.next() for _ in range(30)]
    for batch in batches:
        assert {" ".join(text.split()) for instance in batch for text in _texts(instance)} == {"a", "b", "c d", "e"}
    assert {row for _, row in _rows(batches)} == set(range(6))


def test_instructions_and_names_come_from_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    config = DataConfig(
        train=str(tmp_path / "a.txt"), document_instruction="D: ", query_instruction="Q: ", cache=str(tmp_path / "c")
    )
    data, holdout = load_training_data(config, "unsupervised", seed=0)
    assert holdout is None
    batch = BatchSampler(data, 2, 0).next()
    assert sorted(batch, key=lambda instance: instance.row) == [
        TextInstance("a.txt", 0, "one", "D: "),
        TextInstance("a.txt", 1, "two", "D: "),
    ]


def test_another_run_s_state_is_refused(tmp_path: Path) -> None:
    data = training_data(tmp_path, pairs(6))
    state = BatchSampler(data, 2, 0).state_dict()
    with pytest.raises(ValueError, match="seed 0, and this run has 1"):
        BatchSampler(data, 2, 1).load_state_dict(state)
    with pytest.raises(ValueError, match="it had 0 with 6 rows, and there are 0 with 5 rows now"):
        BatchSampler(training_data(tmp_path, pairs(5)), 2, 0).load_state_dict(state)
    with pytest.raises(ValueError, match=r"0 has other texts than in the run that is continued"):
        BatchSampler(training_data(tmp_path, pairs(6, "x")), 2, 0).load_state_dict(state)


def test_the_mask_tells_who_shares_a_text() -> None:
    def instance(query: str, *positives: str) -> Instance:
        return Instance("s", 0, query, positives[0], (), positives)

    instances = [
        instance("a", "b"),
        instance("c", "d", "b "),
        instance("e", "a"),
        instance("f", "g"),
        instance("f", "h"),
    ]
    mask = in_batch_mask(instances)
    shared = {(0, 1), (0, 2), (3, 4)}
    expected = [[i != j and (i, j) not in shared and (j, i) not in shared for j in range(5)] for i in range(5)]
    assert np.array_equal(mask, np.array(expected))
    assert in_batch_mask([TextInstance("s", 0, "a"), TextInstance("s", 1, "a")]).sum() == 0
    assert in_batch_mask([]).size == 0


@pytest.mark.data
def test_real_questions_and_answers(data_dir: Path, tmp_path: Path) -> None:
    config = DataConfig(
        train=str(data_dir / "medquad" / "medquad_qa.jsonl.gz"),
        query_field="question",
        positive_field="answer",
        cache=str(tmp_path),
        holdout=200,
    )
    data, holdout = load_training_data(config, "supervised", seed=0)
    assert len(data) + 200 == 16407
    assert holdout is not None and 100 < len(holdout.queries) <= 200
    sampler = BatchSampler(data, 64, 0)
    for _ in range(30):
        batch = sampler.next()
        assert in_batch_mask(batch).sum() == 64 * 63
        assert not {instance.query for instance in map(_supervised, batch)} & set(holdout.queries)


@pytest.mark.data
def test_real_labels_as_positives(data_dir: Path, tmp_path: Path) -> None:
    config = DataConfig(
        train=str(data_dir / "banking77" / "train.csv"),
        query_field="text",
        positive_field="category",
        cache=str(tmp_path),
    )
    data, _ = load_training_data(config, "supervised", seed=0)
    with pytest.raises(InputError, match=r"a batch of 78 cannot be filled .*: 77 is the size"):
        BatchSampler(data, 78, 0)
    sampler = BatchSampler(data, 77, 0)
    for _ in range(20):
        assert len({instance.positive for instance in map(_supervised, sampler.next())}) == 77
