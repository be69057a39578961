"""The terms of the contrastive rewards (GRACE, arXiv 2510.04506, Eq. 13-15), on unit vectors.

The parts of ``grace_train.rewards``, which says what they mean and weighs them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grace_train.choices import HardReduction
from grace_train.tensor_checks import full_precision, require_finite, require_floats, require_mask, shape_of


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors of length 1 (half precision becomes float32). A zero vector stays zero.

    Args:
        vectors: ``[..., d]``.
    """
    vectors = full_precision(vectors)
    # Squares of very long and very short vectors leave the range of float32; scaled by the largest entry they do not.
    peak = vectors.detach().abs().amax(dim=-1, keepdim=True)
    vectors = vectors / torch.where(peak > 0, peak, 1.0)
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


@dataclass(frozen=True, eq=False)
class RewardBatch:
    """Checked unit vectors: queries ``[B, Kq, d]``, positives ``[B, K, d]``, negatives ``[B, M, d]`` (padding is 0)."""

    queries: Tensor
    positives: Tensor
    negatives: Tensor
    real: Tensor  # [B, M]
    allowed: Tensor  # [B, B], False on the diagonal

    @classmethod
    def of(
        cls,
        queries: Tensor,
        positives: Tensor,
        negatives: Tensor,
        negative_mask: Tensor | None,
        in_batch_mask: Tensor | None,
        names: tuple[str, str, str] = ("query", "positives", "negatives"),
    ) -> RewardBatch:
        """Check how the tensors fit together, and scale them to unit vectors.

        Args:
            queries: ``[B, Kq, d]``, finite; Kq is 1 for a query without rollouts.
            positives: ``[B, K, d]``, finite.
            negatives: ``[B, M, d]``; M may be 0.
            negative_mask: ``[B, M]`` bool, True = real. None: all are.
            in_batch_mask: ``[B, B]`` bool. None: all others may serve as negatives.
            names: Of the three tensors, for messages.

        Raises:
            ValueError: They do not fit, or a real negative is not finite.
        """
        size, dimension = positives.shape[0], positives.shape[2]
        require_floats(names[2], negatives, "[B, M, d]")
        for name, given in zip(names, (queries, positives, negatives), strict=True):
            if given.shape[0] != size or given.shape[2] != dimension:
                raise ValueError(
                    f"{name} has {given.shape[0]} instances of dimension {given.shape[2]}, and {names[1]} "
                    f"{shape_of(positives)} has {size} of dimension {dimension}: both must be the same"
                )
            if given.dtype != positives.dtype:
                raise ValueError(f"{name} is {given.dtype} and {names[1]} is {positives.dtype}: convert one of them")
        if not queries.numel() or not positives.numel():
            raise ValueError(f"{names[0]} and {names[1]} must not be empty, got {names[1]} {shape_of(positives)}")
        if negative_mask is None:
            negative_mask = torch.ones(negatives.shape[:2], dtype=torch.bool, device=negatives.device)
        require_mask("negative_mask", negative_mask, (size, negatives.shape[1]), "[B, M]")
        negatives = negatives.masked_fill(~negative_mask.unsqueeze(-1), 0.0)
        allowed = ~torch.eye(size, dtype=torch.bool, device=positives.device)
        if in_batch_mask is not None:
            require_mask("in_batch_mask", in_batch_mask, (size, size), "[B, B]")
            allowed = allowed & in_batch_mask
        require_finite(names[2], negatives)  # here, since what padding holds is no error
        return cls(unit_vectors(queries), unit_vectors(positives), unit_vectors(negatives), negative_mask, allowed)

    @property
    def anchor(self) -> Tensor:
        """``[B, d]``; its product with a unit vector is the mean of the cosines with the query's rollouts."""
        return self.queries.mean(dim=1)

    @property
    def mean_negative(self) -> Tensor:
        """``[B, d]``; its product with a unit vector is the mean of the cosines with the real negatives."""
        return self.negatives.sum(dim=1) / self.real.sum(dim=1, keepdim=True).clamp(min=1)

    def mean_over_others(self, values: Tensor) -> Tensor:
        """Means over the instances j that may serve as negatives of i: ``[B, X, B]`` at (i, x, j) to ``[B, X]``."""
        allowed = self.allowed.unsqueeze(1)
        return values.masked_fill(~allowed, 0.0).sum(dim=-1) / allowed.sum(dim=-1).clamp(min=1)

    def crossed(self) -> Tensor:
        """``[B, K, B]``: the similarity of rollout k of instance i with the query of instance j."""
        return torch.einsum("ikd,jd->ikj", self.positives, self.anchor)


