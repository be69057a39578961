"""Scores with 95% bootstrap intervals, and paired differences between two of them. Pure numpy.

An interval is over the items of a task (queries, pairs, test texts): what others of the same kind would have given.
It says nothing about other models or other seeds of training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.stats import rankdata

from grace_train.retrieval import RESAMPLES, Estimate

_CHUNK = 2_000_000  # resampled items in memory at once


class Outcome(Protocol):
    """How a task came out, item by item."""

    @property
    def items(self) -> int:
        """How many items there are."""
        ...

    def scores(self, chosen: np.ndarray) -> np.ndarray:
        """The score of each of ``R`` selections of items.

        Args:
            chosen: ``[R, n]`` indices of items, repeats allowed.

        Returns:
            ``[R]``.
        """
        ...


@dataclass(frozen=True, eq=False)
class MeanOutcome:
    """A score that is a mean over items: nDCG over queries, accuracy over texts.

    Attributes:
        values: ``[n]``, of each item.
    """

    values: np.ndarray

    @property
    def items(self) -> int:
        """See `Outcome`."""
        return len(self.values)

    def scores(self, chosen: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        means: np.ndarray = self.values[chosen].mean(axis=1)
        return means


@dataclass(frozen=True, eq=False)
class SpearmanOutcome:
    """Spearman's rank correlation between two values of each item; 0 where one of them is constant.

    Attributes:
        found: ``[n]``, such as cosines.
        wanted: ``[n]``, such as human judgements.
    """

    found: np.ndarray
    wanted: np.ndarray

    @property
    def items(self) -> int:
        """See `Outcome`."""
        return len(self.found)

    def scores(self, chosen: np.ndarray) -> np.ndarray:
        """See `Outcome`."""
        first, second = (_centred_ranks(values[chosen]) for values in (self.found, self.wanted))
        norms = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
        products = (first * second).sum(axis=1)
        return np.divide(products, norms, out=np.zeros(len(chosen)), where=norms > 0)


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    ranks: np.ndarray = rankdata(values, axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)


def score_of(outcome: Outcome) -> float:
    """The score over all items."""
    return float(outcome.scores(np.arange(outcome.items)[None])[0])


def interval(outcome: Outcome, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """A score with its 95% percentile-bootstrap interval over items."""
    drawn = _resampled(outcome.items, outcome.scores, resamples, seed)
    return _estimate(score_of(outcome), drawn)


def difference(changed: Outcome, reference: Outcome, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The score of ``changed`` minus that of ``reference``, with its interval: the same items are drawn for both.

    Raises:
        ValueError: They have not the same number of items.
    """
    if changed.items != reference.items:
        raise ValueError(f"{changed.items} items cannot be paired with {reference.items}")

    def both(chosen: np.ndarray) -> np.ndarray:
        return changed.scores(chosen) - reference.scores(chosen)

    drawn = _resampled(changed.items, both, resamples, seed)
    return _estimate(score_of(changed) - score_of(reference), drawn)


def _resampled(items: int, scores: Callable[[np.ndarray], np.ndarray], resamples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // items)
    parts = []
    for first in range(0, resamples, rows):
        parts.append(scores(generator.integers(0, items, size=(min(rows, resamples - first), items))))
    return np.concatenate(parts)


def _estimate(mean: float, drawn: np.ndarray) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(mean, float(low), float(high))
