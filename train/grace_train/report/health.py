"""Stops a run that cannot come to anything, and says so when a part of the reward trains nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from grace_train.report.config import StopConfig

logger = logging.getLogger(__name__)

_MUST_BE_FINITE = ("reward/", "query_reward/", "loss/", "vectors/")
_SIDES = {"reward/": "", "query_reward/": "query "}
_ZERO = 1e-6
"""Relative to the mean where that is above 1. The same number K times, averaged in float32, leaves up to 2e-7."""


_LEAST_EOS_RATE = 0.9
"""Of the first step. With .83 a model of real text lost a seventh of its retrieval where it gains with a larger budget
(docs/what-the-reward-trains.md)."""


class TrainingStopped(RuntimeError):
    """The run was stopped because going on makes no sense.

    Attributes:
        reason: What was seen and what to try.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HealthMonitor:
    """Looks at the values of each step.

    Args:
        stop: When to stop.
        weights: The weight of each reward term in the total, by the term's name: ``{"positive": 1.0, "negative": 1.0,
            "consistency": 0.2, "hard": 0.2}``.
        penalizes_unfinished: Whether a rollout that reaches the budget gets less for it.
    """

    def __init__(self, stop: StopConfig, weights: Mapping[str, float], *, penalizes_unfinished: bool = True) -> None:
        self._stop = stop
        self._penalizes_unfinished = penalizes_unfinished
        self._weights = dict(weights)
        self._alike_steps = 0
        self._endless_steps = 0
        self._warned: set[str] = set()

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Check a step; warn through ``logging``, once for each cause.

        A term warns whose standard deviation within groups is 0: advantages are differences within a group, so it
        trains nothing. A term whose mean is 0 as well does not, since nothing feeds it (no negatives in the data, or
        a variant without it). The first step warns where many rollouts reach the budget.

        Raises:
            TrainingStopped: A reward, loss or similarity is not finite, all texts have had one vector for too long, or
                no rollout has ended by itself for too long.
        """
        self._check_finite(step, values)
        self._check_collapse(step, values)
        self._check_endings(step, values)
        if values.get("loss/updates") == 0.0:
            self._warn_once(
                "updates",
                f"step {step}: every group was dropped, so nothing is trained: their rewards differ by no more than "
                "algorithm.min_spread",
            )
        for side, label in _SIDES.items():
            self._warn(step, values, side, label)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {
            "alike_steps": self._alike_steps,
            "endless_steps": self._endless_steps,
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a state of `state_dict`."""
        self._alike_steps = state["alike_steps"]
        self._endless_steps = state["endless_steps"]
        self._warned = set(state["warned"])

    def _check_finite(self, step: int, values: Mapping[str, float]) -> None:
        bad = [f"{name} is {value}" for name, value in values.items() if _broken(name, value)]
        if bad:
            raise TrainingStopped(
                f"step {step}: {', '.join(bad)}. Go back to the last checkpoint with a lower learning rate; if it "
                "happens in the first steps, train in float32 instead of bfloat16"
            )

    def _check_collapse(self, step: int, values: Mapping[str, float]) -> None:
        similarity = values.get("vectors/unrelated_similarity")
        if similarity is None or self._stop.collapse_steps == 0:
            return
        alike = similarity >= self._stop.max_unrelated_similarity
        self._alike_steps = self._alike_steps + 1 if alike else 0
        if self._alike_steps >= self._stop.collapse_steps:
            raise TrainingStopped(
                f"step {step}: all texts have nearly the same vector. The mean cosine of unrelated texts is "
                f"{similarity:.4f}, and for {self._alike_steps} steps it was at least "
                f"{self._stop.max_unrelated_similarity} (stop.max_unrelated_similarity). Go back to an earlier "
                "checkpoint with a lower learning rate, or a reward variant whose negatives train: per_rollout, "
                "symmetric or infonce"
            )

    def _check_endings(self, step: int, values: Mapping[str, float]) -> None:
        rate = values.get("rollout/eos_rate")
        if rate is None:
            return
        longest = values.get("rollout/max_length")
        if step == 1 and rate < _LEAST_EOS_RATE and self._penalizes_unfinished:
            budget = "" if longest is None else f" of {longest:.0f} tokens"
            self._warn_once(
                "budget",
                f"step {step}: {1 - rate:.0%} of the rollouts reach the budget{budget}, which is penalised: training "
                "will prefer shorter rationales to better ones. Allow more, with prompt.max_new_tokens; see "
                "docs/what-goes-wrong.md",
            )
        if self._stop.eos_rate_zero_steps == 0:
            return
        self._endless_steps = self._endless_steps + 1 if rate == 0 else 0
        if self._endless_steps >= self._stop.eos_rate_zero_steps:
            limit = "" if longest is None else f" Rollouts are cut off at {longest:.0f} tokens."
            raise TrainingStopped(
                f"step {step}: no rollout has ended by itself for {self._endless_steps} steps.{limit} If none ever "
                "did, allow more new tokens or start from an instruction-tuned model; if they stopped doing so, go "
                "back to an earlier checkpoint with a lower learning rate. To train on: stop.eos_rate_zero_steps=0"
            )

    def _warn(self, step: int, values: Mapping[str, float], side: str, label: str) -> None:
        if _deviation_is_zero(values, f"{side}total"):
            self._warn_once(
                f"{side}total",
                f"step {step}: the {label}reward is the same for all rollouts of a group, so nothing is trained: they "
                "may all say the same. Sample at a higher temperature; rollout/distinct is the share that differ",
            )
            return  # the terms would all say the same
        for term, weight in self._weights.items():
            fed = values.get(f"{side}{term}", 0.0) != 0.0
            if weight != 0 and fed and _deviation_is_zero(values, f"{side}{term}"):
                self._warn_once(
                    f"{side}{term}",
                    f"step {step}: the {label}reward term {term!r} is the same for all rollouts of a group, so it "
                    "trains nothing; see docs/rewards.md",
                )

    def _warn_once(self, name: str, message: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            logger.warning(message)


def _broken(name: str, value: float) -> bool:
    return name.startswith(_MUST_BE_FINITE) and not math.isfinite(value)


def _deviation_is_zero(values: Mapping[str, float], name: str) -> bool:
    deviation = values.get(f"{name}_std")
    return deviation is not None and deviation <= _ZERO * max(1.0, abs(values.get(name, 0.0)))
