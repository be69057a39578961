"""What the engine and the process that runs vLLM say to each other. Pickled, so plain data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Pooled = Literal["requests", "sequences"]
"""How a worker tells whose a hidden state is: by vLLM's requests, in any step; or by whole sequences of token ids,
each of which must be read in one step."""

# ---------------------------------------------------------------- to the host


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start vLLM.

    Attributes:
        arguments: For ``vllm.LLM``, but for what depends on the device.
        dtype: Of the weights; None leaves it to the device.
        chunked_prefill: None leaves it to the device.
        pooling: The reduction.
    """

    arguments: dict[str, Any]
    dtype: str | None
    chunked_prefill: bool | None
    pooling: str


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        name: Its name, without hyphens.
        ids: Token ids to read.
        start: Index of the first pooled one.
        max_tokens: How many to generate, at least one.
        seed: Of its random numbers; None in greedy decoding.
    """

    name: str
    ids: tuple[int, ...]
    start: int
    max_tokens: int
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Do some requests.

    Attributes:
        jobs: The requests.
        sampling: For ``vllm.SamplingParams``, what they have in common.
        pooled: How states are pooled; None pools nothing.
    """

    jobs: list[Job]
    sampling: dict[str, Any]
    pooled: Pooled | None


# ---------------------------------------------------------------- from the host


@dataclass(frozen=True, kw_only=True)
class Ready:
    """vLLM has started.

    Attributes:
        version: Of vLLM.
        device: ``"cpu"``, ``"cuda"``, ...
        dtype: Of the weights, e.g. ``"bfloat16"``.
        dimension: Of the vectors.
        architecture: The class that runs the model.
        seeds: Whether it can sample with seeds.
        cause: Why states cannot be pooled while generating; None where they can.
    """

    version: str
    device: str
    dtype: str
    dimension: int
    architecture: str
    seeds: bool = True
    cause: str | None = None


@dataclass(frozen=True)
class Beat:
    """A step was made."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished request.

    Attributes:
        name: Its name.
        ids: The generated token ids, with the one that ended it.
        stop_id: That one; None where ``max_tokens`` ended it.
        logprobs: Of ``ids``, where asked for.
        vector: ``[d]`` float32 as bytes: the sum, the maximum or the last state; empty where nothing is pooled.
        count: How many states were pooled.
    """

    name: str
    ids: tuple[int, ...]
    stop_id: int | None
    logprobs: tuple[float, ...] | None = None
    vector: bytes = field(default=b"", repr=False)
    count: int = 0


@dataclass(frozen=True)
class Results:
    """Some finished requests."""

    results: list[Result]


@dataclass(frozen=True)
class End:
    """All requests of a batch are finished."""


@dataclass(frozen=True)
class Failed:
    """Something went wrong, and the host is about to end.

    Attributes:
        cause: What was said.
        exit_code: Of the process of vLLM's that ended; None where it was an error in the host.
    """

    cause: str
    exit_code: int | None = None
