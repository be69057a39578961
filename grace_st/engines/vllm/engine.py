"""VllmEngine: what the rest of the package sees of vLLM. Token ids in, rationale and pooled vector out.

Pools while it generates (``mode`` is ``"one_pass"``), or in a second pass over prompt and rationale (``"two_pass"``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from grace_st.config import Pooling, PoolingSpan
from grace_st.engines.base import (
    OnRollout,
    Progress,
    PromptTokens,
    Rollout,
    Sampling,
    checked,
    rollout_seed,
)
from grace_st.engines.distinct import DistinctRollouts, DistinctSequences, deduplicate
from grace_st.engines.requests import check_requests, pooled_from, without_rationales
from grace_st.engines.vllm.check import GREEDY, StartCheck
from grace_st.engines.vllm.errors import VllmMismatchError
from grace_st.engines.vllm.messages import Job, Pooled, Ready, Result, Start
from grace_st.engines.vllm.options import VllmOptions
from grace_st.engines.vllm.session import ONE_PROCESS, VllmSession
from grace_st.engines.vllm.sums import REDUCTIONS
from grace_st.engines.vllm.versions import TESTED

WINDOW = 65536
"""Prompts that are best handed over at once: vLLM keeps full only what it has a queue for."""

TWO_PASS_WINDOW = 2048
"""Prompts of which the rationales are written, and then read: so many are lost at most when vLLM dies."""

LEAST_LENGTH = 4096
"""Tokens of prompt and rationale that vLLM is started for at least, where the context allows it."""


class VllmEngine:
    """Generates and pools with vLLM, which runs in a process of its own and holds the only copy of the weights.

    `start` starts vLLM and checks a few of its vectors. After a call that was interrupted or failed vLLM is not running
    any more; the next call starts it again.

    Args:
        folder: The model folder: config and weights as transformers saves them.
        eos_token_ids: Ids that end a rationale.
        vocabulary_size: How many token ids have an embedding.
        context_length: The model's context in tokens; None without a limit.
        longest: Prompt and rationale, in tokens, that calls will usually need.
        pooling: The reduction over the span; not ``"mean_penultimate"``.
        pooling_span: Where the span starts, see `grace_st.config.GraceConfig`.
        trust_remote_code: For checkpoints whose architecture has code of its own.
        options: See `VllmOptions`.

    Raises:
        ValueError: The pooling is not possible here, or ``max_model_len`` does not fit.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        eos_token_ids: Sequence[int],
        vocabulary_size: int,
        context_length: int | None,
        longest: int,
        pooling: Pooling = "mean",
        pooling_span: PoolingSpan = "text_and_rationale",
        trust_remote_code: bool = False,
        options: VllmOptions | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.options = options or VllmOptions()
        self.eos_token_ids = tuple(sorted(set(eos_token_ids)))
        self.vocabulary_size = vocabulary_size
        self.pooling: Pooling = pooling
        self.pooling_span: PoolingSpan = pooling_span
        self._context_length = context_length
        self._trust_remote_code = trust_remote_code
        if pooling not in REDUCTIONS:
            raise ValueError(
                f"pooling={pooling!r} needs states that vLLM does not hand out (it hands out the last layer's): use "
                f"engine='torch', or pooling={' or '.join(map(repr, REDUCTIONS))}"
            )
        self.max_model_len = self._model_length(longest)
        self._weights: str | None = None
        start = Start(
            arguments=self._arguments(),
            dtype=self.options.dtype,
            chunked_prefill=False if self.options.two_pass else self.options.enable_chunked_prefill,
            pooling=pooling,
        )
        check = StartCheck(pooling=pooling, pooled=self._pooled, vocabulary_size=vocabulary_size)
        self._session = VllmSession(self.folder, start, self.options, check)

    def _model_length(self, longest: int) -> int:
        wanted, context = self.options.max_model_len, self._context_length
        if wanted is not None and context is not None and wanted > context:
            raise ValueError(f"engine option max_model_len={wanted} exceeds the model's context of {context} tokens")
        if wanted is not None and wanted < longest:
            raise ValueError(
                f"engine option max_model_len={wanted} is less than max_seq_length and max_new_tokens of the model "
                f"folder, {longest} together: raise it, or load with lower ones"
            )
        length = wanted or max(longest, LEAST_LENGTH)
        return length if context is None else min(length, context)

    def __getstate__(self) -> NoReturn:
        raise ValueError(ONE_PROCESS)

    # ---------------------------------------------------------------- what it is

    @property
    def ready(self) -> Ready:
        """What was started. Starts it, if need be."""
        return self._session.ready

    @property
    def mode(self) -> Literal["one_pass", "two_pass"]:
        """Whether states are pooled while generating, or in a second pass."""
        return "two_pass" if self.options.two_pass else "one_pass"

    @property
    def embedding_dimension(self) -> int:
        """``d`` of the vectors: the model's hidden size."""
        return self.ready.dimension

    @property
    def window(self) -> int:
        """How many prompts are best handed over at once."""
        return WINDOW

    def fingerprint(self) -> dict[str, Any]:
        """See `grace_st.engines.base.Engine.fingerprint`."""
        if self._weights is None:
            from grace_st.fingerprint import folder_revision

            self._weights = folder_revision(self.folder)
        return {
            "engine": type(self).__name__,
            "vllm": self.ready.version,
            "mode": self.mode,
            "weights": self._weights,
            "architecture": self.ready.architecture,
            "dtype": self.ready.dtype,
            "device": self.ready.device,
            "max_model_len": self.max_model_len,
            "options": self.options.fingerprint(),
        }

    def __repr__(self) -> str:
        """The version, the mode and where it runs."""
        ready = self.ready
        return f"VllmEngine(vllm {ready.version}, {self.mode}, {ready.device}, {ready.dtype})"

    # ---------------------------------------------------------------- public

    def start(self) -> None:
        """Start vLLM and check its vectors, unless it is running.

        Raises:
            VllmMissingError: vLLM is not installed, or in an unsupported version; an `ImportError`.
            VllmStartError: vLLM cannot be started; the message has the cause.
            VllmMismatchError: Its vectors are not what they should be, or it keeps other books than expected.
            ValueError: This process is a fork of the one that made the engine.
        """
        self._session.start()

    def close(self) -> None:
        """End vLLM. The next call starts it again."""
        self._session.close()

    def generate(
        self,
        prompts: Sequence[PromptTokens],
        sampling: Sampling,
        *,
        progress: Progress | None = None,
        on_rollout: OnRollout | None = None,
    ) -> list[Rollout]:
        """See `grace_st.engines.base.Engine.generate`. Equal prompts are generated once.

        Raises:
            VllmDiedError: vLLM ended; the message has the cause. Rollouts finished before have been given to
                ``on_rollout``.
            VllmSilentError: It has made no step for longer than ``step_limit``.
        """
        if sampling.max_new_tokens == 0:
            return without_rationales(self, prompts, sampling, progress=progress, on_rollout=on_rollout)
        count, budget = sampling.num_samples, sampling.max_new_tokens
        self._check(prompts, [budget] * len(prompts))
        if sampling.do_sample and not self.ready.seeds:
            raise ValueError(
                "vLLM cannot sample with seeds on a CPU while it reads prompts in pieces: leave out the engine option "
                "enable_chunked_prefill=true, or do_sample"
            )
        wanted = DistinctRollouts(prompts, count, progress=progress, on_rollout=on_rollout)

        def finish(number: int, rollout: Rollout) -> None:
            """Rollout ``number``: prompts in order, and the samples of each."""
            wanted.finish(*divmod(number, count), rollout)

        # One token more than the budget: the last one of a batch of tokens is sampled, but not fed.
        extra = 0 if self.options.two_pass else 1
        jobs = [
            Job(
                name=str(index * count + sample),
                ids=prompt.ids,
                start=pooled_from(prompt, self.pooling_span),
                max_tokens=budget + extra,
                seed=rollout_seed(sampling.seed, prompt.ids, sample) if sampling.do_sample else None,
            )
            for index, prompt in enumerate(wanted.prompts)
            for sample in range(count)
        ]
        with self._session.call(len(jobs), wanted.finished):
            if self.options.two_pass:
                self._in_two_passes(jobs, sampling, finish, wanted.indices)
            else:

                def pooled(number: int, result: Result) -> None:
                    prompt = wanted.indices[number // count]
                    vector = self._vector(result, jobs[number].start, len(jobs[number].ids), prompt)
                    finish(number, _rollout(result, budget, vector))

                self._session.run(jobs, self._sampling(sampling), "requests", pooled)
        return wanted.in_order()

    def embed(
        self,
        prompts: Sequence[PromptTokens],
        rationales: Sequence[Sequence[int]],
        *,
        progress: Progress | None = None,
    ) -> list[Rollout]:
        """See `grace_st.engines.base.Engine.embed`."""
        self._check(prompts, [len(given) for given in rationales], rationales)
        distinct = DistinctSequences(prompts, rationales, self.pooling_span)
        vectors: dict[int, Tensor] = {}

        def finish(number: int, vector: Tensor) -> None:
            vectors[number] = vector
            if progress is not None:
                progress(distinct.counts[number])

        jobs = [
            Job(str(number), ids, start, 1)
            for number, (ids, start) in enumerate(zip(distinct.ids, distinct.starts, strict=True))
        ]
        with self._session.call(len(jobs), vectors):
            self._pool(jobs, finish, distinct.indices)
        return distinct.in_order(vectors)

    # ---------------------------------------------------------------- passes

    def _in_two_passes(
        self, jobs: list[Job], sampling: Sampling, finish: Callable[[int, Rollout], None], distinct: list[int]
    ) -> None:
        for first in range(0, len(jobs), TWO_PASS_WINDOW):
            window = jobs[first : first + TWO_PASS_WINDOW]
            written: dict[int, Result] = {}
            self._session.run(window, self._sampling(sampling), None, written.__setitem__)
            drafts = {number: _rollout(result, sampling.max_new_tokens, None) for number, result in written.items()}
            whole = [replace(job, ids=job.ids + drafts[int(job.name)].ids, max_tokens=1, seed=None) for job in window]
            # Equal samples of a prompt are one sequence.
            kept, owners = deduplicate([(*job.ids, job.start) for job in whole])
            numbers: list[list[int]] = [[] for _ in kept]
            for job, owner in zip(whole, owners, strict=True):
                numbers[owner].append(int(job.name))

            def found(place: int, vector: Tensor, numbers: list[list[int]] = numbers) -> None:
                for number in numbers[place]:
                    finish(number, replace(drafts[number], vector=vector))  # noqa: B023  (used within its turn)

            second = [replace(whole[index], name=str(place)) for place, index in enumerate(kept)]
            self._pool(second, found, [distinct[int(whole[index].name) // sampling.num_samples] for index in kept])

    def _pool(self, jobs: list[Job], finish: Callable[[int, Tensor], None], prompts: Sequence[int]) -> None:
        """Vectors of whole sequences, by their place; ``prompts`` are what errors call them."""

        def pooled(number: int, result: Result) -> None:
            job = jobs[number]
            finish(number, self._vector(result, job.start, len(job.ids), prompts[number]))

        self._session.run(jobs, GREEDY, self._pooled, pooled)

    @property
    def _pooled(self) -> Pooled:
        return "sequences" if self.options.two_pass else "requests"

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        values: dict[str, Any] = {
            "temperature": sampling.temperature if sampling.do_sample else 0.0,
            "repetition_penalty": sampling.repetition_penalty,
            "stop_token_ids": list(self.eos_token_ids),
            "ignore_eos": True,  # the model folder says what ends a rationale, not the checkpoint
        }
        if sampling.do_sample:
            values |= {"top_p": sampling.top_p, "top_k": sampling.top_k}
        if sampling.logprobs:
            values["logprobs"] = 0
        return values

    def _vector(self, result: Result, start: int, length: int, prompt: int) -> Tensor:
        """``[d]`` float32 of a result, its states counted.

        Raises:
            VllmMismatchError: Other states were pooled than there are.
            NonFiniteVectorError: It is not finite.
        """
        expected = length + len(result.ids) - 1 - start
        if result.count != expected:
            raise VllmMismatchError(
                f"vLLM {self.ready.version} pooled {result.count} states of a text that has {expected}: use the engine "
                f"option two_pass=true, or a version that this was tested with ({', '.join(TESTED)})"
            )
        values = torch.from_numpy(np.frombuffer(result.vector, dtype=np.float32).copy())
        return checked(values / expected if self.pooling == "mean" else values, prompt)

    def _check(
        self, prompts: Sequence[PromptTokens], budgets: Sequence[int], rationales: Sequence[Sequence[int]] | None = None
    ) -> None:
        check_requests(
            prompts,
            budgets,
            rationales,
            context_length=self._context_length,
            vocabulary_size=self.vocabulary_size,
        )
        for prompt, budget in zip(prompts, budgets, strict=True):
            if len(prompt.ids) + budget > self.max_model_len:
                raise ValueError(
                    f"a prompt of {len(prompt.ids)} tokens and {budget} for its rationale exceed the length of "
                    f"{self.max_model_len} tokens that vLLM was started with: load with the engine option "
                    f"max_model_len={len(prompt.ids) + budget}"
                )

    # ---------------------------------------------------------------- the start

    def _arguments(self) -> dict[str, Any]:
        """For ``vllm.LLM``, but for what depends on the device."""
        options = self.options
        arguments: dict[str, Any] = {
            "model": str(self.folder),
            "runner": "generate",
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "logprobs_mode": "raw_logprobs",  # of the model's own distribution
            # What is cached is not computed, and what is not computed cannot be pooled.
            "enable_prefix_caching": False,
            "load_format": "safetensors",
            "max_model_len": self.max_model_len + 1,
            "trust_remote_code": self._trust_remote_code,
            "tensor_parallel_size": options.tensor_parallel_size,
        }
        for name in (
            "gpu_memory_utilization",
            "max_num_seqs",
            "max_num_batched_tokens",
            "enforce_eager",
            "quantization",
            "kv_cache_dtype",
            "speculative_config",
        ):
            if getattr(options, name) is not None:
                arguments[name] = getattr(options, name)
        return arguments


def _rollout(result: Result, budget: int, vector: Tensor | None) -> Rollout:
    """A result as other engines would give it: an EOS after a full budget is not seen there."""
    is_full = len(result.ids) > budget
    ended = result.stop_id is not None and not is_full
    ids = result.ids[:-1] if ended else result.ids[:budget]
    logprobs = None if result.logprobs is None else result.logprobs[: len(ids) + ended]
    return Rollout(ids, result.stop_id if ended else None, torch.zeros(0) if vector is None else vector, logprobs)
