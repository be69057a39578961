"""The default engine: pools hidden states while it generates, in one pass over the model.

Every pooled token goes through the model exactly once; the second full forward that this replaces lives in the tests,
as the oracle. Knows token ids only. Here: what a call is made of (distinct prompts, order, memory, one call at a time);
the decode loop is in `grace_st.engines.decoding`, the forward passes in `grace_st.engines.forward`.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from grace_st.config import Pooling, PoolingSpan
from grace_st.engines.base import (
    NonFiniteVectorError,
    OnRollout,
    Progress,
    PromptTokens,
    Rollout,
    Sampling,
    checked,
)
from grace_st.engines.decoding import Decoding, Job
from grace_st.engines.distinct import DistinctRollouts, DistinctSequences
from grace_st.engines.forward import FEED_TOKENS, CausalForward
from grace_st.engines.requests import check_requests, pooled_from, without_rationales
from grace_st.fingerprint import adapters_fingerprint, architecture_fingerprint, weights_fingerprint
from grace_st.half_precision import HALF
from grace_st.pooling import pool

logger = logging.getLogger(__name__)

# Rows decoded at once, unless told otherwise: as many as pay off, if their cache fits.
CPU_SLOTS = 64
CPU_CACHE_BYTES = 2 * 1024**3
CUDA_SLOTS = 256
CUDA_CACHE_SHARE = 0.5  # of the memory that the weights leave
OTHER_SLOTS = 64

WINDOW = 4096
"""Prompts that are best handed over at once."""

_most_slots: ContextVar[int | None] = ContextVar("most_slots", default=None)


class TorchEngine:
    """Generates and pools with a transformers causal LM, on the CPU or an accelerator.

    Args:
        model: A causal LM with a standard key/value cache. Its weights are read, never copied.
        eos_token_ids: Ids that end a rationale.
        pad_token_id: Fills unused positions.
        pooling: The reduction over the span.
        pooling_span: Where the span starts, see `grace_st.config.GraceConfig`.
        slots: Rows decoded at once. By default as many as pay off (64 on a CPU, 256 on a CUDA device) if the cache
            of the longest fits (2 GiB on a CPU, half of what the weights leave on a CUDA device). Halved when an
            accelerator runs out of memory.
        share_prefix: Compute what all prompts of a call begin with (the template's head) once.

    Raises:
        ValueError: The model keeps no key/value cache, or ``slots`` is not a positive integer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        pooling: Pooling = "mean",
        pooling_span: PoolingSpan = "text_and_rationale",
        slots: int | None = None,
        share_prefix: bool = True,
    ) -> None:
        if slots is not None and (not isinstance(slots, int) or isinstance(slots, bool) or slots < 1):
            raise ValueError(f"slots must be an integer >= 1, got {slots!r}")
        self.model = model
        self.forward = CausalForward(model, pooling, pad_token_id)
        self.eos_token_ids = frozenset(eos_token_ids)
        self.pooling: Pooling = pooling
        self.pooling_span: PoolingSpan = pooling_span
        self.share_prefix = share_prefix
        if not self.forward.can_repack:
            logger.warning(
                "the cache of %s cannot be re-packed: rows are decoded in waves of equal prompt length, without "
                "refill, which is slower",
                type(model).__name__,
            )
        self.slots = slots
        self._ran_out_of_memory = False
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    @property
    def embedding_dimension(self) -> int:
        """``d`` of the vectors: the model's hidden size."""
        return self.forward.hidden_size

    @property
    def window(self) -> int:
        """How many prompts are best handed over at once: slots stand idle only at the end of a window."""
        return WINDOW

    def fingerprint(self) -> dict[str, Any]:
        """See `grace_st.engines.base.Engine.fingerprint`. In half precision the number of slots matters as well."""
        device = self.model.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        is_half = self.model.dtype in HALF or autocast in HALF
        return {
            "engine": type(self).__name__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "autocast": None if autocast is None else str(autocast).removeprefix("torch."),
            "adapters": adapters_fingerprint(self.model),
            "slots": self.most_slots if is_half else None,
            "weights": weights_fingerprint(self.model),
            "architecture": architecture_fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": device,
            "attention": str(self.model.config._attn_implementation),
        }

    def slots_for(self, tokens: int) -> int:
        """Rows decoded at once when the longest may have this many tokens.

        Depends on the device and the model, never on what else occupies memory: a call must not give other vectors
        (half precision rounds differently for other numbers of rows) because of what ran before it.
        """
        return min(self._slots_for(tokens), _most_slots.get() or sys.maxsize)

    @property
    def most_slots(self) -> int | None:
        """The most rows decoded at once that someone asked for, of the engine or with `at_most`; None where nobody."""
        asked = [count for count in (self.slots, _most_slots.get()) if count is not None]
        return min(asked, default=None)

    def _slots_for(self, tokens: int) -> int:
        if self.slots is not None:
            return self.slots
        device = self.model.device
        if device.type == "cpu":
            most, room = CPU_SLOTS, float(CPU_CACHE_BYTES)
        elif device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            most, room = CUDA_SLOTS, CUDA_CACHE_SHARE * (total - self.model.get_memory_footprint())
        else:
            return OTHER_SLOTS
        return max(1, min(most, int(room / (tokens * self.forward.cache_bytes_per_token))))

    @staticmethod
    @contextmanager
    def at_most(slots: int) -> Iterator[None]:
        """Decode no more rows at once than this, in the calls that this thread makes meanwhile.

        Raises:
            ValueError: It is not a positive integer.
        """
        if not isinstance(slots, int) or isinstance(slots, bool) or slots < 1:
            raise ValueError(f"the number of texts decoded at once must be an integer >= 1, got {slots!r}")
        token = _most_slots.set(slots)
        try:
            yield
        finally:
            _most_slots.reset(token)

    # ---------------------------------------------------------------- public

    def generate(
        self,
        prompts: Sequence[PromptTokens],
        sampling: Sampling,
        *,
        progress: Progress | None = None,
        on_rollout: OnRollout | None = None,
    ) -> list[Rollout]:
        """See `grace_st.engines.base.Engine.generate`. Equal prompts are generated once."""
        if sampling.max_new_tokens == 0:
            return without_rationales(self, prompts, sampling, progress=progress, on_rollout=on_rollout)
        self.check(prompts, [sampling.max_new_tokens] * len(prompts))
        wanted = DistinctRollouts(prompts, sampling.num_samples, progress=progress, on_rollout=on_rollout)
        work = wanted.prompts
        starts = [self.pooled_from(prompt) for prompt in work]
        # Longest first: prompts that are admitted together are of similar length, and what does not fit into
        # memory shows at once.
        order = sorted(range(len(work)), key=lambda index: -len(work[index].ids))
        longest = len(work[order[0]].ids) + sampling.max_new_tokens if work else 0
        jobs = [Job(index, sample) for index in order for sample in range(sampling.num_samples)]

        def finish(job: Job, rollout: Rollout) -> None:
            with _of_the_caller():
                wanted.finish(job.prompt, job.sample, rollout)

        with self.inference(), _naming(wanted.indices):
            while pending := [job for job in jobs if (job.prompt, job.sample) not in wanted.finished]:
                slots = self.slots_for(longest)
                decoding = Decoding(
                    self.forward,
                    work,
                    sampling,
                    starts=starts,
                    eos_token_ids=self.eos_token_ids,
                    slots=slots,
                    share_prefix=self.share_prefix,
                    finish=finish,
                )
                self.attempt(partial(decoding.run, pending), slots)
        return wanted.in_order()

    def embed(
        self,
        prompts: Sequence[PromptTokens],
        rationales: Sequence[Sequence[int]],
        *,
        progress: Progress | None = None,
    ) -> list[Rollout]:
        """See `grace_st.engines.base.Engine.embed`. One forward, no generation."""
        self.check(prompts, [len(given) for given in rationales], rationales)
        distinct = DistinctSequences(prompts, rationales, self.pooling_span)
        queue = sorted(range(len(distinct.ids)), key=lambda number: -len(distinct.ids[number]))
        vectors: dict[int, Tensor] = {}

        def pool_next(count: int) -> None:
            batch = queue[:count]
            pooled = self._pool_whole([distinct.ids[i] for i in batch], [distinct.starts[i] for i in batch])
            for number, vector in zip(batch, pooled, strict=True):
                vectors[number] = checked(vector, distinct.indices[number])
            del queue[: len(batch)]
            if progress is not None:
                with _of_the_caller():
                    progress(sum(distinct.counts[number] for number in batch))

        with self.inference():
            while queue:
                width = len(distinct.ids[queue[0]])
                count = min(self.slots_for(width), max(1, FEED_TOKENS // width), len(queue))
                self.attempt(partial(pool_next, count), count)
        return distinct.in_order(vectors)

    def token_states(self, prompt: PromptTokens, rationale: Sequence[int]) -> Tensor:
        """What `embed` pools, before it is pooled: for looking into a vector.

        Args:
            prompt: The prompt.
            rationale: Ids without EOS; may be empty.

        Returns:
            ``[T, d]`` on the CPU, in the model's dtype: the states of all tokens of the prompt, then of the rationale,
            of the layer that the pooling asks for.

        Raises:
            ValueError: A token has no embedding, or prompt and rationale do not fit the context.
            NonFiniteVectorError: A state that is pooled is not finite.
        """
        self.check([prompt], [len(rationale)], [rationale])
        found: list[Tensor] = []

        def feed() -> None:
            found.append(self._whole([prompt.ids + tuple(rationale)])[0][0].cpu())

        with self.inference():
            self.attempt(feed, 1)
        checked(found[0][self.pooled_from(prompt) :], 0)
        return found[0]

    def pooled_from(self, prompt: PromptTokens) -> int:
        """Index of the first pooled token of a prompt, see `grace_st.engines.requests.pooled_from`."""
        return pooled_from(prompt, self.pooling_span)

    def _pool_whole(self, sequences: list[tuple[int, ...]], starts: list[int]) -> Tensor:
        """``[B, d]`` vectors of whole sequences."""
        hidden, lengths = self._whole(sequences)
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        first = torch.tensor(starts, device=hidden.device).unsqueeze(-1)
        return pool(hidden, (columns >= first) & (columns < lengths.unsqueeze(-1)), self.pooling).cpu()

    def _whole(self, sequences: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """States ``[B, T, d]`` of whole sequences, and their lengths ``[B]``.

        Padding stands on the right, where causal attention ignores it.
        """
        ids, lengths = self.forward.right_padded(sequences)
        hidden, _ = self.forward.feed(ids, torch.ones_like(ids, dtype=torch.bool), 0, None, want_logits=False)
        return hidden, lengths

    # ---------------------------------------------------------------- guards

    def check(
        self, prompts: Sequence[PromptTokens], budgets: Sequence[int], rationales: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Refuse what the model cannot take, see `grace_st.engines.requests.check_requests`."""
        check_requests(
            prompts,
            budgets,
            rationales,
            context_length=self.forward.context_length,
            vocabulary_size=self.forward.vocabulary_size,
        )

    @contextmanager
    def inference(self) -> Iterator[None]:
        """One call at a time, evaluation mode, no gradients."""
        with self._lock, torch.no_grad():
            was_training = self.model.training
            self.model.eval()
            try:
                yield
            except _CallerError as error:
                raise error.raised from None
            finally:
                self.model.train(was_training)

    def attempt(self, work: Callable[[], None], rows: int) -> None:
        """Do some work on ``rows`` rows at once; when an accelerator runs out of memory, note that half is enough.

        Then it returns, and the caller tries again.

        Raises:
            RuntimeError: Memory is not even enough for one row.
        """
        if self._ran_out_of_memory:
            # Now that the failed attempt and its traceback hold no tensors any more.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            elif torch.backends.mps.is_available():
                torch.mps.empty_cache()
            self._ran_out_of_memory = False
        try:
            work()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if rows == 1:
                raise RuntimeError(
                    "out of memory with a single slot: lower max_seq_length or max_new_tokens, load in a smaller "
                    "dtype, or use a larger device"
                ) from error
            self.slots = rows // 2
            self._ran_out_of_memory = True
            logger.warning("out of memory: going on with %d slots; finished texts are kept", self.slots)


class _CallerError(Exception):
    """Carries what a function of the caller raised out of `TorchEngine.attempt`.

    There an accelerator that is out of memory would be taken for the engine's own trouble, and the call tried again
    without the rollout that was being handed over.
    """

    def __init__(self, raised: Exception) -> None:
        super().__init__(raised)
        self.raised = raised


@contextmanager
def _of_the_caller() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _CallerError(error) from error


@contextmanager
def _naming(distinct: list[int]) -> Iterator[None]:
    """Give errors about a distinct prompt the index that the caller knows it by."""
    try:
        yield
    except NonFiniteVectorError as error:
        raise NonFiniteVectorError(distinct[error.index], error.what) from None


def _is_out_of_memory(error: RuntimeError) -> bool:
    # CUDA has a class of its own; MPS says it in words.
    return isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in str(error)
