"""Figures over seeds, and how far they are from a reference. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: The mean.
        std: Sample standard deviation (n - 1); None with fewer than two.
        n: How many seeds.
    """

    mean: float
    std: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """The spread of some values, at least one.

    Raises:
        ValueError: There is none.
    """
    if not values:
        raise ValueError("a spread needs at least one value")
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std, len(values))


@dataclass(frozen=True)
class Difference:
    """How far a row is from the reference.

    Attributes:
        mean: Of the row minus that of the reference.
        std: Standard deviation of the difference of one run of each: the root of the sum of both variances over seeds.
            What is not trained is not random and has none. None with fewer than two seeds of the row.
        in_std: The mean in units of it; None where that is 0, and with fewer than three seeds: two that happen to be
            near each other would make it huge.
        query_error: Standard error of the mean over queries, each query's seeds averaged and paired with the reference.
    """

    mean: float
    std: float | None
    in_std: float | None
    query_error: float


def difference(
    row: Spread, reference: Spread, row_queries: Sequence[Sequence[float]], reference_queries: Sequence[Sequence[float]]
) -> Difference:
    """See `Difference`.

    Args:
        row: The row's figure.
        reference: The reference's.
        row_queries: ``[seeds, queries]``.
        reference_queries: ``[seeds of the reference, queries]``, the same queries.

    Raises:
        ValueError: The numbers of queries differ.
    """
    own, other = np.asarray(row_queries), np.asarray(reference_queries)
    if own.shape[1] != other.shape[1]:
        raise ValueError(f"{own.shape[1]} queries cannot be paired with {other.shape[1]}")
    paired = own.mean(axis=0) - other.mean(axis=0)
    error = float(np.std(paired, ddof=1) / math.sqrt(len(paired)))
    mean = row.mean - reference.mean
    std = None if row.std is None else math.hypot(row.std, reference.std or 0.0)
    return Difference(mean, std, mean / std if std and row.n >= 3 else None, error)
