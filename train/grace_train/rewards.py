"""Contrastive rewards of rollouts (GRACE, arXiv 2510.04506, Eq. 13-17 and 21), in four variants.

Knows vectors only: not how they were pooled, which tokens they come from, or whether a rollout was finished. What the
variants reward, and what the paper's really trains, is told in docs/rewards.md.

Half precision is computed in float32 and rounded once at the end. A group's rewards can differ by less than that
rounding: give float32 vectors for training, as pooling does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from grace_train.choices import HardReduction, Variant
from grace_train.reward_terms import (
    RewardBatch,
    infonce_terms,
    paper_terms,
    per_rollout_terms,
    query_terms,
)
from grace_train.tensor_checks import require_choice, require_finite, require_floats

VARIANTS: tuple[Variant, ...] = get_args(Variant)
"""The names of the reward variants."""

HARD_REDUCTIONS: tuple[HardReduction, ...] = get_args(HardReduction)
"""How a per-rollout hard term goes from the other instances to one number."""

TERMS = ("positive", "negative", "consistency", "hard")
"""The terms of every reward."""


@dataclass(frozen=True, eq=False)
class Rewards:
    """Rewards and the terms that they are made of.

    ``total = scale * (positive + negative + lambda_consistency * consistency + lambda_hard * hard)``.

    Attributes:
        total: ``[B, K]``: the reward of each rollout.
        terms: ``[B, K]`` each, by the names of `TERMS`: signed, unscaled, unweighted.
        query_total: ``[B, Kq]``: the reward of each rollout of the query, for ``"symmetric"``.
        query_terms: ``[B, Kq]`` each, for ``"symmetric"``.
    """

    total: Tensor
    terms: dict[str, Tensor]
    query_total: Tensor | None = None
    query_terms: dict[str, Tensor] | None = None


def contrastive_rewards(
    query: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    negative_mask: Tensor | None = None,
    *,
    variant: Variant = "paper",
    lambda_consistency: float = 0.2,
    lambda_hard: float = 0.2,
    scale: float | None = None,
    temperature: float = 0.05,
    hard_reduction: HardReduction = "mean",
    other_positives: bool = False,
    in_batch_mask: Tensor | None = None,
) -> Rewards:
    """Rewards of K rollouts of each instance's positive (Eq. 13-17).

    B instances, each with one query, one positive and up to M negatives. All similarities are cosines, computed here:
    vectors need not be normalised, and a zero vector has similarity 0 with everything. K = 1 makes the consistency 0,
    B = 1 (or no instance that may serve) the hard term, and no negatives the negative term.

    Args:
        query: ``[B, d]``; ``[B, Kq, d]``, its rollouts, for ``"symmetric"``.
        positives: ``[B, K, d]``, the rollouts.
        negatives: ``[B, M, d]``, or None.
        negative_mask: ``[B, M]`` bool, True = real. What padding rows hold has no influence, NaN included.
        variant: ``"paper"`` is Eq. 13-16, whose negative and hard term are the same for all rollouts of an instance.
            ``"per_rollout"`` holds both against the rollout itself, ``"symmetric"`` rewards the query's rollouts too,
            ``"infonce"`` is the log-probability of the query among all in the batch.
        lambda_consistency: Weight of the consistency, Eq. 14.
        lambda_hard: Weight of the hard term, Eq. 15.
        scale: Multiplies the total. None: 10, and 1 for ``"infonce"``, which is in nats already.
        temperature: Divides the cosines of ``"infonce"``.
        hard_reduction: Of the positive's hard term over the other instances, for ``"per_rollout"`` and ``"symmetric"``.
        other_positives: For ``"infonce"``: the other instances' positives are negatives of the query too.
        in_batch_mask: ``[B, B]`` bool; True at (i, j) where instance j may serve as a negative of instance i. The
            diagonal is ignored. None: all others. Means are over those that may.

    Returns:
        The rewards, in the dtype of the vectors.

    Raises:
        ValueError: A shape, dtype or option that does not fit, an option without meaning for the variant, or a vector
            that is not finite.
    """
    require_choice("variant", variant, VARIANTS)
    require_choice("hard_reduction", hard_reduction, HARD_REDUCTIONS)
    if hard_reduction != "mean" and variant not in ("per_rollout", "symmetric"):
        raise ValueError(f"hard_reduction={hard_reduction!r} has no meaning for variant={variant!r}: leave it out")
    if other_positives and variant != "infonce":
        raise ValueError(f"other_positives=True has no meaning for variant={variant!r}, only for 'infonce'")
    _require_positive("temperature", temperature)
    if scale is None:
        scale = 1.0 if variant == "infonce" else 10.0
    weights = _Weights(lambda_consistency, lambda_hard, scale)

    _require_vectors("positives", positives, "[B, K, d]")
    _require_vectors(f"query (for variant={variant!r})", query, "[B, Kq, d]" if variant == "symmetric" else "[B, d]")
    if negatives is None:
        if negative_mask is not None:
            raise ValueError("negative_mask was given without negatives: give both, or neither")
        negatives = positives.new_zeros(positives.shape[0], 0, positives.shape[2])
    queries = query if variant == "symmetric" else query.unsqueeze(1)
    batch = RewardBatch.of(queries, positives, negatives, negative_mask, in_batch_mask)

    if variant == "paper":
        terms = paper_terms(batch)
    elif variant == "infonce":
        terms = infonce_terms(batch, temperature, other_positives)
    else:
        terms = per_rollout_terms(batch, hard_reduction)
    of_queries = query_terms(batch) if variant == "symmetric" else None
    return weights.rewards(positives.dtype, terms, of_queries)


def self_rewards(
    anchor: Tensor,
    rollouts: Tensor,
    *,
    lambda_consistency: float = 0.2,
    lambda_hard: float = 0.2,
    scale: float = 10.0,
    in_batch_mask: Tensor | None = None,
) -> Rewards:
    """Rewards of unsupervised training: K rollouts of a text against one more of the same text (Eq. 21, 14).

    The hard term is per rollout, as in the published code: the mean similarity with the other texts' anchors, negated.

    Args:
        anchor: ``[B, d]``.
        rollouts: ``[B, K, d]``.
        lambda_consistency: Weight of the consistency, Eq. 14.
        lambda_hard: Weight of the hard term.
        scale: Multiplies the total.
        in_batch_mask: As for `contrastive_rewards`.

    Returns:
        The rewards, in the dtype of the vectors; the negative term is 0.

    Raises:
        ValueError: A shape, dtype or option that does not fit, or a vector that is not finite.
    """
    weights = _Weights(lambda_consistency, lambda_hard, scale)
    _require_vectors("anchor", anchor, "[B, d]")
    _require_vectors("rollouts", rollouts, "[B, K, d]")
    no_negatives = rollouts.new_zeros(rollouts.shape[0], 0, rollouts.shape[2])
    batch = RewardBatch.of(
        anchor.unsqueeze(1), rollouts, no_negatives, None, in_batch_mask, names=("anchor", "rollouts", "negatives")
    )
    return weights.rewards(rollouts.dtype, per_rollout_terms(batch, "mean"))


@dataclass(frozen=True)
class _Weights:
    consistency: float
    hard: float
    scale: float

    def __post_init__(self) -> None:
        for name, value in (("lambda_consistency", self.consistency), ("lambda_hard", self.hard)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        _require_positive("scale", self.scale)

    def rewards(
        self, dtype: torch.dtype, terms: dict[str, Tensor], of_queries: dict[str, Tensor] | None = None
    ) -> Rewards:
        def cast(made: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: made[name].to(dtype) for name in TERMS}

        total = self._total(terms).to(dtype)
        if of_queries is None:
            return Rewards(total, cast(terms))
        return Rewards(total, cast(terms), self._total(of_queries).to(dtype), cast(of_queries))

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        weighted = self.consistency * terms["consistency"] + self.hard * terms["hard"]
        return self.scale * (terms["positive"] + terms["negative"] + weighted)


def _require_vectors(name: str, vectors: Tensor, axes: str) -> None:
    require_floats(name, vectors, axes)
    require_finite(name, vectors)


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a number > 0, got {value}")
