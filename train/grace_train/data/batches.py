"""Drawing batches: seeded, mixed by weight, without false negatives, and continued exactly after an interruption.

Each epoch of a source is a permutation of its rows. A row that shares a text with one that is in the batch already
waits for a later batch; it is never left out: while rows wait, the source that begins a batch is drawn, so that none of
them finds its text taken by another source each time. Texts are the same where their `text_key` is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grace_st.bulk.rows import InputError
from grace_train.data.distinct import smallest_batch
from grace_train.data.instances import Instance, TextInstance, text_key
from grace_train.data.sources import TrainingData
from grace_train.data.visits import Visit, VisitQueue

AnyInstance = Instance | TextInstance


class BatchSampler:
    """An endless stream of batches, the same for the same data and seed.

    Args:
        data: The sources.
        batch_size: ``B``, instances in each batch.
        seed: Decides the order, and which positive and negatives of a row are used at each visit.

    Raises:
        InputError: A batch of this size cannot be filled without a text being in it twice.
    """

    def __init__(self, data: TrainingData, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ValueError(f"the batch size must be >= 1, got {batch_size}")
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        found = smallest_batch(data, batch_size)
        if found < batch_size:
            raise _too_few(batch_size, found, len(data))
        shares = np.array([source.weight * len(source.rows) for source in data.sources])
        self._shares: list[float] = (shares / shares.sum()).tolist()
        # Different seeds mix in different orders.
        self._phases = [random.Random(f"{seed}/mix/{index}").random() for index in range(len(shares))]
        self._queues = [VisitQueue(source, f"{seed}/{index}") for index, source in enumerate(data.sources)]

    @property
    def drawn(self) -> int:
        """Instances drawn so far."""
        return sum(queue.taken for queue in self._queues)

    @property
    def epoch(self) -> float:
        """Instances drawn so far, as a multiple of the rows there are."""
        return self.drawn / len(self.data)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold as many instances as there are rows, rounded up."""
        return -(-len(self.data) // self.batch_size)

    def next(self) -> list[AnyInstance]:
        """The next batch, ``B`` instances: no query and no positive in it twice, none of them another's.

        Raises:
            InputError: No row is left that shares no text with those in the batch. Only data that barely have enough
                distinct texts for a batch come to this after construction.
        """
        used: set[int] = set()
        batch: list[AnyInstance] = []
        leader = self._leader()
        for queue in self._queues:
            queue.start_batch(used)
        while len(batch) < self.batch_size:
            drawn = self.drawn + 1
            # The source that is furthest behind its share gives the next row, or the next one that can.
            behind = [
                share * drawn - queue.taken + phase
                for share, queue, phase in zip(self._shares, self._queues, self._phases, strict=True)
            ]
            for index in sorted(range(len(behind)), key=lambda index: (index != leader, -behind[index])):
                visit = self._queues[index].take()
                if visit is not None:
                    leader = None
                    batch.append(self._instance(index, visit))
                    break
            else:
                raise _too_few(self.batch_size, len(batch), len(self.data))
        return batch

    def _leader(self) -> int | None:
        """The source that begins the next batch; None where the shares decide alone, since no row waits."""
        if len(self._queues) == 1 or not any(queue.waits for queue in self._queues):
            return None
        rng = random.Random(f"{self.seed}/lead/{self.drawn}")
        return rng.choices(range(len(self._queues)), weights=self._shares)[0]

    def _instance(self, index: int, visit: Visit) -> AnyInstance:
        source = self.data.sources[index]
        row = source.store.row(int(source.rows[visit.row]))
        if self.data.mode == "unsupervised":
            return TextInstance(source.name, row.number, row.query, source.document_instruction)
        rng = random.Random(f"{self.seed}/{index}/{visit.epoch}/{visit.row}")
        return Instance(
            source=source.name,
            row=row.number,
            query=row.query,
            positive=rng.choice(row.positives),
            negatives=tuple(rng.sample(row.negatives, min(self.data.negatives, len(row.negatives)))),
            positives=row.positives,
            query_instruction=source.query_instruction,
            document_instruction=source.document_instruction,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the stream depends on beside data, batch size and seed; JSON-able."""
        return {
            "seed": self.seed,
            "sources": [
                {"name": source.name, "rows": len(source.rows), "digest": source.digest, **queue.state()}
                for source, queue in zip(self.data.sources, self._queues, strict=True)
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another sampler was.

        Args:
            state: Its `state_dict`.

        Raises:
            ValueError: That sampler had other data or another seed.
        """
        if state["seed"] != self.seed:
            raise ValueError(f"the state is of seed {state['seed']}, and this run has {self.seed}: use the same one")
        then = [(source["name"], source["rows"]) for source in state["sources"]]
        now = [(source.name, len(source.rows)) for source in self.data.sources]
        if then != now:
            raise ValueError(
                f"the training data are not those of the run that is continued: it had {_described(then)}, and there "
                f"are {_described(now)} now; start a new run, or give the same data"
            )
        for source, saved in zip(self.data.sources, state["sources"], strict=True):
            if source.digest != saved["digest"]:
                raise ValueError(
                    f"{source.name} has other texts than in the run that is continued: start a new run, or give the "
                    "same data"
                )
        for queue, saved in zip(self._queues, state["sources"], strict=True):
            queue.load(saved)


def in_batch_mask(instances: Sequence[AnyInstance]) -> NDArray[np.bool_]:
    """Which instances may serve as each other's in-batch negatives.

    Args:
        instances: ``B`` of them, however they were put together.

    Returns:
        ``[B, B]``; (i, j) is False where i and j share a text, as query or as any of their positives, and for i = j.
    """
    keys = [_keys(instance) for instance in instances]
    return np.array([[i != j and a.isdisjoint(b) for j, b in enumerate(keys)] for i, a in enumerate(keys)], bool)


def _keys(instance: AnyInstance) -> set[int]:
    if isinstance(instance, TextInstance):
        return {text_key(instance.text)}
    return {text_key(text) for text in (instance.query, *instance.positives)}


def _described(sources: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} with {rows} rows" for name, rows in sources)


def _too_few(wanted: int, found: int, rows: int) -> InputError:
    return InputError(
        f"a batch of {wanted} cannot be filled from {rows} rows without a query or positive being in it twice, which "
        f"would make false negatives: {found} is the size that can be relied on; lower the batch size or add data"
    )
