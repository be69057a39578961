"""The check at the start: a few vectors against those of the same sequences, read alone and told apart in another way.

What a worker reads from vLLM's books may mean something else in another version. Here several texts of different
lengths are generated together, and each is then read again with its rationale, whole and alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from grace_st.engines.vllm.messages import Job, Pooled, Result

TOLERANCE = {True: 1e-3, False: 5e-2}
"""Largest difference relative to the vector's length: in float32, and in half precision, where reading and generating
round differently."""

_LENGTHS = (3, 6, 10, 17, 4, 11)
_SPAN = 2  # of each prompt: one wrong state among few shows
_NEW_TOKENS = 4

Run = Callable[[list[Job], Pooled], list[Result]]


def largest_difference(run: Run, pooling: str, pooled: Pooled, vocabulary_size: int) -> float:
    """How far vectors are from their references.

    Args:
        run: Does requests, greedy and without an EOS.
        pooling: The reduction.
        pooled: What is checked.
        vocabulary_size: Token ids are chosen below it.

    Returns:
        The largest difference over texts, relative to the reference's length; infinite where states are missing.
    """
    jobs = [
        Job(str(place), _ids(place, length, vocabulary_size), length - _SPAN, _NEW_TOKENS)
        for place, length in enumerate(_LENGTHS)
    ]
    generated = run(jobs, "requests") if pooled == "requests" else run(jobs, "sequences")
    # With their rationales, but for the last token, which is sampled and not fed.
    whole = [replace(job, ids=job.ids + result.ids[:-1]) for job, result in zip(jobs, generated, strict=True)]
    together = generated if pooled == "requests" else run([replace(job, max_tokens=1) for job in whole], "sequences")
    worst = 0.0
    for job, result in zip(whole, together, strict=True):
        (reference,) = run([replace(job, name="0", max_tokens=1)], "sequences")
        count = len(job.ids) - job.start
        if (result.count, reference.count) != (count, count):
            return float("inf")
        worst = max(worst, _difference(_vector(result, pooling), _vector(reference, pooling)))
    return worst


def _ids(place: int, length: int, vocabulary_size: int) -> tuple[int, ...]:
    return tuple((7 * index * index + 31 * place + 5) % vocabulary_size for index in range(length))


def _vector(result: Result, pooling: str) -> NDArray[np.float32]:
    values = np.frombuffer(result.vector, dtype=np.float32)
    return values / np.float32(result.count) if pooling == "mean" else values


def _difference(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(one - two) / max(float(np.linalg.norm(two)), 1e-12))
