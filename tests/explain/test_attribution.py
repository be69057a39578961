"""How a cosine splits: the mathematics against sums over single pairs of tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grace_st.explain import attribution

TOLERANCE = 1e-6


@st.composite
def spans_of_states(draw: st.DrawFn, dimension: int) -> tuple[np.ndarray, list[int]]:
    """States ``[n, d]`` in float32 and how they are grouped."""
    tokens = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    numbers = st.floats(-1e4, 1e4, width=32)
    return draw(hnp.arrays(np.float32, (sum(tokens), dimension), elements=numbers)), tokens


@st.composite
def two_texts(draw: st.DrawFn) -> tuple[tuple[np.ndarray, list[int]], tuple[np.ndarray, list[int]]]:
    dimension = draw(st.integers(1, 6))
    return draw(spans_of_states(dimension)), draw(spans_of_states(dimension))


@settings(max_examples=200, deadline=None)
@given(two_texts())
def test_shares_add_up_to_the_cosine_of_the_means(texts: object) -> None:
    (states_a, tokens_a), (states_b, tokens_b) = texts  # type: ignore[misc]
    sums_a, sums_b = attribution.span_sums(states_a, tokens_a), attribution.span_sums(states_b, tokens_b)
    shares = attribution.contributions(sums_a, sums_b)
    mean_a, mean_b = states_a.astype(np.float64).mean(axis=0), states_b.astype(np.float64).mean(axis=0)
    lengths = np.linalg.norm(mean_a), np.linalg.norm(mean_b)
    # Where states cancel to (almost) nothing the direction of their mean is rounding.
    if min(lengths) > 1e-3 * max(np.abs(states_a).max(), np.abs(states_b).max(), 1e-30):
        assert math.isclose(shares.sum(), mean_a @ mean_b / lengths[0] / lengths[1], abs_tol=TOLERANCE)
        assert math.isclose(shares.sum(), attribution.cosine(mean_a, mean_b), abs_tol=TOLERANCE)


@settings(max_examples=50, deadline=None)
@given(two_texts())
def test_a_pair_of_spans_has_the_sum_of_its_pairs_of_tokens(texts: object) -> None:
    (states_a, tokens_a), (states_b, tokens_b) = texts  # type: ignore[misc]
    mean_a, mean_b = states_a.astype(np.float64).mean(axis=0), states_b.astype(np.float64).mean(axis=0)
    length = len(states_a) * len(states_b) * np.linalg.norm(mean_a) * np.linalg.norm(mean_b)
    if length < 1e-3:
        return
    shares = attribution.contributions(
        attribution.span_sums(states_a, tokens_a), attribution.span_sums(states_b, tokens_b)
    )
    # Relative to the largest terms, which may cancel.
    rounding = 1e-9 * (1 + float(np.abs(states_a).max()) * float(np.abs(states_b).max()))
    ends_a, ends_b = np.cumsum([0, *tokens_a]), np.cumsum([0, *tokens_b])
    for a in range(len(tokens_a)):
        for b in range(len(tokens_b)):
            products = [
                float(np.dot(states_a[i].astype(np.float64), states_b[j].astype(np.float64)))
                for i in range(ends_a[a], ends_a[a + 1])
                for j in range(ends_b[b], ends_b[b + 1])
            ]
            assert math.isclose(shares[a, b] * length, sum(products), rel_tol=TOLERANCE, abs_tol=rounding)


def test_strengths_are_the_cosine_on_the_weighted_average() -> None:
    generator = np.random.default_rng(0)
    tokens_a, tokens_b = [3, 1, 6], [2, 2]
    states_a, states_b = generator.normal(size=(10, 8)), generator.normal(size=(4, 8))
    shares = attribution.contributions(
        attribution.span_sums(states_a, tokens_a), attribution.span_sums(states_b, tokens_b)
    )
    strengths = attribution.strengths(shares, tokens_a, tokens_b)
    weights = np.outer(tokens_a, tokens_b) / 40
    assert np.allclose((strengths * weights).sum(), attribution.cosine(states_a.mean(axis=0), states_b.mean(axis=0)))
    # One state repeated is as strong as it is once.
    doubled = attribution.contributions(
        attribution.span_sums(np.repeat(states_a, 2, axis=0), [6, 2, 12]), attribution.span_sums(states_b, tokens_b)
    )
    assert np.allclose(attribution.strengths(doubled, [6, 2, 12], tokens_b), strengths)


def test_a_zero_vector_has_cosine_0_and_no_shares() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((1, 3))
    assert attribution.cosine(zeros[0], ones[0]) == 0
    assert not attribution.contributions(zeros, ones).any()
    assert not attribution.strengths(np.zeros((2, 1)), [1, 1], [1]).any()


@pytest.mark.parametrize("tokens", [[], [3], [1, 0, 1], [2, 1]])
def test_spans_that_do_not_cover_the_states_are_refused(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="do not cover 2 states"):
        attribution.span_sums(np.ones((2, 3)), tokens)
