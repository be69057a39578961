"""Advantages of rollouts: five ways to take a baseline off rewards.

Knows rewards only. Half precision is computed in float32 and rounded once at the end.
"""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from grace_train.choices import Algorithm
from grace_train.tensor_checks import full_precision, require_choice, require_finite, require_floats, shape_of

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
"""The names of the algorithms."""

EPSILON = 1e-6
"""Is added to standard deviations before they divide."""


def group_advantages(
    rewards: Tensor, algorithm: Algorithm = "grpo", *, normalize_std: bool = False, baseline: Tensor | None = None
) -> Tensor:
    """Advantages from the rewards of K rollouts of each of B prompts.

    Standard deviations are those of a sample (n - 1), as in verl and TRL; of a single value it is 0.

    Args:
        rewards: ``[B, K]``, after the length penalty.
        algorithm: ``"grpo"``: minus the group's mean (GRACE, arXiv 2510.04506, Eq. 18). ``"rloo"``: minus the mean of
            the group's others (arXiv 2402.14740). ``"dapo"``: as GRPO, over the group's standard deviation (arXiv
            2503.14476, Eq. 9). ``"reinforce++"``: minus the mean over all, over the standard deviation over all
            (arXiv 2501.03262). ``"remax"``: minus the reward of the prompt's greedy rollout (arXiv 2310.10505).
        normalize_std: Divide by the group's standard deviation, for ``"grpo"``; ``"dapo"`` always does.
        baseline: ``[B]``: the reward of each prompt's greedy rollout, for ``"remax"`` only.

    Returns:
        ``[B, K]`` in the dtype of the rewards. A group with equal rewards has exactly 0 with a group baseline.

    Raises:
        ValueError: A shape, dtype or option that does not fit, K = 1 for ``"rloo"``, or a reward that is not finite.
    """
    require_choice("algorithm", algorithm, ALGORITHMS)
    require_floats("rewards", rewards, "[B, K]")
    if not rewards.numel():
        raise ValueError(f"rewards must not be empty, got {shape_of(rewards)}")
    require_finite("rewards", rewards)
    if normalize_std and algorithm not in ("grpo", "dapo"):
        raise ValueError(f"normalize_std=True is for 'grpo', and {algorithm!r} does not use it: leave it out")
    if (baseline is not None) != (algorithm == "remax"):
        raise ValueError(
            "algorithm 'remax' needs baseline [B], the reward of each prompt's greedy rollout"
            if algorithm == "remax"
            else f"baseline is for 'remax', and {algorithm!r} takes its own from the rewards: leave it out"
        )

    values = full_precision(rewards)
    if baseline is not None:
        advantages = values - _checked_baseline(baseline, rewards)
    elif algorithm == "reinforce++":
        advantages = _centred(values.reshape(1, -1), normalize=True).reshape(values.shape)
    else:
        advantages = _centred(values, normalize=normalize_std or algorithm == "dapo")
    if algorithm == "rloo":
        count = rewards.shape[1]
        if count == 1:
            raise ValueError("algorithm 'rloo' compares a rollout with the others of its group, and K = 1: use K >= 2")
        # Minus the mean of the others is minus the mean of all, times K / (K - 1).
        advantages = advantages * (count / (count - 1))
    return advantages.to(rewards.dtype)


def informative_groups(rewards: Tensor, threshold: float) -> Tensor:
    """The groups that dynamic sampling keeps (DAPO, arXiv 2503.14476, Section 3.2, for rewards that are continuous).

    Args:
        rewards: ``[B, K]``.
        threshold: The least difference between a group's highest and lowest reward, which must be above it.

    Returns:
        ``[B]`` bool.

    Raises:
        ValueError: A shape or dtype that does not fit, or a reward that is not finite.
    """
    require_floats("rewards", rewards, "[B, K]")
    require_finite("rewards", rewards)
    return rewards.amax(dim=1) - rewards.amin(dim=1) > threshold


def _centred(values: Tensor, *, normalize: bool) -> Tensor:
    """Rows minus their means, over their standard deviations if wanted."""
    # Relative to the row's first value: a level that all share costs no digits, and equal values give exactly 0.
    values = values - values[:, :1]
    centred = values - values.mean(dim=1, keepdim=True)
    if not normalize or values.shape[1] == 1:
        return centred
    return centred / (values.std(dim=1, keepdim=True) + EPSILON)


def _checked_baseline(baseline: Tensor, rewards: Tensor) -> Tensor:
    if baseline.shape != rewards.shape[:1]:
        raise ValueError(f"baseline must be [B] = {list(rewards.shape[:1])}, got {shape_of(baseline)}")
    require_floats("baseline", baseline, "[B]")
    require_finite("baseline", baseline)
    return full_precision(baseline).unsqueeze(1)
