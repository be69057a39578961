"""Losses on padded log-probabilities ``[N, T]``: N rollouts, T positions of their tokens.

Knows no model and no reward. A mask ``[N, T]`` is True where a token counts: the tokens of the rationale and the
terminating EOS, since to end is an action. What masked positions hold has no influence on a value or a gradient, NaN
included. Half precision is computed, and given back, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from grace_train.choices import Aggregation
from grace_train.tensor_checks import (
    full_precision,
    require_choice,
    require_floats,
    require_mask,
    shape_of,
)

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
"""The names of the ways to go from tokens to one number."""

_MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, eq=False)
class PolicyTerms:
    """The policy loss before it is aggregated.

    Attributes:
        per_token: ``[N, T]``, 0 outside the mask.
        clipped: ``[N, T]`` bool: where the clip is what counts, so that the token has no gradient.
    """

    per_token: Tensor
    clipped: Tensor


def policy_terms(
    logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    old_logprobs: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> PolicyTerms:
    """The clipped policy loss of each token: ``-min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)``.

    On-policy its gradient is that of ``-A * log pi`` (GRACE, arXiv 2510.04506, Eq. 19).

    Args:
        logprobs: ``[N, T]`` log-probabilities of the tokens under the policy that is trained.
        advantages: ``[N]``, one for all tokens of a rollout; no gradient flows through them.
        mask: ``[N, T]`` bool.
        old_logprobs: ``[N, T]`` under the policy that wrote the rollouts. None: it is the same one, all ratios are 1.
        clip_low: How far a ratio may fall below 1, from 0 to 1.
        clip_high: How far it may rise above 1. DAPO (arXiv 2503.14476) takes 0.28 with 0.2 below.

    Raises:
        ValueError: A shape, dtype or option that does not fit.
    """
    require_floats("logprobs", logprobs, "[N, T]")
    require_mask("mask", mask, tuple(logprobs.shape), "[N, T]")
    if advantages.shape != logprobs.shape[:1]:
        raise ValueError(f"advantages must be [N] = {[logprobs.shape[0]]}, got {shape_of(advantages)}")
    if not 0 <= clip_low <= 1:
        raise ValueError(f"clip_low must be from 0 to 1, got {clip_low}")
    if not clip_high >= 0:
        raise ValueError(f"clip_high must be a number >= 0, got {clip_high}")

    ratio = _log_ratio(logprobs, logprobs if old_logprobs is None else old_logprobs, mask).exp()
    weights = full_precision(advantages.detach()).unsqueeze(1)
    plain = ratio * weights
    bounded = ratio.clamp(min=1 - clip_low, max=1 + clip_high) * weights
    per_token = torch.where(mask, -torch.minimum(plain, bounded), 0.0)
    return PolicyTerms(per_token, (bounded < plain).detach() & mask)


def kl_terms(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The estimate k3 of KL(policy || reference) of each token: ``exp(d) - d - 1``, d = reference - policy.

    Not negative, and unbiased for tokens drawn from the policy (Schulman, "Approximating KL divergence", 2020).

    Args:
        logprobs: ``[N, T]`` under the policy that is trained.
        reference_logprobs: ``[N, T]`` under the reference; no gradient flows through them.
        mask: ``[N, T]`` bool.

    Returns:
        ``[N, T]`` in nats, 0 outside the mask.

    Raises:
        ValueError: A shape or dtype that does not fit.
    """
    require_floats("logprobs", logprobs, "[N, T]")
    require_mask("mask", mask, tuple(logprobs.shape), "[N, T]")
    difference = -_log_ratio(logprobs, reference_logprobs, mask)
    return torch.expm1(difference) - difference


def entropy_terms(logits: Tensor) -> Tensor:
    """The entropy of each next-token distribution.

    Makes several tensors of the size of ``logits`` in float32: give it some rows at a time.

    Args:
        logits: ``[N, T, V]``; ``-inf`` excludes a token.

    Returns:
        ``[N, T]`` in nats.

    Raises:
        ValueError: A shape or dtype that does not fit.
    """
    require_floats("logits", logits, "[N, T, V]")
    logprobs = full_precision(logits).log_softmax(dim=-1)
    # The lower bound makes 0 * log 0 be 0, in the gradient too.
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(dim=-1)


def aggregate(
    per_token: Tensor, mask: Tensor, aggregation: Aggregation = "token-mean", *, count: float | None = None
) -> Tensor:
    """One number from the terms of all tokens.

    Args:
        per_token: ``[N, T]``.
        mask: ``[N, T]`` bool.
        aggregation: ``"token-mean"``: the sum over the number of tokens. ``"seq-sum"``: the sum over the number of
            rollouts N, which is Eq. 19 up to its constant factor B * K.
        count: What divides instead: the number of tokens or rollouts of the whole batch. With it, the losses of
            micro-batches add up to the loss of the batch, and so do the gradients.

    Returns:
        A scalar.

    Raises:
        ValueError: A shape, dtype or option that does not fit, or nothing to take a mean of.
    """
    require_choice("aggregation", aggregation, AGGREGATIONS)
    require_floats("per_token", per_token, "[N, T]")
    require_mask("mask", mask, tuple(per_token.shape), "[N, T]")
    if count is None:
        count = mask.sum().item() if aggregation == "token-mean" else mask.shape[0]
        if not count:
            raise ValueError("there is no token to take the mean of: the mask is False everywhere, or the batch empty")
    elif not count > 0:
        raise ValueError(f"count must be a number > 0, got {count}")
    return torch.where(mask, full_precision(per_token), 0.0).sum() / count


def _log_ratio(logprobs: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """``logprobs`` minus ``others``, which are constants; 0 outside the mask."""
    if others.shape != logprobs.shape:
        raise ValueError(f"the log-probabilities must have one shape, got {shape_of(logprobs)} and {shape_of(others)}")
    # Filled before anything is computed: a NaN that is masked only afterwards would still be in the gradient.
    policy, constant = (full_precision(x).masked_fill(~mask, 0.0) for x in (logprobs, others.detach()))
    # Beyond this bound exp() overflows into NaN gradients; such a ratio is a fault, or clipped anyway.
    return (policy - constant).clamp(min=-_MAX_LOG_RATIO, max=_MAX_LOG_RATIO)
