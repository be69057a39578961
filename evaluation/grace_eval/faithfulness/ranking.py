"""nDCG@10 of each query, with graded relevance and left-out documents, as MTEB's retrieval tasks. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from grace_train.retrieval import CUTOFF, TIE

_BLOCK = 256


def graded_ndcg(
    queries: np.ndarray,
    documents: np.ndarray,
    relevance: Sequence[Mapping[int, float]],
    left_out: Sequence[int | None] | None = None,
    *,
    cutoff: int = CUTOFF,
) -> np.ndarray:
    """Rank all documents for each query by cosine similarity, and score the first.

    Gains are the relevances themselves, discounted by the logarithm of the rank, as in trec_eval. Of documents that
    are equally similar the less relevant one comes first: ties never flatter.

    Args:
        queries: ``[n, d]``, need not be normalised.
        documents: ``[m, d]``.
        relevance: For each query the relevance of its documents, by index; others have 0. At least one is positive.
        left_out: For each query a document that does not count (the query itself, in the corpus), or None.
        cutoff: How many documents count.

    Returns:
        ``[n]`` from 0 to 1.
    """
    queries, documents = _unit(queries), _unit(documents)
    scores = np.empty(len(queries))
    kept = min(cutoff, len(documents))
    for first in range(0, len(queries), _BLOCK):
        similarities = queries[first : first + _BLOCK] @ documents.T
        for row, similarity in enumerate(similarities, start=first):
            without = None if left_out is None else left_out[row]
            if without is not None:
                similarity[without] = -np.inf
            least = np.partition(similarity, len(documents) - kept)[len(documents) - kept]
            near = np.flatnonzero(similarity >= least - TIE)
            gains = np.array([relevance[row].get(int(document), 0.0) for document in near])
            rounded = np.round(similarity[near] / TIE)
            found = gains[np.lexsort((gains, -rounded))][:cutoff]
            own = [gain for document, gain in relevance[row].items() if document != without]
            best = np.sort(np.array(own, dtype=float))[::-1][:cutoff]
            scores[row] = _discounted(found) / _discounted(best)
    return scores


def _discounted(gains: np.ndarray) -> float:
    return float((np.maximum(gains, 0.0) / np.log2(np.arange(len(gains)) + 2.0)).sum())


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.where(lengths == 0, 1.0, lengths)
    return unit
