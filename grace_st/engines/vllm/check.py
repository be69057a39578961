"""The check at the start: a few vectors against those of the same sequences, read alone and told apart in another way.

What a worker reads from vLLM's books may mean something else in another version. Here several texts of different
lengths are generated together, and each is then read again with its rationale, whole and alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grace_st.engines.vllm.errors import VllmMismatchError
from grace_st.engines.vllm.messages import Job, Pooled, Ready, Result
from grace_st.engines.vllm.versions import TESTED

GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
"""For ``vllm.SamplingParams`` where what is generated is of no interest, or only compared."""

TOLERANCE = {True: 1e-3, False: 5e-2}
"""Largest difference relative to the vector's length: in float32, and in half precision, where reading and generating
round differently."""

_LENGTHS = (3, 6, 10, 17, 4, 11)
_SPAN = 2  # of each prompt: one wrong state among few shows
_NEW_TOKENS = 4

Run = Callable[[list[Job], Pooled], list[Result]]


@dataclass(frozen=True, kw_only=True)
class StartCheck:
    """What must hold before vLLM is used. Refers to nothing that refers to it: an engine that is let go ends vLLM.

    Attributes:
        pooling: The reduction.
        pooled: How states are told apart.
        vocabulary_size: How many token ids have an embedding.
    """

    pooling: str
    pooled: Pooled
    vocabulary_size: int

    def __call__(self, ready: Ready, do: Callable[..., None]) -> None:
        """Check what was started.

        Args:
            ready: What was started.
            do: `VllmSession.run`.

        Raises:
            VllmMismatchError: Its vectors are not what they should be, or it keeps other books than expected.
        """
        if self.pooled == "requests" and ready.cause is not None:
            raise VllmMismatchError(
                f"vLLM {ready.version} cannot be pooled from while it generates ({ready.cause}): use the engine option "
                f"two_pass=true, or a version that this was tested with ({', '.join(TESTED)})"
            )

        def run(jobs: list[Job], pooled: Pooled) -> list[Result]:
            found: dict[int, Result] = {}
            do(jobs, GREEDY, pooled, found.__setitem__)
            return [found[place] for place in range(len(jobs))]

        difference = largest_difference(run, self.pooling, self.pooled, self.vocabulary_size)
        if not difference <= TOLERANCE[ready.dtype == "float32"]:
            raise VllmMismatchError(
                f"vectors of vLLM {ready.version} ({ready.architecture}, {ready.dtype}) differ by {difference:.2g} "
                "from those of the same sequences read alone: use engine='torch', the engine option two_pass=true, or "
                f"a version that this was tested with ({', '.join(TESTED)})"
            )


def largest_difference(run: Run, pooling: str, pooled: Pooled, vocabulary_size: int) -> float:
    """How far vectors are from their references.

    Args:
        run: Does requests, whose names are their places, greedy and without an EOS.
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