def paper_terms(batch: RewardBatch) -> dict[str, Tensor]:
    """Eq. 13-15, as published: ``[B, K]`` each. The negative and the hard term do not depend on k."""
    positive = torch.einsum("bkd,bd->bk", batch.positives, batch.anchor)
    negative = -(batch.anchor * batch.negatives.sum(dim=1)).sum(dim=-1, keepdim=True)
    return {
        "positive": positive,
        "negative": negative.expand_as(positive).clone(),
        "consistency": _consistency(batch.positives),
        "hard": _hard_of_queries(batch).expand_as(positive).clone(),
    }


def per_rollout_terms(batch: RewardBatch, hard_reduction: HardReduction) -> dict[str, Tensor]:
    """All terms of each rollout itself: ``[B, K]`` each. Queries with rollouts count by the mean over these."""
    crossed = batch.crossed()
    if hard_reduction == "mean":
        hard = -batch.mean_over_others(crossed)
    else:
        allowed = batch.allowed.unsqueeze(1)
        nearest = crossed.masked_fill(~allowed, -math.inf).amax(dim=-1)
        hard = -torch.where(allowed.any(dim=-1), nearest, 0.0)
    return {
        "positive": torch.einsum("bkd,bd->bk", batch.positives, batch.anchor),
        "negative": -torch.einsum("bkd,bd->bk", batch.positives, batch.mean_negative),
        "consistency": _consistency(batch.positives),
        "hard": hard,
    }


def query_terms(batch: RewardBatch) -> dict[str, Tensor]:
    """The terms of the query's rollouts: ``[B, Kq]`` each."""
    return {
        "positive": torch.einsum("bad,bd->ba", batch.queries, batch.positives.mean(dim=1)),
        "negative": -torch.einsum("bad,bd->ba", batch.queries, batch.mean_negative),
        "consistency": _consistency(batch.queries),
        "hard": _hard_of_queries(batch),
    }


def infonce_terms(batch: RewardBatch, temperature: float, other_positives: bool) -> dict[str, Tensor]:
    """The log-probability of the query, in nats, as the positive term: ``[B, K]`` each."""
    shape = batch.positives.shape[:2]
    positive = torch.einsum("bkd,bd->bk", batch.positives, batch.anchor).unsqueeze(-1)
    allowed = batch.allowed.unsqueeze(1)
    negative = torch.einsum("bd,bmd->bm", batch.anchor, batch.negatives).unsqueeze(1)
    contrasts = [batch.crossed().masked_fill(~allowed, -math.inf)]
    contrasts.append(negative.masked_fill(~batch.real.unsqueeze(1), -math.inf).expand(*shape, -1))
    if other_positives:
        others = torch.einsum("id,jd->ij", batch.anchor, batch.positives.mean(dim=1)).unsqueeze(1)
        contrasts.append(others.masked_fill(~allowed, -math.inf).expand(*shape, -1))
    # Relative to the positive, whose own share is exp(0): exactly 0 where there is nothing to contrast with.
    relative = torch.cat([torch.zeros_like(positive), torch.cat(contrasts, dim=-1) - positive], dim=-1)
    zeros = torch.zeros(shape, dtype=positive.dtype, device=positive.device)
    return {
        "positive": -torch.logsumexp(relative / temperature, dim=-1),
        "negative": zeros,
        "consistency": _consistency(batch.positives),
        "hard": zeros.clone(),
    }


def _consistency(rollouts: Tensor) -> Tensor:
    """Eq. 14: ``[B, K, d]`` to ``[B, K]``."""
    count = rollouts.shape[1]
    similarities = torch.einsum("bkd,bjd->bkj", rollouts, rollouts)
    itself = torch.eye(count, dtype=torch.bool, device=rollouts.device)
    return similarities.masked_fill(itself, 0.0).sum(dim=-1) / max(count - 1, 1)


def _hard_of_queries(batch: RewardBatch) -> Tensor:
    """Eq. 15 for each rollout of the query: ``[B, Kq]``."""
    nearest = torch.einsum("iad,jld->iajl", batch.queries, batch.positives).amax(dim=-1)
    return -batch.mean_over_others(nearest)
