"""A cluster in this process, and an encoder without a model that uses a store as the real one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from grace_st.bulk.chunks import EncodedTexts
from grace_st.scale.worker import ShardJob, ShardWorker
from grace_st.store import RationaleStore, StoredRollout
from tests.bulk.fake import DIMENSION, rationale_of, vector_of

SPACE = {"weights": "fake"}


class Killed(BaseException):
    """As if the process had been killed: nothing that handles errors sees it."""


@dataclass
class FakeLoader:
    """Its own loader and encoder.

    Attributes:
        files: What the content of the model's folder is.
        fail_after: Texts that are generated before ``error`` is raised.
    """

    files: str = "a"
    device: str = "cpu"
    fail_after: int | None = None
    error: BaseException = field(default_factory=Killed)
    loaded: int = 0
    generated: list[str] = field(default_factory=list)

    def settings(self) -> Mapping[str, Any]:
        return {"the model's file model.safetensors": self.files}

    def load(self) -> Encoder:
        self.loaded += 1
        return Encoder(self)


@dataclass
class Encoder:
    loader: FakeLoader
    store: RationaleStore | None = None
    dimension: int = DIMENSION

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"device": self.loader.device}

    def with_store(self, store: RationaleStore | None) -> Encoder:
        return Encoder(self.loader, store)

    def encode(self, texts: list[str], progress: Callable[[int], None]) -> EncodedTexts:
        keys = [sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        held = {} if self.store is None else self.store.get(SPACE, keys)
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in held}
        for key, text in fresh.items():
            if self.loader.fail_after is not None and len(self.loader.generated) >= self.loader.fail_after:
                self.loader.fail_after = None
                raise self.loader.error
            self.loader.generated.append(text)
            if self.store is not None:
                self.store.put(SPACE, {key: StoredRollout((len(text), 7), None, vector_of(text))})
        return EncodedTexts(
            vectors=_stacked([vector_of(text) for text in texts]),
            rationales=[rationale_of(text) for text in texts],
            rationale_ids=[[len(text), 7] for text in texts],
            finished=[len(text) % 2 == 0 for text in texts],
            truncated=sum(len(text) > 50 for text in texts),
        )


def _stacked(vectors: list[Any]) -> Any:
    import numpy as np

    return np.stack(vectors)


@dataclass
class HereCluster:
    """Does all work in this process, shards backwards: any order must do."""

    mapped: int = 0
    shards: int = 0

    def start(self) -> HereCluster:
        return self

    def map(self, function: Callable[[str], str], items: Sequence[str]) -> Iterator[str]:
        for item in reversed(items):
            self.mapped += 1
            yield function(item)

    def map_workers(self, job: ShardJob, items: Sequence[str]) -> Iterator[str]:
        worker = ShardWorker(job)
        for item in reversed(items):
            self.shards += 1
            yield worker.report(item)
