"""Metrics on cases whose answer is known."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_train.metrics import (
    distinct_share,
    effective_rank,
    mean_off_diagonal_similarity,
    mean_query_negative_similarity,
    within_group_std,
)


def test_within_group_std() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    assert within_group_std(values).item() == pytest.approx(0.5)
    assert within_group_std(torch.tensor([[4.0], [9.0]])) == 0
    assert within_group_std(torch.full((2, 7), 1000.1)) == 0
    assert within_group_std(values.bfloat16()).dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(-10, 10), st.floats(0.1, 10))
def test_within_group_std_follows_scale_and_ignores_levels(seed: int, level: float, factor: float) -> None:
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    levels = level * torch.arange(3).unsqueeze(1)
    torch.testing.assert_close(within_group_std(values * factor + levels), factor * within_group_std(values))


def test_off_diagonal_similarity() -> None:
    vectors = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0]])
    assert mean_off_diagonal_similarity(vectors).item() == pytest.approx(1 / 3)
    only = torch.eye(3).bool()
    only[0, 1] = True
    assert mean_off_diagonal_similarity(vectors, only).item() == pytest.approx(1)
    assert mean_off_diagonal_similarity(vectors, torch.eye(3).bool()) == 0
    assert mean_off_diagonal_similarity(vectors[:1]) == 0


def test_query_negative_similarity() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    negatives = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, -3.0], [float("nan"), 0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert mean_query_negative_similarity(query, negatives, mask).item() == pytest.approx(0)
    assert mean_query_negative_similarity(query[:1], negatives[:1]).item() == pytest.approx(0.5)
    assert mean_query_negative_similarity(query, negatives, ~mask.new_ones(2, 2)) == 0
    assert mean_query_negative_similarity(query, torch.zeros(2, 0, 2)) == 0


def test_effective_rank() -> None:
    line = torch.tensor([[1.0, 2.0], [10.0, 20.0], [-3.0, -6.0]])
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 400.0])).item() == pytest.approx(4)
    # Singular values 2 and 1 by construction: entropy of (2/3, 1/3).
    skew = torch.cat([torch.eye(2)[:1]] * 4 + [torch.eye(2)[1:]])
    assert effective_rank(skew).item() == pytest.approx(3 / 2 ** (2 / 3))
    assert effective_rank(torch.zeros(3, 2)) == 0
    assert effective_rank(torch.zeros(0, 2)) == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5))
def test_effective_rank_has_bounds_and_ignores_rotation(seed: int, rows: int, dimension: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, dimension, generator=generator, dtype=torch.float64)
    rank = effective_rank(vectors).item()
    assert 1 - 1e-9 <= rank <= min(rows, dimension) + 1e-9
    rotation = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)).Q
    assert effective_rank(vectors @ rotation).item() == pytest.approx(rank)


def test_distinct_share() -> None:
    assert distinct_share([[(1, 2), (1, 2), (1,), (3,)], [(5,), (5,)]]) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert distinct_share([[(), (1,)]]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: within_group_std(torch.zeros(3)), "values must be [B, K], got [3]"),
        (lambda: mean_off_diagonal_similarity(torch.zeros(3, 2), torch.ones(3, 3)), "mask must be bool"),
        (
            lambda: mean_query_negative_similarity(torch.zeros(3, 2), torch.zeros(3, 1, 4)),
            "negatives [3, 1, 4] must be",
        ),
        (lambda: effective_rank(torch.zeros(3, 2, 2)), "vectors must be [N, d], got [3, 2, 2]"),
        (lambda: distinct_share([]), "at least one group"),
        (lambda: distinct_share([[(1,)], []]), "at least one rollout in each"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
