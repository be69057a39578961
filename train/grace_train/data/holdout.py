"""Rows kept out of training for evaluation, in whole groups: no query and no positive is on both sides."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from grace_st.bulk.rows import InputError
from grace_train.data.distinct import RowGraph
from grace_train.data.sources import TrainingData, TrainingSource

logger = logging.getLogger(__name__)


def split_holdout(data: TrainingData, most: int, seed: int) -> tuple[TrainingData, TrainingData]:
    """Divide the rows into those that are trained on and those that are held out.

    Rows that share a query or a positive, also by way of further rows, stay together. Groups are drawn at random, those
    that are too large for what is left of ``most`` are passed over.

    Args:
        data: All rows.
        most: How many rows to hold out; fewer where no further group fits.
        seed: Of the draw.

    Returns:
        The rows to train on and those held out, each with all sources that have some.

    Raises:
        InputError: No group of rows is small enough, or none would be left to train on.
    """
    keys, counts = data.keys()
    if most >= len(counts):
        raise InputError(
            f"data.holdout={most} would leave nothing of the {len(counts)} rows to train on: lower it, or name "
            "a file to evaluate on (eval.dev)"
        )
    graph = RowGraph(keys, counts)
    held = np.zeros(len(counts), bool)
    beyond = np.zeros(len(counts), bool)
    left = most
    for row in np.random.default_rng(seed).permutation(len(counts)).tolist():
        if left == 0:
            break
        group = None if held[row] else graph.component(row, left, beyond)
        if group is not None:
            held[group] = True
            left -= len(group)
    if left == most:
        raise InputError(
            f"no rows can be held out: each of them hangs together with more than data.holdout={most} rows that share "
            "its query or positives; raise it, or name a file to evaluate on"
        )
    if left:
        logger.warning(
            "data.holdout is %d, and %d rows are held out: no further group of rows that share texts fits",
            most,
            most - left,
        )
    if held.sum() > (~held).sum():
        logger.warning(
            "data.holdout=%d leaves %d of %d rows to train on: lower it, unless most rows are for evaluation",
            most,
            (~held).sum(),
            len(counts),
        )
    return _chosen(data, ~held), _chosen(data, held)


def _chosen(data: TrainingData, rows: NDArray[np.bool_]) -> TrainingData:
    sources: list[TrainingSource] = []
    first = 0
    for source in data.sources:
        chosen = source.rows[rows[first : first + len(source.rows)]]
        first += len(source.rows)
        if len(chosen):
            sources.append(replace(source, rows=chosen))
    return replace(data, sources=tuple(sources))
