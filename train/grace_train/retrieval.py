"""Retrieval metrics from vectors, per query, and their bootstrap intervals.

Pure numpy. Knows nothing about models, texts or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CUTOFF = 10
RESAMPLES = 2000
TIE = 1e-9
"""Cosines that differ by less are ties. Equal vectors must tie in whatever order a matrix product sums them: in float64
that moves a cosine by about 1e-15, and vectors of float32 are not exact beyond 1e-7."""


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with a 95% bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class RetrievalScores:
    """Metrics of each query; average them, or give them to `estimate`.

    Attributes:
        ndcg: ``[n]`` normalised discounted cumulative gain at the cutoff, binary relevance.
        recall_at_1: ``[n]`` share of the relevant documents that are first: 0 or 1 for a query with one.
        mrr: ``[n]`` 1 / rank of the first relevant document, over the whole ranking.
    """

    ndcg: np.ndarray
    recall_at_1: np.ndarray
    mrr: np.ndarray


def retrieval_scores(
    queries: np.ndarray,
    documents: np.ndarray,
    relevant: Sequence[Sequence[int]],
    *,
    cutoff: int = CUTOFF,
    block: int = 1024,
) -> RetrievalScores:
    """Rank all documents for each query by cosine similarity and score the rankings.

    A document as similar as a relevant one is ranked before it: ties never flatter. A zero vector has similarity 0
    to everything.

    Args:
        queries: ``[n, d]``, need not be normalised.
        documents: ``[m, d]``, need not be normalised.
        relevant: Per query the indices of its relevant documents, at least one. Order and repeats do not matter.
        cutoff: How many documents nDCG looks at.
        block: At most ``block * block`` similarities are in memory at once.

    Raises:
        ValueError: The shapes do not fit, a value is not finite, a query has no relevant document or one that does
            not exist, or ``cutoff`` or ``block`` is below 1.
    """
    if cutoff < 1:
        raise ValueError(f"cutoff must be at least 1, got {cutoff}")
    ranks = _relevant_ranks(queries, documents, relevant, block)
    return RetrievalScores(
        ndcg=np.array([_gain(own[:cutoff], cutoff) / _gain(np.arange(len(own))[:cutoff], cutoff) for own in ranks]),
        recall_at_1=np.array([(own[0] == 0) / len(own) for own in ranks]),
        mrr=np.array([1.0 / (own[0] + 1) for own in ranks]),
    )


def retrieval_ranks(queries: np.ndarray, documents: np.ndarray, relevant: Sequence[int]) -> np.ndarray:
    """The rank of each query's document where each has one, as in `retrieval_scores`.

    Args:
        queries: ``[n, d]``.
        documents: ``[m, d]``.
        relevant: Per query the index of its document.

    Returns:
        ``[n]``, 0 is first.

    Raises:
        ValueError: As `retrieval_scores`.
    """
    return np.concatenate(_relevant_ranks(queries, documents, [[index] for index in relevant], block=1024))


def ndcg(ranks: np.ndarray, cutoff: int = CUTOFF) -> np.ndarray:
    """Discounted gain of documents at ``ranks`` ``[n]``: the nDCG of queries with one relevant document each."""
    return np.where(ranks < cutoff, 1.0 / np.log2(ranks + 2.0), 0.0)


def estimate(values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean and 95% percentile-bootstrap interval over queries ``[n]``."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def _gain(ranks: np.ndarray, cutoff: int) -> float:
    return float(ndcg(ranks, cutoff).sum())


def _relevant_ranks(
    queries: np.ndarray, documents: np.ndarray, relevant: Sequence[Sequence[int]], block: int
) -> list[np.ndarray]:
    """Per query the ranks of its relevant documents, ascending."""
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    queries, documents = _unit("queries", queries), _unit("documents", documents)
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"queries and documents must have one dimension, got {queries.shape[1]} and {documents.shape[1]}: encode "
            "both with the same model"
        )
    wanted = _checked_indices(relevant, len(queries), len(documents))

    # One row for each pair of a query and a relevant document; ragged lists need no padding this way.
    owner = np.repeat(np.arange(len(queries)), [len(own) for own in wanted])
    similarity = np.empty(len(owner))
    at_least = np.zeros(len(owner), dtype=np.int64)
    document = np.concatenate(wanted)
    for start in range(0, len(owner), block):
        rows = slice(start, start + block)
        vectors = queries[owner[rows]]
        similarity[rows] = np.einsum("nd,nd->n", vectors, documents[document[rows]])
        threshold = similarity[rows, None] - TIE
        for first in range(0, len(documents), block):
            at_least[rows] += (vectors @ documents[first : first + block].T >= threshold).sum(axis=1)

    ranks, end = [], 0
    for own in wanted:
        start, end = end, end + len(own)
        order = np.argsort(similarity[start:end])
        ascending = similarity[start:end][order]
        # Relevant documents do not push each other down but by their order; all others that tie come first.
        relevant_at_least = len(own) - np.searchsorted(ascending, ascending - TIE)
        others = at_least[start:end][order] - relevant_at_least
        ranks.append(others[::-1] + np.arange(len(own)))
    return ranks


def _unit(name: str, vectors: np.ndarray) -> np.ndarray:
    """The vectors in float64 and of length 1; zero stays zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"{name} must be a matrix with a row for each text, got the shape {list(vectors.shape)}")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {len(bad)} of {len(vectors)} rows (the first is row "
            f"{bad[0]}): the model that made them is broken or overflows its number type"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1.0, lengths)


def _checked_indices(relevant: Sequence[Sequence[int]], queries: int, documents: int) -> list[np.ndarray]:
    if len(relevant) != queries:
        raise ValueError(f"relevant must have an entry for each of the {queries} queries, got {len(relevant)} entries")
    checked = []
    for query, own in enumerate(relevant):
        indices = np.unique(np.asarray(own, dtype=np.int64))
        if len(indices) == 0:
            raise ValueError(f"query {query} has no relevant document: leave it out, it cannot be scored")
        if indices[0] < 0 or indices[-1] >= documents:
            wrong = indices[0] if indices[0] < 0 else indices[-1]
            raise ValueError(f"query {query} names document {wrong}, and there are documents 0 to {documents - 1}")
        checked.append(indices)
    return checked
