"""The formula of `grace-st plan`, against figures counted by hand and a store that was written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_st.scale.costs import Corpus, Range, Throughput, costs_of, seconds_per_text, store_entry_bytes
from grace_st.store import RationaleStore, StoredRollout

MEASURED = Throughput(texts_per_second=20.0, text_tokens=100.0, rationale_tokens=50.0, measured="a machine")
CORPUS = Corpus(texts=7_200_000, text_tokens=100.0, rationale_tokens=50.0, dimensions=1000)
POSITIVE = st.floats(0.1, 1e4)


def test_the_costs_of_what_was_measured() -> None:
    costs = costs_of(CORPUS, MEASURED, workers=4, price_per_hour=2.0, shard_rows=1000)
    assert (costs.text_tokens, costs.rationale_tokens) == (7.2e8, 3.6e8)
    assert costs.worker_hours == Range(100.0, 100.0)  # 7.2 million texts, 72 thousand an hour
    assert costs.hours == Range(25.0, 25.0)
    assert costs.price == Range(200.0, 200.0)
    assert costs.vector_bytes == costs.flat_index_bytes == 2.88e10
    assert costs.output_bytes == 7.2e6 * (4000 + 24 + 50 * (4 + 4))
    assert costs.running_store_bytes == 4000 * costs.store_bytes / 7.2e6
    assert costs.hnsw_index_bytes == 7.2e6 * (4000 + 256)


def test_what_is_kept_decides_the_size() -> None:
    small = replace(CORPUS, dtype="int8", keep_rationales=False)
    costs = costs_of(small, MEASURED, shard_rows=1000)
    assert costs.vector_bytes == 7.2e9
    assert costs.output_bytes == 7.2e6 * (4000 + 24)
    assert costs.price is None


@given(read=POSITIVE, write=POSITIVE, tokens=POSITIVE, rationale=POSITIVE)
def test_the_range_holds_for_every_way_the_time_can_divide(
    read: float, write: float, tokens: float, rationale: float
) -> None:
    """Of a machine that needs ``read`` and ``write`` seconds for a token of each kind."""
    seconds = read * MEASURED.text_tokens + write * MEASURED.rationale_tokens
    found = seconds_per_text(replace(MEASURED, texts_per_second=1 / seconds), tokens, rationale)
    assert found.low * (1 - 1e-9) <= read * tokens + write * rationale <= found.high * (1 + 1e-9)


def test_a_measurement_without_rationales_tells_nothing_of_them() -> None:
    without = replace(MEASURED, rationale_tokens=0.0)
    assert seconds_per_text(without, 200.0, 0.0) == Range(0.1, 0.1)
    with pytest.raises(ValueError, match="was measured without any: measure it with rationales"):
        seconds_per_text(without, 100.0, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("texts", 0), ("dimensions", 0), ("dtype", "bf16"), ("text_tokens", -1.0), ("rationale_tokens", math.inf)],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        replace(CORPUS, **{name: value})


@pytest.mark.parametrize("dimensions", [32, 384, 896, 1536, 2048])
def test_the_size_of_a_store_is_that_of_one(tmp_path: Path, dimensions: int) -> None:
    count, tokens = 1500, 120
    generator = np.random.default_rng(0)
    with RationaleStore(tmp_path / "store.sqlite") as store:
        entries = {
            generator.bytes(32): StoredRollout(tuple(range(tokens)), 2, np.zeros(dimensions, np.float32))
            for _ in range(count)
        }
        store.put({"weights": "x"}, entries)
    size = (tmp_path / "store.sqlite").stat().st_size  # closed, so its journal is in it
    assert size == pytest.approx(count * store_entry_bytes(dimensions, tokens), rel=0.1)
