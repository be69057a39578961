"""What an engine is: the protocol, the sampling options and the rollout that all engines share."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

Progress = Callable[[int], None]
"""Called with the number of prompts that have just been finished."""

OnRollout = Callable[[int, "Rollout"], None]
"""Called with a finished rollout and its place in the list that the call returns, once for each place."""


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as token ids.

    Attributes:
        ids: Head, instruction, text and tail.
        pool_start: Index of the first token of the user's text: what comes before is never pooled (``L_sys`` of
            Eq. 11).
        truncated: Whether tokens of the user's text were cut off to fit.
    """

    ids: tuple[int, ...]
    pool_start: int
    truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How rationales are generated.

    Attributes:
        max_new_tokens: Budget in tokens, the terminating EOS not counted; 0 pools the prompt alone.
        do_sample: Sample instead of taking the most likely token. Sampling is seeded per prompt: the rollout of
            a text does not depend on what else is encoded with it.
        temperature: Divides the logits; > 0.
        top_p: Keep the smallest set of tokens whose probability reaches this; in (0, 1].
        top_k: Keep this many tokens; 0 keeps all.
        repetition_penalty: Divides positive and multiplies negative logits of tokens that occur in the prompt or
            the rationale (Keskar et al. 2019); > 0, 1 is off. Works in greedy decoding as well.
        seed: Base seed. A prompt's own seed is a hash of it, the prompt's ids and the sample's index.
        num_samples: Rollouts per prompt; more than one needs ``do_sample``.
        logprobs: Also return the log-probabilities of the chosen tokens.

    Raises:
        ValueError: A value is out of range, or a sampling option is given without ``do_sample``.
    """

    max_new_tokens: int
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    num_samples: int = 1
    logprobs: bool = False

    def __post_init__(self) -> None:
        _whole("max_new_tokens", self.max_new_tokens, 0, "0 pools the prompt alone")
        _whole("top_k", self.top_k, 0, "0 keeps all tokens")
        _whole("num_samples", self.num_samples, 1, "the number of rollouts of each prompt")
        if not _is_integer(self.seed) or not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed must be an integer of 64 bits, got {self.seed!r}")
        for name in ("do_sample", "logprobs"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        _positive("temperature", self.temperature, "for greedy decoding leave do_sample=False")
        _positive("repetition_penalty", self.repetition_penalty, "1.0 switches it off")
        if not 0.01 <= self.repetition_penalty <= 100:
            raise ValueError(f"repetition_penalty must be between 0.01 and 100, got {self.repetition_penalty!r}")
        _positive("top_p", self.top_p, "1.0 keeps all tokens")
        if self.top_p > 1:
            raise ValueError(f"top_p must be at most 1, got {self.top_p!r}")
        if not self.do_sample:
            given = {"temperature": self.temperature != 1, "top_p": self.top_p != 1, "top_k": self.top_k != 0}
            for name, is_set in given.items():
                if is_set:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} has no effect in greedy decoding: add do_sample=True"
                    )
            if self.num_samples > 1:
                raise ValueError(
                    f"num_samples={self.num_samples} greedy rollouts of a prompt are all the same: add do_sample=True"
                )


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _whole(name: str, value: object, minimum: int, meaning: str) -> None:
    if not _is_integer(value) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum} ({meaning}), got {value!r}")


def _positive(name: str, value: object, hint: str) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < float("inf"):
        raise ValueError(f"{name} must be a finite number > 0 ({hint}), got {value!r}")


@dataclass(frozen=True)
class Rollout:
    """One generated rationale and the vector of its span.

    Attributes:
        ids: Token ids of the rationale, without the EOS that ended it.
        stop_id: The EOS id that ended it, or None where the budget did (or where the ids were given).
        vector: ``[d]`` float32 on the CPU, not normalised.
        logprobs: Log-probabilities of ``ids`` and, where there is one, ``stop_id`` (ending is an action), under
            the model's own distribution, before temperature, penalty and truncation; empty where nothing was
            generated, None unless asked for.
    """

    ids: tuple[int, ...]
    stop_id: int | None
    vector: Tensor
    logprobs: tuple[float, ...] | None = None

    @property
    def finished(self) -> bool:
        """Whether the model ended the rationale itself."""
        return self.stop_id is not None


class NonFiniteVectorError(ArithmeticError):
    """A vector or the logits of a prompt hold NaN or infinity: the weights or their precision are broken.

    Attributes:
        index: Which of the prompts of the call.
        what: What was not finite.
        text: The prompt's text, where it is known.
    """

    def __init__(self, index: int, what: str, text: str | None = None) -> None:
        subject = f"prompt {index}" if text is None else f"the text {text!r:.200}"
        super().__init__(
            f"{subject} gave non-finite {what}: the weights hold NaN or infinity, or overflow in this dtype "
            "(float16 does with some models: load in bfloat16 or float32)"
        )
        self.index = index
        self.what = what
        self.text = text

    def __reduce__(self) -> tuple[type[NonFiniteVectorError], tuple[int, str, str | None]]:
        return type(self), (self.index, self.what, self.text)


def checked(vector: Tensor, index: int) -> Tensor:
    """The vector of prompt ``index``, as a tensor of its own.

    Raises:
        NonFiniteVectorError: It holds NaN or infinity.
    """
    if not bool(vector.isfinite().all()):
        raise NonFiniteVectorError(index, "hidden states")
    return vector.clone()


class Engine(Protocol):
    """Generates rationales and pools hidden states in the same pass."""

    @property
    def embedding_dimension(self) -> int:
        """``d`` of the vectors."""
        ...

    @property
    def window(self) -> int:
        """How many prompts are best handed over at once."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What rollouts depend on here: weights, dtype, device, versions of what computes. JSON values.

        Raises:
            ValueError: Weights are not in memory.
        """
        ...

    def generate(
        self,
        prompts: Sequence[PromptTokens],
        sampling: Sampling,
        *,
        progress: Progress | None = None,
        on_rollout: OnRollout | None = None,
    ) -> list[Rollout]:
        """Generate and pool.

        Args:
            prompts: The prompts.
            sampling: How.
            progress: Called with the number of prompts that have just been finished.
            on_rollout: Called with each finished rollout and its place in the result. What it raises ends the call.

        Returns:
            ``len(prompts) * sampling.num_samples`` rollouts, all samples of the first prompt first.

        Raises:
            ValueError: A prompt and the budget do not fit the model's context.
            NonFiniteVectorError: A vector is not finite.
        """
        ...

    def embed(
        self,
        prompts: Sequence[PromptTokens],
        rationales: Sequence[Sequence[int]],
        *,
        progress: Progress | None = None,
    ) -> list[Rollout]:
        """Pool the hidden states of prompts followed by given rationales (ids without EOS; may be empty).

        Returns:
            One rollout per prompt, with the given ids and no ``stop_id``.

        Raises:
            ValueError: The lists differ in length, or a prompt and its rationale do not fit the context.
            NonFiniteVectorError: A vector is not finite.
        """
        ...


def prompt_uniforms(seed: int, prompt_ids: Sequence[int], sample: int, steps: int) -> Tensor:
    """The random numbers that choose the tokens of one rollout.

    They depend on the seed, the prompt and the sample's index alone, never on the batch, the order or the
    process: this is what makes sampling reproducible per text.

    Args:
        seed: Base seed.
        prompt_ids: The prompt's token ids.
        sample: Index of the rollout among those of its prompt.
        steps: How many numbers.

    Returns:
        ``[steps]`` float64 in [0, 1) on the CPU.
    """
    generator = torch.Generator().manual_seed(rollout_seed(seed, prompt_ids, sample))
    return torch.rand(steps, generator=generator, dtype=torch.float64)


def rollout_seed(seed: int, prompt_ids: Sequence[int], sample: int) -> int:
    """The seed of one rollout, of 63 bits: a hash of the base seed, the prompt's ids and the sample's index."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(struct.pack("<qq", seed, sample))
    digest.update(struct.pack(f"<{len(prompt_ids)}q", *prompt_ids))
    return int.from_bytes(digest.digest(), "little") >> 1
