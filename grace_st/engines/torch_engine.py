"""The default engine: a decode loop of its own that pools hidden states while it generates.

One pass: every pooled token goes through the model exactly once. A fixed number of slots holds the rows that are
being decoded; rows that end make room for the next prompts (refill), so short rationales do not wait for long ones.
Knows token ids only. The second full forward that this replaces lives in the tests, as the oracle.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from grace_st.config import Pooling, PoolingSpan
from grace_st.engines import kv_cache
from grace_st.engines.base import (
    NonFiniteVectorError,
    Progress,
    PromptTokens,
    Rollout,
    Sampling,
    prompt_uniforms,
)
from grace_st.engines.token_choice import TokenChooser, chosen_logprobs
from grace_st.pooling import RunningPool, pool

logger = logging.getLogger(__name__)

CPU_SLOTS = 32
ACCELERATOR_SLOTS = 64


@dataclass(frozen=True)
class _Job:
    """One rollout to make: a distinct prompt and the index of its sample."""

    prompt: int
    sample: int


@dataclass
class _Rows:
    """The rows being decoded, ``B`` of them. ``token`` is the one to feed next: not yet seen by the model."""

    jobs: list[_Job]
    live: list[bool]
    generated: list[list[int]]
    logprobs: list[list[float]]
    cache: Cache
    mask: Tensor  # [B, L] bool
    token: Tensor  # [B]
    position: Tensor  # [B]
    pool: RunningPool
    uniforms: Tensor | None  # [B, budget] float64
    seen: Tensor | None  # [B, V] bool

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows and the columns that are padding in all that stay."""
        index = torch.tensor(rows, device=self.mask.device)
        self.mask = self.mask[index]
        trim = kv_cache.leading_padding(self.mask)
        kv_cache.select_rows(self.cache, index, trim)
        self.mask = self.mask[:, trim:]
        self.token, self.position, self.pool = (
            self.token[index],
            self.position[index],
            self.pool.select(index),
        )
        self.uniforms = None if self.uniforms is None else self.uniforms[index]
        self.seen = None if self.seen is None else self.seen[index]
        for name in ("jobs", "live", "generated", "logprobs"):
            values = getattr(self, name)
            setattr(self, name, [values[row] for row in rows])

    def extend(self, other: _Rows) -> None:
        """Append another set of rows."""
        self.mask = kv_cache.join(self.cache, self.mask, other.cache, other.mask)
        self.token = torch.cat([self.token, other.token])
        self.position = torch.cat([self.position, other.position])
        self.pool = self.pool.joined(other.pool)
        if self.uniforms is not None and other.uniforms is not None:
            self.uniforms = torch.cat([self.uniforms, other.uniforms])
        if self.seen is not None and other.seen is not None:
            self.seen = torch.cat([self.seen, other.seen])
        self.jobs += other.jobs
        self.live += other.live
        self.generated += other.generated
        self.logprobs += other.logprobs


