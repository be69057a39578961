"""From the settings to what a run needs: rows to draw batches from, and those that are held out."""

from __future__ import annotations

import logging

import numpy as np

from grace_train.data.config import DataConfig, Mode
from grace_train.data.holdout import split_holdout
from grace_train.data.prepare import prepare_source
from grace_train.data.retrieval_data import RetrievalData, retrieval_of
from grace_train.data.sources import TrainingData, TrainingSource

logger = logging.getLogger(__name__)


def load_training_data(
    config: DataConfig, mode: Mode, *, seed: int, max_queries: int | None = None
) -> tuple[TrainingData, RetrievalData | None]:
    """Read, check and keep all sources, and divide off the hold-out.

    Args:
        config: The settings.
        mode: What is trained.
        seed: Of the hold-out.
        max_queries: Most queries of the hold-out's evaluation set; its documents stay.

    Returns:
        The rows to train on, and the evaluation set of those held out; None with ``data.holdout`` 0.

    Raises:
        InputError: A source cannot be used, has a bad row, or ``holdout`` cannot be met.
    """
    sources = []
    for source in config.sources():
        store = prepare_source(source, config, mode)
        if store.facts.bad_rows:
            logger.warning("%s: bad rows that are left out: %d", source.path, store.facts.bad_rows)
        sources.append(
            TrainingSource(
                name=source.label,
                store=store,
                rows=np.arange(len(store)),
                weight=source.weight,
                query_instruction=source.query_instruction,
                document_instruction=source.document_instruction,
            )
        )
    data = TrainingData(sources=tuple(sources), mode=mode, negatives=config.negatives)
    if not config.holdout:
        return data, None
    training, held_out = split_holdout(data, config.holdout, seed)
    return training, retrieval_of(held_out, max_queries=max_queries)
