"""How long a query takes: reading it, writing about it, and finding its documents."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from grace_eval.reproduce.measures.base import Measure, Subject
from grace_eval.reproduce.measures.texts import mteb_tasks_of, retrieval_texts

_TOP = 10


@dataclass(frozen=True, kw_only=True)
class Latency(Measure):
    """Milliseconds of one query at a time, medians over queries and repeats, after a warm-up.

    ``encode`` is one pass over the prompt (for encoders: all that they do), ``generate`` what writing adds to it,
    ``match`` the product with all documents' vectors and the choice of the best ten. Vectors of documents are drawn at
    random: their values cost no time.

    Attributes:
        task: Whose queries: a retrieval task of MTEB, or ``nano:dev``, ``nano:test``.
        queries: How many.
        documents: How many vectors a query is compared with.
        repeats: How often each is measured.
    """

    kind = "latency"

    task: str
    queries: int = 32
    documents: int = 100_000
    repeats: int = 3

    def measure(self, subject: Subject) -> dict[str, Any]:
        """See `Measure`."""
        texts = retrieval_texts(self.task, subject)[0][: self.queries]
        budget = subject.options.get("max_new_tokens")
        writes = not subject.is_encoder and budget != 0
        read: dict[str, Any] = {} if subject.is_encoder else {"max_new_tokens": 0}
        first = subject.embed([texts[0]])  # warms up
        encode = [self._median(partial(subject.embed, [text], **read)) for text in texts]
        whole, tokens = encode, [0] * len(texts)
        if writes:
            tokens = list(subject.embed(texts).lengths)
            whole = [self._median(partial(subject.embed, [text])) for text in texts]
        generate = [max(0.0, all_ - only) for all_, only in zip(whole, encode, strict=True)]
        match = self._match(subject, first.vectors.shape[1])
        return {
            "encode_ms": float(np.median(encode)),
            "generate_ms": float(np.median(generate)),
            "match_ms": match,
            "total_ms": float(np.median(whole)) + match,
            "tokens": float(np.mean(tokens)),
            "device": str(subject.model.device),
        }

    def mteb_tasks(self) -> list[Any]:
        """See `Measure`."""
        return mteb_tasks_of(self.task)

    def _median(self, work: Callable[[], object]) -> float:
        """Of ``repeats`` measurements, in milliseconds."""
        seconds = []
        for _ in range(self.repeats):
            began = time.perf_counter()
            work()  # ends with vectors in the memory of the host, so nothing is left to wait for
            seconds.append(time.perf_counter() - began)
        return 1000 * float(np.median(seconds))

    def _match(self, subject: Subject, dimension: int) -> float:
        import torch

        generator = torch.Generator().manual_seed(0)
        device = subject.model.device
        documents = torch.nn.functional.normalize(torch.randn(self.documents, dimension, generator=generator)).to(
            device
        )
        query = torch.nn.functional.normalize(torch.randn(1, dimension, generator=generator)).to(device)
        count = min(_TOP, self.documents)
        (documents @ query[0]).topk(count)
        return self._median(lambda: (documents @ query[0]).topk(count).indices.cpu())
