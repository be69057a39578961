"""The formulas written out in plain Python, one number at a time: what the tensor code is held against.

Vectors are lists of floats. ``queries[i]`` is a list of rollouts (one where the query has none), ``negatives[i]`` holds
the real ones only, and ``others[i]`` the instances that may serve as negatives of instance i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Vector = list[float]
Term = list[list[float]]


def cosine(a: Vector, b: Vector) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass
class Batch:
    queries: list[list[Vector]]
    positives: list[list[Vector]]
    negatives: list[list[Vector]]
    others: list[list[int]]

    @property
    def size(self) -> int:
        return len(self.queries)


def consistency(rollouts: list[list[Vector]]) -> Term:
    return [
        [mean([cosine(p, q) for j, q in enumerate(group) if j != k]) for k, p in enumerate(group)] for group in rollouts
    ]


def hard_of_query(batch: Batch, i: int, query: Vector) -> float:
    return -mean([max(cosine(query, p) for p in batch.positives[j]) for j in batch.others[i]])


def paper(batch: Batch) -> dict[str, Term]:
    terms: dict[str, Term] = {"positive": [], "negative": [], "hard": []}
    for i in range(batch.size):
        query, count = batch.queries[i][0], len(batch.positives[i])
        terms["positive"].append([cosine(query, p) for p in batch.positives[i]])
        terms["negative"].append([-sum(cosine(query, n) for n in batch.negatives[i])] * count)
        terms["hard"].append([hard_of_query(batch, i, query)] * count)
    return {**terms, "consistency": consistency(batch.positives)}


def per_rollout(batch: Batch, hard_reduction: str = "mean") -> dict[str, Term]:
    """Of the positive's rollouts; with several rollouts of the query it is the positive's side of ``symmetric``."""
    reduce = mean if hard_reduction == "mean" else (lambda values: max(values, default=0.0))
    terms: dict[str, Term] = {"positive": [], "negative": [], "hard": []}
    for i in range(batch.size):
        group = batch.positives[i]
        terms["positive"].append([mean([cosine(q, p) for q in batch.queries[i]]) for p in group])
        terms["negative"].append([-mean([cosine(p, n) for n in batch.negatives[i]]) for p in group])
        terms["hard"].append(
            [-reduce([mean([cosine(q, p) for q in batch.queries[j]]) for j in batch.others[i]]) for p in group]
        )
    return {**terms, "consistency": consistency(batch.positives)}


def query_side(batch: Batch) -> dict[str, Term]:
    terms: dict[str, Term] = {"positive": [], "negative": [], "hard": []}
    for i in range(batch.size):
        group = batch.queries[i]
        terms["positive"].append([mean([cosine(q, p) for p in batch.positives[i]]) for q in group])
        terms["negative"].append([-mean([cosine(q, n) for n in batch.negatives[i]]) for q in group])
        terms["hard"].append([hard_of_query(batch, i, q) for q in group])
    return {**terms, "consistency": consistency(batch.queries)}


def infonce(batch: Batch, temperature: float, other_positives: bool) -> dict[str, Term]:
    positive: Term = []
    for i in range(batch.size):
        query = batch.queries[i][0]
        rewards = []
        for p in batch.positives[i]:
            z = math.exp(cosine(query, p) / temperature)
            z += sum(math.exp(cosine(batch.queries[j][0], p) / temperature) for j in batch.others[i])
            z += sum(math.exp(cosine(query, n) / temperature) for n in batch.negatives[i])
            if other_positives:
                means = [mean([cosine(query, p_j) for p_j in batch.positives[j]]) for j in batch.others[i]]
                z += sum(math.exp(value / temperature) for value in means)
            rewards.append(cosine(query, p) / temperature - math.log(z))
        positive.append(rewards)
    zeros = [[0.0] * len(group) for group in batch.positives]
    return {"positive": positive, "negative": zeros, "hard": zeros, "consistency": consistency(batch.positives)}


def total(terms: dict[str, Term], scale: float, lambda_consistency: float, lambda_hard: float) -> Term:
    return [
        [
            scale * (positive + negative + lambda_consistency * agreement + lambda_hard * hard)
            for positive, negative, agreement, hard in zip(*rows, strict=True)
        ]
        for rows in zip(terms["positive"], terms["negative"], terms["consistency"], terms["hard"], strict=True)
    ]
