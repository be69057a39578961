"""The sources of a run, put together: stores, hold-out, weights and instructions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from grace_train.data.config import Mode
from grace_train.data.store import RowStore


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """The rows of one source that are trained on.

    Attributes:
        name: Name of the source.
        store: Its rows.
        rows: ``[n]`` indices into the store, ascending; without those that are held out.
        weight: How often its rows are drawn, relative to the rows of the other sources.
        query_instruction: Goes before each query.
        document_instruction: Goes before each document or unsupervised text.
    """

    name: str
    store: RowStore
    rows: NDArray[np.int64]
    weight: float = 1.0
    query_instruction: str | None = None
    document_instruction: str | None = None

    @cached_property
    def digest(self) -> str:
        """Tells these rows from others, by the keys of their queries and positives."""
        keys, counts = self.keys()
        digest = hashlib.blake2b(keys.tobytes(), digest_size=16)
        digest.update(counts.tobytes())
        return digest.hexdigest()

    def keys(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The keys of all rows ``[keys]``, one row after the other, and how many each row has ``[n]``."""
        counts = np.diff(self.store.offsets)
        if len(self.rows) == len(self.store):
            return self.store.keys, counts
        chosen = np.zeros(len(self.store), bool)
        chosen[self.rows] = True
        return self.store.keys[np.repeat(chosen, counts)], counts[self.rows]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """All that is trained on.

    Attributes:
        sources: One or more.
        mode: What the rows are for.
        negatives: Most negatives used for a query in a step.
    """

    sources: tuple[TrainingSource, ...]
    mode: Mode
    negatives: int = 1

    def __len__(self) -> int:
        return sum(len(source.rows) for source in self.sources)

    def keys(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The keys of all rows of all sources, and how many each row has, see `TrainingSource.keys`."""
        parts = [source.keys() for source in self.sources]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([keys for keys, _ in parts]), np.concatenate([counts for _, counts in parts])
