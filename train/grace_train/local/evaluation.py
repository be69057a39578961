"""Held-out retrieval with the policy as it is: greedy rationales, the vectors that an encoder would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grace_st.engines.base import Progress, Rollout, Sampling
from grace_train.data.retrieval_data import RetrievalData
from grace_train.local.policy import Policy
from grace_train.retrieval import Estimate, RetrievalScores, estimate, retrieval_scores

METRIC = "ndcg@10"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one evaluation found.

    Attributes:
        scores: Per query.
        length: Mean tokens of a rationale.
        eos_rate: Share of rationales that ended by themselves.
        similarity: Mean cosine of a query and documents that are not its own.
    """

    scores: RetrievalScores
    length: float
    eos_rate: float
    similarity: float

    @property
    def ndcg(self) -> Estimate:
        """Mean nDCG@10 with its 95% bootstrap interval over queries."""
        return estimate(self.scores.ndcg)

    @property
    def recall_at_1(self) -> Estimate:
        """Mean recall at 1 with its interval."""
        return estimate(self.scores.recall_at_1)

    def values(self) -> dict[str, float]:
        """By the names of the log."""
        return {
            f"eval/{METRIC}": float(self.scores.ndcg.mean()),
            "eval/recall@1": float(self.scores.recall_at_1.mean()),
            "eval/mrr": float(self.scores.mrr.mean()),
            "dev/length": self.length,
            "dev/eos_rate": self.eos_rate,
            "dev/unrelated_similarity": self.similarity,
        }

    def figures(self) -> dict[str, Any]:
        """For the summary: means with their 95% bootstrap intervals."""
        return {
            "queries": len(self.scores.ndcg),
            METRIC: vars(self.ndcg),
            "recall@1": vars(self.recall_at_1),
            "length": self.length,
            "eos_rate": self.eos_rate,
            "unrelated_similarity": self.similarity,
        }


def evaluate(
    policy: Policy, data: RetrievalData, *, budget: int | None = None, progress: Progress | None = None
) -> Evaluation:
    """Encode all queries and documents and rank.

    Args:
        policy: The model.
        data: ``n`` queries and ``m`` documents.
        budget: Most tokens of a rationale; 0 pools the prompt alone, None is the model's own.
        progress: Called with the number of texts that have just been encoded.
    """
    sampling = Sampling(max_new_tokens=policy.module.max_new_tokens if budget is None else budget)
    queries = _rollouts(policy, data.queries, data.query_instruction, sampling, progress)
    documents = _rollouts(policy, data.documents, data.document_instruction, sampling, progress)
    query_vectors, document_vectors = _vectors(queries), _vectors(documents)
    rollouts = [*queries, *documents]
    relevant = [sorted(own) for own in data.relevant]
    return Evaluation(
        scores=retrieval_scores(query_vectors, document_vectors, relevant),
        length=float(np.mean([len(rollout.ids) for rollout in rollouts])),
        eos_rate=float(np.mean([rollout.finished for rollout in rollouts])),
        similarity=unrelated_similarity(query_vectors, document_vectors, relevant),
    )


def _rollouts(
    policy: Policy, texts: Sequence[str], instruction: str | None, sampling: Sampling, progress: Progress | None
) -> list[Rollout]:
    prompts = policy.module.prompts_of(texts, instruction)
    with policy.autocast():
        return policy.module.rollouts(prompts, sampling, progress=progress)


def _vectors(rollouts: Sequence[Rollout]) -> np.ndarray:
    return np.stack([rollout.vector.numpy() for rollout in rollouts])


def unrelated_similarity(queries: np.ndarray, documents: np.ndarray, relevant: Sequence[Sequence[int]]) -> float:
    """Mean cosine over all pairs but the relevant ones, from sums: no matrix of all pairs is kept.

    Args:
        queries: ``[n, d]``.
        documents: ``[m, d]``.
        relevant: Per query the indices of its documents.
    """
    queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    documents = documents / np.maximum(np.linalg.norm(documents, axis=1, keepdims=True), 1e-12)
    total = float(queries.sum(axis=0) @ documents.sum(axis=0))
    pairs = len(queries) * len(documents)
    for query, own in zip(queries, relevant, strict=True):
        total -= float((documents[own] @ query).sum())
        pairs -= len(own)
    return total / max(1, pairs)
