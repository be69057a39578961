"""The order in which the rows of one source are visited."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grace_train.data.sources import TrainingSource


class Visit(NamedTuple):
    """A row to be trained on.

    Attributes:
        row: Position in ``source.rows``.
        epoch: The epoch in whose order the row came up.
    """

    row: int
    epoch: int


class VisitQueue:
    """The visits to come of one source: each epoch is a permutation of its rows.

    A row that shares a key with the batch waits under that key, and comes first in a later batch. While the key is in
    a batch, none of the rows that wait under it need be looked at. A row that is waiting when its turn comes again
    waits once, not twice: where most rows share one text, they are visited less than once an epoch, which no order of
    batches could avoid, and what waits stays bounded.

    Args:
        source: The rows.
        seed: Of the permutations.

    Attributes:
        taken: Visits made so far.
    """

    def __init__(self, source: TrainingSource, seed: str) -> None:
        self.taken = 0
        self._source = source
        self._seed = seed
        self._epoch = self._position = 0
        self._order = self._permutation()
        self._waiting: dict[int, deque[Visit]] = {}
        self._waits = np.zeros(len(source.rows), bool)
        self._count = 0  # of rows that wait
        self._visits: Iterator[Visit] = iter(())

    @property
    def waits(self) -> bool:
        """Whether a row waits for a batch without its text."""
        return self._count > 0

    def start_batch(self, used: set[int]) -> None:
        """Begin a batch.

        Args:
            used: The keys in the batch; `take` adds those of each row, and others may add more.
        """
        self._visits = self._next_visits(used)

    def take(self) -> Visit | None:
        """The next visit whose row shares no key with the batch, or None if this source has no such row."""
        visit = next(self._visits, None)
        if visit is not None:
            self.taken += 1
        return visit

    def _next_visits(self, used: set[int]) -> Iterator[Visit]:
        for key in list(self._waiting):
            # A row of this key that shares another one with the batch goes on to wait under that one.
            while key not in used and key in self._waiting:
                visit = self._pop(key)
                if self._fits(visit, used):
                    yield visit
        # By the end of the next epoch every row has come up.
        last_epoch = self._epoch + 1
        while self._count < len(self._waits) and self._epoch <= last_epoch:
            visit = self._advance()
            if not self._waits[visit.row] and self._fits(visit, used):
                yield visit

    def _advance(self) -> Visit:
        visit = Visit(int(self._order[self._position]), self._epoch)
        self._position += 1
        if self._position == len(self._order):
            self._epoch, self._position = self._epoch + 1, 0
            self._order = self._permutation()
        return visit

    def _permutation(self) -> NDArray[np.int64]:
        seed = random.Random(f"{self._seed}/{self._epoch}").getrandbits(64)
        return np.random.Generator(np.random.PCG64(seed)).permutation(len(self._source.rows))

    def _fits(self, visit: Visit, used: set[int]) -> bool:
        """Put a row's keys to those of the batch, or have it wait."""
        keys = self._source.store.keys_of(int(self._source.rows[visit.row]))
        taken = next((key for key in keys if key in used), None)
        if taken is None:
            used.update(keys)
            return True
        self._waiting.setdefault(taken, deque()).append(visit)
        self._waits[visit.row] = True
        self._count += 1
        return False

    def _pop(self, key: int) -> Visit:
        visits = self._waiting.pop(key)
        visit = visits.popleft()
        if visits:
            self._waiting[key] = visits  # last now, so that other keys' rows have their turn
        self._waits[visit.row] = False
        self._count -= 1
        return visit

    def state(self) -> dict[str, Any]:
        """Where the queue is, between two batches; JSON-able."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "taken": self.taken,
            "waiting": [[key, [list(visit) for visit in visits]] for key, visits in self._waiting.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where another queue of the same source and seed was."""
        self.taken, self._epoch, self._position = state["taken"], state["epoch"], state["position"]
        self._order = self._permutation()
        self._waiting = {key: deque(Visit(*visit) for visit in visits) for key, visits in state["waiting"]}
        self._waits[:] = False
        self._waits[[visit.row for visits in self._waiting.values() for visit in visits]] = True
        self._count = int(self._waits.sum())