class TorchEngine:
    """Generates and pools with a transformers causal LM, on the CPU or an accelerator.

    Args:
        model: A causal LM with a standard key/value cache. Its weights are read, never copied.
        eos_token_ids: Ids that end a rationale.
        pad_token_id: Fills unused positions.
        pooling: The reduction over the span.
        pooling_span: Where the span starts, see `grace_st.config.GraceConfig`.
        slots: Rows decoded at once; default 32 on a CPU, 64 elsewhere. Halved when an accelerator runs out of
            memory.
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
        self.eos_token_ids = frozenset(eos_token_ids)
        self.pad_token_id = pad_token_id
        self.pooling: Pooling = pooling
        self.pooling_span: PoolingSpan = pooling_span
        self.share_prefix = share_prefix
        self.text_config = model.config.get_text_config(decoder=True)
        self.decoder = model.get_decoder()
        accepted = inspect.signature(self.decoder.forward).parameters
        if "past_key_values" not in accepted:
            raise ValueError(
                f"{type(model).__name__} keeps no key/value cache (past_key_values), which one-pass encoding needs: "
                "choose an attention-based or hybrid causal LM"
            )
        self._takes_positions = "position_ids" in accepted
        self.can_repack = kv_cache.can_repack(model.config)
        if not self.can_repack:
            logger.warning(
                "the cache of %s cannot be re-packed: rows are decoded in waves of equal prompt length, without "
                "refill, which is slower",
                type(model).__name__,
            )
        self._slots = slots
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
        return int(self.text_config.hidden_size)

    @property
    def context_length(self) -> int | None:
        """The longest sequence the model can take, in tokens; None where its config names no limit."""
        limit = self.text_config.to_dict().get("max_position_embeddings")
        return int(limit) if limit else None

    @property
    def slots(self) -> int:
        """Rows decoded at once."""
        if self._slots is None:
            return CPU_SLOTS if self.model.device.type == "cpu" else ACCELERATOR_SLOTS
        return self._slots

    # ---------------------------------------------------------------- public

    def generate(
        self, prompts: Sequence[PromptTokens], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[Rollout]:
        """See `grace_st.engines.base.Engine.generate`. Equal prompts are generated once."""
        if sampling.max_new_tokens == 0:
            rollouts = self.embed(prompts, [()] * len(prompts), progress=progress)
            return [rollout for rollout in rollouts for _ in range(sampling.num_samples)]
        self._check_context([len(prompt.ids) + sampling.max_new_tokens for prompt in prompts])
        distinct, owners = _deduplicate([(*prompt.ids, prompt.pool_start) for prompt in prompts])
        work = [prompts[index] for index in distinct]
        # Longest first: prompts that are admitted together are of similar length, and what does not fit into
        # memory shows at once.
        order = sorted(range(len(work)), key=lambda index: -len(work[index].ids))
        jobs = [_Job(index, sample) for index in order for sample in range(sampling.num_samples)]
        done: dict[_Job, Rollout] = {}
        remaining = [sampling.num_samples] * len(work)
        weights = [0] * len(work)
        for owner in owners:
            weights[owner] += 1

        def finish(job: _Job, rollout: Rollout) -> None:
            done[job] = rollout
            remaining[job.prompt] -= 1
            if progress is not None and remaining[job.prompt] == 0:
                progress(weights[job.prompt])

        with self._inference(), _naming(distinct):
            while len(done) < len(jobs):
                pending = [job for job in jobs if job not in done]
                self._attempt(lambda: _Decoding(self, work, sampling, finish).run(pending))  # noqa: B023
        return [done[_Job(owner, sample)] for owner in owners for sample in range(sampling.num_samples)]

    def embed(
        self,
        prompts: Sequence[PromptTokens],
        rationales: Sequence[Sequence[int]],
        *,
        progress: Progress | None = None,
    ) -> list[Rollout]:
        """See `grace_st.engines.base.Engine.embed`. One forward, no generation."""
        if len(prompts) != len(rationales):
            raise ValueError(f"got {len(prompts)} prompts and {len(rationales)} rationales: one of each is needed")
        sequences = [prompt.ids + tuple(given) for prompt, given in zip(prompts, rationales, strict=True)]
        self._check_context([len(sequence) for sequence in sequences])
        starts = [self.pooled_from(prompt) for prompt in prompts]
        keys = [(*sequence, start) for sequence, start in zip(sequences, starts, strict=True)]
        distinct, owners = _deduplicate(keys)
        queue = sorted(distinct, key=lambda index: -len(sequences[index]))
        weights: dict[int, int] = {}
        for owner in owners:
            weights[distinct[owner]] = weights.get(distinct[owner], 0) + 1
        vectors: dict[int, Tensor] = {}

        def pool_next() -> None:
            batch = queue[: self.slots]
            pooled = self._pool_whole([sequences[i] for i in batch], [starts[i] for i in batch])
            for index, vector in zip(batch, pooled, strict=True):
                vectors[index] = _checked(vector, index)
            del queue[: len(batch)]
            if progress is not None:
                progress(sum(weights[index] for index in batch))

        with self._inference():
            while queue:
                self._attempt(pool_next)
        return [
            Rollout(tuple(given), None, vectors[distinct[owner]])
            for given, owner in zip(rationales, owners, strict=True)
        ]

    def pooled_from(self, prompt: PromptTokens) -> int:
        """Index of the first pooled token of a prompt.

        The last token of the prompt is always inside: a rationale starts from its state, and an empty text after
        a template without a tail still has a vector.
        """
        last = len(prompt.ids) - 1
        return last if self.pooling_span == "rationale" else min(prompt.pool_start, last)

    # ---------------------------------------------------------------- forward passes

    def feed(
        self,
        ids: Tensor,
        mask: Tensor,
        first_position: Tensor | int,
        cache: Cache | None,
        *,
        want_logits: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """One forward pass over ``ids`` behind what is cached.

        Args:
            ids: ``[B, T]`` token ids.
            mask: ``[B, L + T]`` bool, True for real tokens among the cached and the fed.
            first_position: Position of the first fed token, one for all rows or ``[B]``.
            cache: Extended in place; None keeps nothing.
            want_logits: Also return the logits of the last fed token.

        Returns:
            The states to pool, ``[B, T, d]``, and ``[B, V]`` float32 logits or None.
        """
        steps = torch.arange(ids.shape[1], device=ids.device)
        start = torch.as_tensor(first_position, device=ids.device).reshape(-1, 1)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "past_key_values": cache,
            "use_cache": cache is not None,
            "return_dict": True,
            "output_hidden_states": self.pooling == "mean_penultimate",
        }
        if self._takes_positions:
            inputs["position_ids"] = (start + steps).expand(ids.shape[0], -1)
        if not want_logits:
            return self._states(self.decoder(**inputs)).to(ids.device), None
        # The logits come from the model's own forward, since heads differ (scaling, soft-capping); the states
        # are caught on the way.
        outputs: list[Any] = []
        handle = self.decoder.register_forward_hook(lambda _module, _args, output: outputs.append(output))
        try:
            logits = self.model(**inputs).logits[:, -1]
        finally:
            handle.remove()
        return self._states(outputs[-1]).to(ids.device), logits.to(ids.device).float()

    def _states(self, output: Any) -> Tensor:
        if self.pooling == "mean_penultimate":
            # Index 0 is the embeddings, so this is what the last decoder layer receives.
            return output.hidden_states[self.text_config.num_hidden_layers - 1]
        return output.last_hidden_state

    def _pool_whole(self, sequences: list[tuple[int, ...]], starts: list[int]) -> Tensor:
        """``[B, d]`` vectors of whole sequences. Padding stands on the right, where causal attention ignores it."""
        device = self.model.device
        ids, lengths = self.right_padded(sequences, device)
        hidden, _ = self.feed(ids, torch.ones_like(ids, dtype=torch.bool), 0, None, want_logits=False)
        columns = torch.arange(ids.shape[1], device=device)
        mask = (columns >= torch.tensor(starts, device=device).unsqueeze(-1)) & (columns < lengths.unsqueeze(-1))
        return pool(hidden, mask, self.pooling).cpu()

    def right_padded(self, sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Ids ``[B, T]`` padded on the right, and lengths ``[B]``."""
        width = max(len(sequence) for sequence in sequences)
        ids = torch.full((len(sequences), width), self.pad_token_id, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        return ids.to(device), torch.tensor([len(sequence) for sequence in sequences], device=device)

    def new_cache(self) -> DynamicCache:
        """An empty cache.

        Without a config all layers keep everything, also those with a sliding window, whose mask does the rest:
        exact, and possible to re-pack.
        """
        return DynamicCache() if self.can_repack else DynamicCache(config=self.text_config)

    # ---------------------------------------------------------------- guards

    def _check_context(self, lengths: list[int]) -> None:
        limit = self.context_length
        longest = max(lengths, default=0)
        if limit is not None and longest > limit:
            raise ValueError(
                f"prompt and budget need {longest} tokens, but the model's context is {limit}: lower "
                "max_new_tokens, or max_seq_length so that texts are truncated"
            )

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """One call at a time, evaluation mode, no gradients."""
        with self._lock, torch.no_grad():
            was_training = self.model.training
            self.model.eval()
            try:
                yield
            finally:
                self.model.train(was_training)

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do some work; when an accelerator runs out of memory, halve the slots and return to try again."""
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
            if self.slots == 1:
                raise RuntimeError(
                    "out of memory with a single slot: lower max_seq_length or max_new_tokens, load in a smaller "
                    "dtype, or use a larger device"
                ) from error
            self._slots = self.slots // 2
            self._ran_out_of_memory = True
            logger.warning("out of memory: going on with %d slots; finished texts are kept", self._slots)


class _Decoding:
    """One run of the decode loop over some jobs."""

    def __init__(
        self,
        engine: TorchEngine,
        prompts: list[PromptTokens],
        sampling: Sampling,
        finish: Callable[[_Job, Rollout], None],
    ) -> None:
        self.engine = engine
        self.prompts = prompts
        self.sampling = sampling
        self.finish = finish
        self.chooser = TokenChooser(sampling)
        self.device = engine.model.device
        self.slots = engine.slots
        self.prefix: tuple[int, ...] = ()
        self.prefix_cache: Cache | None = None

    def run(self, jobs: list[_Job]) -> None:
        """Decode until every job is finished."""
        queue = list(reversed(jobs))
        self._compute_prefix({job.prompt for job in jobs})
        rows: _Rows | None = None
        refill = max(1, self.slots // 4)
        while queue or rows is not None:
            # 1. Make room and admit, if enough is free to be worth re-packing the cache.
            live = [] if rows is None else [row for row, is_live in enumerate(rows.live) if is_live]
            if rows is not None and not live:
                rows = None
            dead = 0 if rows is None else len(rows.jobs) - len(live)
            if rows is None:
                if not queue:
                    return
                rows = self._prefill(self._take(queue, self.slots))
            elif self.engine.can_repack:
                free = self.slots - len(live)
                admit = min(free, len(queue)) if free >= min(refill, len(queue)) else 0
                if dead and (admit or dead >= refill):
                    rows.keep(live)
                if admit:
                    rows.extend(self._prefill(self._take(queue, admit)))
            # 2. Feed one token a row, pool its state, choose the next, retire what has ended.
            self._step(rows)

    def _take(self, queue: list[_Job], count: int) -> list[_Job]:
        """Pop the next jobs; without re-packing only ones of equal prompt length, so that none needs padding."""
        taken = [queue.pop()]
        length = len(self.prompts[taken[0].prompt].ids)
        while queue and len(taken) < count:
            if not self.engine.can_repack and len(self.prompts[queue[-1].prompt].ids) != length:
                break
            taken.append(queue.pop())
        return taken

    def _compute_prefix(self, indices: set[int]) -> None:
        """Run what all prompts begin with, once. It ends before the first pooled token."""
        if not (self.engine.can_repack and self.engine.share_prefix) or not indices:
            return
        prompts = [self.prompts[index] for index in indices]
        shortest, longest = min(prompt.ids for prompt in prompts), max(prompt.ids for prompt in prompts)
        length = min(self.engine.pooled_from(prompt) for prompt in prompts)
        # The common prefix of the lexicographically first and last is that of all.
        for position, (first, last) in enumerate(zip(shortest[:length], longest[:length], strict=False)):
            if first != last:
                length = position
                break
        if length == 0:
            return
        self.prefix = shortest[:length]
        ids = torch.tensor([self.prefix], device=self.device)
        self.prefix_cache = self.engine.new_cache()
        self.engine.feed(ids, torch.ones_like(ids, dtype=torch.bool), 0, self.prefix_cache, want_logits=False)

    def _prefill(self, jobs: list[_Job]) -> _Rows:
        """Run the prompts of some jobs up to their last token, which the next step feeds.

        Feeding the last token together with the other rows' sampled ones spares this pass the output head, and
        lets rows of different lengths start together.
        """
        engine, start = self.engine, len(self.prefix)
        distinct = [job.prompt for job in jobs]
        if engine.can_repack:  # samples of one prompt share its pass
            distinct = list(dict.fromkeys(distinct))
        prompts = [self.prompts[index] for index in distinct]
        bodies = [prompt.ids[start:-1] for prompt in prompts]
        cache = engine.new_cache() if self.prefix_cache is None else kv_cache.replicate(self.prefix_cache, len(prompts))
        pooled = RunningPool.empty(engine.pooling, len(prompts), engine.embedding_dimension, self.device)
        lengths = torch.tensor([start + len(body) for body in bodies], device=self.device)
        width = max(len(body) for body in bodies)
        if width or not start:
            # A prompt of one token has nothing to run before it: a padding column keeps the cache's shape.
            ids, _ = engine.right_padded(bodies if width else [(engine.pad_token_id,)] * len(bodies), self.device)
            everything = torch.ones(len(prompts), start + ids.shape[1], dtype=torch.bool, device=self.device)
            hidden, _ = engine.feed(ids, everything, start, cache, want_logits=False)
            columns = torch.arange(start, start + ids.shape[1], device=self.device)
            first = torch.tensor([engine.pooled_from(prompt) for prompt in prompts], device=self.device)
            pooled.add(hidden, (columns >= first.unsqueeze(-1)) & (columns < lengths.unsqueeze(-1)))
        if engine.can_repack:
            mask = kv_cache.align_right(cache, lengths)
            if len(jobs) != len(distinct):
                rows_of = {index: row for row, index in enumerate(distinct)}
                index = torch.tensor([rows_of[job.prompt] for job in jobs], device=self.device)
                kv_cache.select_rows(cache, index)
                mask, lengths, pooled = mask[index], lengths[index], pooled.select(index)
        else:
            mask = torch.ones(len(jobs), int(lengths.max()), dtype=torch.bool, device=self.device)
        all_ids = [self.prompts[job.prompt].ids for job in jobs]
        return _Rows(
            jobs=list(jobs),
            live=[True] * len(jobs),
            generated=[[] for _ in jobs],
            logprobs=[[] for _ in jobs],
            cache=cache,
            mask=mask,
            token=torch.tensor([ids[-1] for ids in all_ids], device=self.device),
            position=lengths,
            pool=pooled,
            uniforms=self._uniforms(jobs),
            seen=self._seen(all_ids),
        )

    def _uniforms(self, jobs: list[_Job]) -> Tensor | None:
        if not self.sampling.do_sample:
            return None
        budget, seed = self.sampling.max_new_tokens, self.sampling.seed
        return torch.stack([prompt_uniforms(seed, self.prompts[job.prompt].ids, job.sample, budget) for job in jobs])

    def _seen(self, all_ids: list[tuple[int, ...]]) -> Tensor | None:
        if not self.chooser.needs_seen:
            return None
        head = self.engine.model.get_output_embeddings()
        seen = torch.zeros(len(all_ids), head.weight.shape[0], dtype=torch.bool, device=self.device)
        for row, ids in enumerate(all_ids):
            seen[row, torch.tensor(ids, device=self.device)] = True
        return seen

    def _step(self, rows: _Rows) -> None:
        budget = self.sampling.max_new_tokens
        rows.mask = F.pad(rows.mask, (0, 1), value=True)
        hidden, logits = self.engine.feed(
            rows.token.unsqueeze(-1), rows.mask, rows.position, rows.cache, want_logits=True
        )
        assert logits is not None
        rows.position = rows.position + 1
        rows.pool.add(hidden, torch.tensor(rows.live, device=self.device).unsqueeze(-1))

        uniforms = None
        if rows.uniforms is not None:
            drawn = torch.tensor([[min(len(ids), budget - 1)] for ids in rows.generated])
            uniforms = rows.uniforms.gather(1, drawn).squeeze(-1)
        tokens = self.chooser.choose(logits, uniforms, rows.seen)
        logprobs = chosen_logprobs(logits, tokens).tolist() if self.sampling.logprobs else None
        # One transfer a step: the tokens, and whether the logits behind them can be trusted.
        chosen, finite = torch.stack([tokens, logits.amax(dim=-1).isfinite().long()]).tolist()

        ended: list[tuple[int, int | None]] = []
        for row, (token, is_finite) in enumerate(zip(chosen, finite, strict=True)):
            if not rows.live[row]:
                continue
            if len(rows.generated[row]) == budget:
                # The last token of a rationale that fills its budget has just been fed and pooled.
                ended.append((row, None))
                continue
            if not is_finite:
                raise NonFiniteVectorError(rows.jobs[row].prompt, "logits")
            if logprobs is not None:
                rows.logprobs[row].append(logprobs[row])
            if token in self.engine.eos_token_ids:
                ended.append((row, token))
            else:
                rows.generated[row].append(token)
        if rows.seen is not None:
            rows.seen.scatter_(1, tokens.unsqueeze(-1), True)
        rows.token = tokens
        if ended:
            self._retire(rows, ended)

    def _retire(self, rows: _Rows, ended: list[tuple[int, int | None]]) -> None:
        index = torch.tensor([row for row, _ in ended], device=self.device)
        vectors = rows.pool.select(index).value().cpu()
        for (row, stop_id), vector in zip(ended, vectors, strict=True):
            rows.live[row] = False
            job = rows.jobs[row]
            logprobs = tuple(rows.logprobs[row]) if self.sampling.logprobs else None
            rollout = Rollout(tuple(rows.generated[row]), stop_id, _checked(vector, job.prompt), logprobs)
            self.finish(job, rollout)


def _deduplicate(keys: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """Indices of the first occurrence of each key, and for every key which of those it is."""
    seen: dict[tuple[int, ...], int] = {}
    distinct: list[int] = []
    owners: list[int] = []
    for index, key in enumerate(keys):
        if key not in seen:
            seen[key] = len(distinct)
            distinct.append(index)
        owners.append(seen[key])
    return distinct, owners


@contextmanager
def _naming(distinct: list[int]) -> Iterator[None]:
    """Give errors about a distinct prompt the index that the caller knows it by."""
    try:
        yield
    except NonFiniteVectorError as error:
        raise NonFiniteVectorError(distinct[error.index], error.what) from None


def _checked(vector: Tensor, index: int) -> Tensor:
    if not bool(vector.isfinite().all()):
        raise NonFiniteVectorError(index, "hidden states")
    return vector.clone()


def _is_out_of_memory(error: RuntimeError) -> bool:
    # CUDA has a class of its own; MPS says it in words.
    return isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in str(error)
