from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import grace_st
from grace_st.module import GenerateThenPool
from grace_train.baselines.batches import StepBatches, columns
from grace_train.data.batches import BatchSampler
from grace_train.data.instances import Instance, TextInstance
from grace_train.data.loading import load_training_data
from tests.conftest import GraceFolder
from tests.train.local.conftest import MakeConfig


@pytest.fixture
def module(grace_folder: GraceFolder) -> GenerateThenPool:
    found: GenerateThenPool = grace_st.load(grace_folder("qwen2"))[0]
    return found


def texts_of(module: GenerateThenPool, features: dict[str, Any], role: str) -> list[str]:
    rows = zip(
        features[f"{role}_input_ids"].tolist(),
        features[f"{role}_pool_start"].tolist(),
        features[f"{role}_attention_mask"].sum(dim=1).tolist(),
        strict=True,
    )
    tail = len(module.prompt.tail_ids)
    return [module.prompt.decode(ids[start : length - tail]) for ids, start, length in rows]


def pair(query: str, positive: str, negatives: Sequence[str] = (), instruction: str | None = None) -> Instance:
    return Instance("s", 0, query, positive, tuple(negatives), (positive,), instruction, None)


def test_the_columns_are_the_instances(module: GenerateThenPool) -> None:
    features = columns(module, [pair("q1", "p1", ["n1", "n2"], "find: "), pair("q2", "p2")])
    assert texts_of(module, features, "anchor") == ["q1", "q2"]
    assert texts_of(module, features, "positive") == ["p1", "p2"]
    assert texts_of(module, features, "negative") == ["n1", "n2"]
    # The instruction stands before the pooled span, of the first row alone.
    starts = features["anchor_pool_start"].tolist()
    assert starts[0] > starts[1] == features["positive_pool_start"][0]


def test_a_negative_that_another_row_looks_for_is_left_out(module: GenerateThenPool) -> None:
    batch = [pair("q1", "p1", ["p2", "n"]), pair("q2", "p2", ["q1"])]
    assert texts_of(module, columns(module, batch), "negative") == ["n"]
    assert not any(name.startswith("negative") for name in columns(module, [pair("q1", "p1"), pair("q2", "p2")]))


def test_a_text_is_anchor_and_positive(module: GenerateThenPool) -> None:
    features = columns(module, [TextInstance("s", 0, "one"), TextInstance("s", 1, "two")])
    assert texts_of(module, features, "anchor") == texts_of(module, features, "positive") == ["one", "two"]
    assert not any(name.startswith("negative") for name in features)


def test_the_batches_are_those_of_grace_in_order(make_config: MakeConfig, module: GenerateThenPool) -> None:
    config = make_config()
    data, _ = load_training_data(config.data, config.mode, seed=0)
    expected = BatchSampler(data, 3, 5)
    batches = StepBatches(BatchSampler(data, 3, 5), 2, module)
    assert len(batches) == 2
    for index in range(2):
        assert texts_of(module, batches[index], "anchor") == [item.query for item in expected.next()]
    with pytest.raises(IndexError):
        batches[2]
    with pytest.raises(RuntimeError, match="0 comes next, and 1 was asked for"):
        StepBatches(BatchSampler(data, 3, 5), 2, module)[1]
