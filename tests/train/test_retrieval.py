from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_train.retrieval import estimate, ndcg, retrieval_ranks, retrieval_scores

Problem = tuple[np.ndarray, np.ndarray, list[list[int]]]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Small whole numbers: many ties, zero vectors, and cosines that are equal or clearly different."""
    dimension, count, documents = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 12))
    row = st.lists(st.integers(-2, 2), min_size=dimension, max_size=dimension)
    queries = draw(st.lists(row, min_size=count, max_size=count))
    texts = draw(st.lists(row, min_size=documents, max_size=documents))
    indices = st.lists(st.integers(0, documents - 1), min_size=1, max_size=documents)
    relevant = draw(st.lists(indices, min_size=count, max_size=count))
    return np.array(queries, dtype=np.float32), np.array(texts, dtype=np.float32), relevant


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return float(one @ other) / lengths if lengths else 0.0


def naive(query: np.ndarray, documents: np.ndarray, relevant: set[int], cutoff: int) -> tuple[float, float, float]:
    # Among equally similar documents the relevant ones come last.
    ranking = sorted(
        range(len(documents)), key=lambda index: (-round(cosine(query, documents[index]), 7), index in relevant)
    )
    gains = [1.0 if index in relevant else 0.0 for index in ranking]
    discounts = [1 / math.log2(place + 2) for place in range(len(gains))]
    found = sum(gain * discount for gain, discount in zip(gains[:cutoff], discounts, strict=False))
    best = sum(discounts[: min(cutoff, len(relevant))])
    return found / best, gains[0] / len(relevant), 1 / (gains.index(1.0) + 1)


@settings(max_examples=150, deadline=None)
@given(problem=problems(), cutoff=st.integers(1, 12), block=st.integers(1, 5))
def test_scores_are_those_of_a_sorted_list(problem: Problem, cutoff: int, block: int) -> None:
    queries, documents, relevant = problem
    scores = retrieval_scores(queries, documents, relevant, cutoff=cutoff, block=block)
    for index, (query, own) in enumerate(zip(queries, relevant, strict=True)):
        expected = naive(query, documents, set(own), cutoff)
        assert (scores.ndcg[index], scores.recall_at_1[index], scores.mrr[index]) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(problem=problems(), scale=st.floats(1e-3, 1e3))
def test_length_of_vectors_and_size_of_blocks_do_not_matter(problem: Problem, scale: float) -> None:
    queries, documents, relevant = problem
    one = retrieval_scores(queries, documents, relevant)
    other = retrieval_scores(queries * scale, documents * (1 + np.arange(len(documents)))[:, None], relevant, block=2)
    assert np.array_equal(one.ndcg, other.ndcg) and np.array_equal(one.mrr, other.mrr)


def test_one_relevant_document_is_the_special_case() -> None:
    generator = np.random.default_rng(0)
    queries, documents = generator.normal(size=(50, 8)), generator.normal(size=(300, 8))
    relevant = generator.integers(0, 300, size=50).tolist()
    ranks = retrieval_ranks(queries, documents, relevant)
    scores = retrieval_scores(queries, documents, [[index] for index in relevant], block=7)
    assert np.array_equal(scores.ndcg, ndcg(ranks))
    assert np.array_equal(scores.recall_at_1, ranks == 0)
    assert np.array_equal(scores.mrr, 1 / (ranks + 1))


def test_copies_of_the_relevant_document_tie_with_it_in_float32() -> None:
    generator = np.random.default_rng(1)
    document = generator.normal(size=(1, 301)).astype(np.float32)
    # Copies that differ in length only: their float32 cosines differ in the last digit.
    documents = document * generator.uniform(0.1, 9.0, size=(65, 1)).astype(np.float32).round(0).clip(1)
    assert retrieval_ranks(document, documents, [0]).tolist() == [64]


def test_a_perfect_ranking_of_many_relevant_documents_scores_one() -> None:
    documents = np.eye(20)
    query = np.concatenate([np.ones(15), np.zeros(5)])[None]
    scores = retrieval_scores(query, documents, [list(range(15))])
    assert scores.ndcg.tolist() == [1.0] and scores.mrr.tolist() == [1.0]
    assert scores.recall_at_1.tolist() == [1 / 15]


def test_all_texts_with_one_vector_score_as_badly_as_can_be() -> None:
    scores = retrieval_scores(np.ones((3, 4)), np.ones((30, 4)), [[0], [5], [7]])
    assert scores.ndcg.tolist() == [0, 0, 0]
    assert scores.mrr.tolist() == [1 / 30] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.full((2, 3), np.nan)}, r"queries must be finite, got NaN or infinity in 2 of 2 rows"),
        ({"documents": np.array([[0, 0, 1], [np.inf, 0, 0]])}, r"documents must be finite.*the first is row 1"),
        ({"documents": np.ones((2, 4))}, "one dimension, got 3 and 4"),
        ({"queries": np.ones(3)}, r"queries must be a matrix.*\[3\]"),
        ({"queries": np.ones((0, 3))}, r"queries must be a matrix.*\[0, 3\]"),
        ({"relevant": [[0]]}, "each of the 2 queries, got 1 entries"),
        ({"relevant": [[0], []]}, "query 1 has no relevant document"),
        ({"relevant": [[0], [2]]}, "query 1 names document 2, and there are documents 0 to 1"),
        ({"relevant": [[-1], [0]]}, "query 0 names document -1"),
        ({"cutoff": 0}, "cutoff must be at least 1, got 0"),
        ({"block": 0}, "block must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"queries": np.ones((2, 3)), "documents": np.ones((2, 3)), "relevant": [[0], [1]]}
    with pytest.raises(ValueError, match=message):
        retrieval_scores(**{**arguments, **change})  # type: ignore[arg-type]


def test_the_interval_of_equal_values_is_a_point() -> None:
    same = estimate(np.full(10, 0.25), resamples=50)
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)
