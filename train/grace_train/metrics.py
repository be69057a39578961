"""What a run logs about its rollouts: does a reward term train, do vectors collapse, are rollouts distinct.

Pure functions; half precision is computed in float32. A mean over no pair is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grace_train.reward_terms import unit_vectors
from grace_train.tensor_checks import full_precision, require_floats, require_mask, shape_of


def within_group_std(values: Tensor) -> Tensor:
    """The standard deviation of rewards within their groups, averaged over the groups.

    A reward term for which it is 0 trains nothing under a group baseline.

    Args:
        values: ``[B, K]``.

    Returns:
        A scalar: the mean of the population standard deviations. Exactly 0 where the values of each group are equal.

    Raises:
        ValueError: A shape or dtype that does not fit.
    """
    require_floats("values", values, "[B, K]")
    return full_precision(values).std(dim=1, correction=0).mean()


def mean_off_diagonal_similarity(vectors: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean cosine of different vectors; near 1 they have collapsed.

    Args:
        vectors: ``[N, d]``.
        mask: ``[N, N]`` bool, True where a pair counts; the diagonal never does. None: all pairs.

    Returns:
        A scalar.

    Raises:
        ValueError: A shape or dtype that does not fit.
    """
    require_floats("vectors", vectors, "[N, d]")
    size = vectors.shape[0]
    pairs = ~torch.eye(size, dtype=torch.bool, device=vectors.device)
    if mask is not None:
        require_mask("mask", mask, (size, size), "[N, N]")
        pairs = pairs & mask
    unit = unit_vectors(vectors)
    return _masked_mean(unit @ unit.T, pairs)


def mean_query_negative_similarity(query: Tensor, negatives: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean cosine of queries with their own negatives.

    Args:
        query: ``[B, d]``.
        negatives: ``[B, M, d]``.
        mask: ``[B, M]`` bool, True = real. None: all are.

    Returns:
        A scalar.

    Raises:
        ValueError: A shape or dtype that does not fit.
    """
    require_floats("query", query, "[B, d]")
    require_floats("negatives", negatives, "[B, M, d]")
    if (negatives.shape[0], negatives.shape[2]) != tuple(query.shape):
        raise ValueError(f"negatives {shape_of(negatives)} must be [B, M, d] for the query's {shape_of(query)}")
    if mask is None:
        mask = torch.ones(negatives.shape[:2], dtype=torch.bool, device=negatives.device)
    require_mask("mask", mask, tuple(negatives.shape[:2]), "[B, M]")
    similarities = torch.einsum("bd,bmd->bm", unit_vectors(query), unit_vectors(negatives))
    return _masked_mean(similarities, mask)


def effective_rank(vectors: Tensor) -> Tensor:
    """How many directions vectors use: the exponential of the entropy of the singular values (Roy & Vetterli, 2007).

    Args:
        vectors: ``[N, d]``; only their directions count.

    Returns:
        A scalar from 1, all on one line, to min(N, d), all directions alike; 0 where all vectors are zero.

    Raises:
        ValueError: A shape or dtype that does not fit.
    """
    require_floats("vectors", vectors, "[N, d]")
    values = torch.linalg.svdvals(unit_vectors(vectors))
    total = values.sum()
    rank = torch.special.entr(values / torch.where(total > 0, total, 1.0)).sum().exp()
    return torch.where(total > 0, rank, 0.0)


def distinct_share(groups: Sequence[Sequence[tuple[int, ...]]]) -> float:
    """The share of distinct rollouts in a group, averaged over the groups.

    Args:
        groups: For each prompt the token ids of its rollouts.

    Returns:
        From 1/K, all alike, to 1.

    Raises:
        ValueError: There is no group, or an empty one.
    """
    if not groups or not all(groups):
        raise ValueError("distinct_share needs at least one group, and at least one rollout in each")
    return sum(len(set(rollouts)) / len(rollouts) for rollouts in groups) / len(groups)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
