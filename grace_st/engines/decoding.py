"""The decode loop: a fixed number of slots, refilled as rationales end, pooling every state as it passes.

Rows that end make room for the next prompts, so short rationales do not wait for long ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

from grace_st.engines import kv_cache
from grace_st.engines.base import NonFiniteVectorError, PromptTokens, Rollout, Sampling, checked, prompt_uniforms
from grace_st.engines.forward import FEED_TOKENS, CausalForward
from grace_st.engines.token_choice import TokenChooser, chosen_logprobs
from grace_st.pooling import RunningPool


@dataclass(frozen=True)
class Job:
    """One rollout to make: a distinct prompt and the index of its sample."""

    prompt: int
    sample: int


@dataclass
class Rows:
    """The rows being decoded, ``B`` of them. ``token`` is the one to feed next: not yet seen by the model."""

    jobs: list[Job]
    live: list[bool]
    generated: list[list[int]]
    logprobs: list[list[float]]
    cache: Cache
    mask: Tensor  # [B, L] bool
    token: Tensor  # [B]
    position: Tensor  # [B]
    pool: RunningPool
    uniforms: Tensor | None  # [B, budget] float64, on the CPU
    seen: Tensor | None  # [B, V] bool

    @property
    def dead(self) -> list[int]:
        """Rows that have ended and not been replaced."""
        return [row for row, is_live in enumerate(self.live) if not is_live]

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        index = torch.tensor(rows, device=self.mask.device)
        kv_cache.select_rows(self.cache, index)
        self.mask, self.token, self.position = self.mask[index], self.token[index], self.position[index]
        self.pool = self.pool.select(index)
        # Kept on the CPU, where they are drawn, so that every device samples alike: no index of the device's.
        self.uniforms = None if self.uniforms is None else self.uniforms[rows]
        self.seen = None if self.seen is None else self.seen[index]
        for name in ("jobs", "live", "generated", "logprobs"):
            values = getattr(self, name)
            setattr(self, name, [values[row] for row in rows])

    def admit(self, new: Rows) -> None:
        """Take in new rows, in the place of dead ones where they fit there."""
        places = self.dead[: len(new.jobs)]
        if len(places) == len(new.jobs) and new.mask.shape[1] <= self.mask.shape[1]:
            self._replace(places, new)
        else:
            if self.dead:
                self.keep([row for row, is_live in enumerate(self.live) if is_live])
            self._extend(new)
        self.mask = kv_cache.drop_leading_padding(self.cache, self.mask)

    def _replace(self, places: list[int], new: Rows) -> None:
        """Overwrite some rows. The others stay where they are, which makes this cheap."""
        index = torch.tensor(places, device=self.mask.device)
        self.mask = kv_cache.replace_rows(self.cache, self.mask, index, new.cache, new.mask)
        self.token = self.token.index_copy(0, index, new.token)
        self.position = self.position.index_copy(0, index, new.position)
        self.pool = self.pool.replace(index, new.pool)
        if self.uniforms is not None and new.uniforms is not None:
            self.uniforms[places] = new.uniforms
        if self.seen is not None and new.seen is not None:
            self.seen = self.seen.index_copy(0, index, new.seen)
        for name in ("jobs", "live", "generated", "logprobs"):
            values = getattr(self, name)
            for place, value in zip(places, getattr(new, name), strict=True):
                values[place] = value

    def _extend(self, other: Rows) -> None:
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


class Decoding:
    """One run of the decode loop.

    Args:
        forward: The model.
        prompts: Distinct prompts; jobs name them by index.
        sampling: How tokens are chosen.
        starts: Per prompt the index of its first pooled token, the last token at the latest.
        eos_token_ids: Ids that end a rationale.
        slots: Rows decoded at once.
        share_prefix: Run what all prompts begin with only once.
        finish: Called with each job and its rollout as soon as it has ended.
    """

    def __init__(
        self,
        forward: CausalForward,
        prompts: Sequence[PromptTokens],
        sampling: Sampling,
        *,
        starts: Sequence[int],
        eos_token_ids: frozenset[int],
        slots: int,
        share_prefix: bool,
        finish: Callable[[Job, Rollout], None],
    ) -> None:
        self.forward = forward
        self.prompts = prompts
        self.sampling = sampling
        self.starts = starts
        self.eos_token_ids = eos_token_ids
        self.slots = slots
        self.share_prefix = share_prefix
        self.finish = finish
        self.chooser = TokenChooser(sampling)
        self.device = forward.device
        self.prefix: tuple[int, ...] = ()
        self.prefix_cache: Cache | None = None

    def run(self, jobs: list[Job]) -> None:
        """Decode until every job is finished."""
        queue = list(reversed(jobs))
        self._compute_prefix({job.prompt for job in jobs})
        rows: Rows | None = None
        # Admitting is cheap, but a forward pass over few tokens is slow; dropping rows copies those that stay.
        refill, shrink = max(1, self.slots // 8), max(1, self.slots // 4)
        while queue or rows is not None:
            # 1. Admit, if enough slots are free to be worth a forward pass; drop rows when nobody waits.
            live = [] if rows is None else [row for row, is_live in enumerate(rows.live) if is_live]
            if rows is not None and not live:
                rows = None
            if rows is None:
                if not queue:
                    return
                rows = self._prefill(self._take(queue, self.slots))
            elif self.forward.can_repack:
                free = self.slots - len(live)
                admit = min(free, len(queue)) if free >= min(refill, len(queue)) else 0
                if admit:
                    rows.admit(self._prefill(self._take(queue, admit)))
                elif len(rows.jobs) - len(live) >= shrink:
                    rows.keep(live)
                    rows.mask = kv_cache.drop_leading_padding(rows.cache, rows.mask)
            # 2. Feed one token a row, pool its state, choose the next, retire what has ended.
            self._step(rows)

    def _take(self, queue: list[Job], count: int) -> list[Job]:
        """Pop the next jobs, at most what one forward pass should be fed.

        Without re-packing only ones of equal prompt length, so that none needs padding.
        """
        taken = [queue.pop()]
        length = longest = len(self.prompts[taken[0].prompt].ids)
        while queue and len(taken) < count:
            following = len(self.prompts[queue[-1].prompt].ids)
            longest = max(longest, following)
            if not self.forward.can_repack and following != length:
                break
            if longest * (len(taken) + 1) > FEED_TOKENS:
                break
            taken.append(queue.pop())
        return taken

    def _compute_prefix(self, indices: set[int]) -> None:
        """Run what all prompts begin with, once. It ends before the first pooled token."""
        if not (self.forward.can_repack and self.share_prefix) or not indices:
            return
        prompts = [self.prompts[index] for index in indices]
        shortest, longest = min(prompt.ids for prompt in prompts), max(prompt.ids for prompt in prompts)
        length = min(self.starts[index] for index in indices)
        # The common prefix of the lexicographically first and last is that of all.
        for position, (first, last) in enumerate(zip(shortest[:length], longest[:length], strict=False)):
            if first != last:
                length = position
                break
        if length == 0:
            return
        self.prefix = shortest[:length]
        ids = torch.tensor([self.prefix], device=self.device)
        self.prefix_cache = self.forward.new_cache()
        self.forward.feed(ids, torch.ones_like(ids, dtype=torch.bool), 0, self.prefix_cache, want_logits=False)

    def _prefill(self, jobs: list[Job]) -> Rows:
        """Run the prompts of some jobs up to their last token, which the next step feeds.

        Feeding the last token together with the other rows' sampled ones spares this pass the output head, and
        lets rows of different lengths start together.
        """
        forward, start = self.forward, len(self.prefix)
        distinct = [job.prompt for job in jobs]
        if forward.can_repack:  # samples of one prompt share its pass
            distinct = list(dict.fromkeys(distinct))
        prompts = [self.prompts[index] for index in distinct]
        bodies = [prompt.ids[start:-1] for prompt in prompts]
        cache = (
            forward.new_cache() if self.prefix_cache is None else kv_cache.replicate(self.prefix_cache, len(prompts))
        )
        pooled = RunningPool.empty(forward.pooling, len(prompts), forward.hidden_size, self.device)
        lengths = torch.tensor([start + len(body) for body in bodies], device=self.device)
        width = max(len(body) for body in bodies)
        if width or (forward.can_repack and not start):
            # A prompt of one token has nothing to run before it: a padding column keeps the cache's shape.
            ids, _ = forward.right_padded(bodies if width else [(forward.pad_token_id,)] * len(bodies))
            everything = torch.ones(len(prompts), start + ids.shape[1], dtype=torch.bool, device=self.device)
            hidden, _ = forward.feed(ids, everything, start, cache, want_logits=False)
            columns = torch.arange(start, start + ids.shape[1], device=self.device)
            first = torch.tensor([self.starts[index] for index in distinct], device=self.device)
            pooled.add(hidden, (columns >= first.unsqueeze(-1)) & (columns < lengths.unsqueeze(-1)))
        if forward.can_repack:
            mask = kv_cache.align_right(cache, lengths)
            if len(jobs) != len(distinct):
                rows_of = {index: row for row, index in enumerate(distinct)}
                index = torch.tensor([rows_of[job.prompt] for job in jobs], device=self.device)
                kv_cache.select_rows(cache, index)
                mask, lengths, pooled = mask[index], lengths[index], pooled.select(index)
        else:
            mask = torch.ones(len(jobs), int(lengths.max()), dtype=torch.bool, device=self.device)
        all_ids = [self.prompts[job.prompt].ids for job in jobs]
        return Rows(
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

    def _uniforms(self, jobs: list[Job]) -> Tensor | None:
        if not self.sampling.do_sample:
            return None
        budget, seed = self.sampling.max_new_tokens, self.sampling.seed
        return torch.stack([prompt_uniforms(seed, self.prompts[job.prompt].ids, job.sample, budget) for job in jobs])

    def _seen(self, all_ids: list[tuple[int, ...]]) -> Tensor | None:
        if not self.chooser.needs_seen:
            return None
        head = self.forward.model.get_output_embeddings()
        seen = torch.zeros(len(all_ids), head.weight.shape[0], dtype=torch.bool, device=self.device)
        for row, ids in enumerate(all_ids):
            seen[row, torch.tensor(ids, device=self.device)] = True
        return seen

    def _step(self, rows: Rows) -> None:
        budget = self.sampling.max_new_tokens
        rows.mask = F.pad(rows.mask, (0, 1), value=True)
        hidden, logits = self.forward.feed(
            rows.token.unsqueeze(-1), rows.mask, rows.position, rows.cache, want_logits=True
        )
        assert logits is not None
        live = torch.tensor(rows.live, device=self.device)
        rows.position = rows.position + live
        rows.pool.add(hidden, live.unsqueeze(-1))

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
            if token in self.eos_token_ids:
                ended.append((row, token))
            else:
                rows.generated[row].append(token)
        if rows.seen is not None:
            rows.seen.scatter_(1, tokens.unsqueeze(-1), True)
        rows.token = tokens
        if ended:
            self._retire(rows, ended)

    def _retire(self, rows: Rows, ended: list[tuple[int, int | None]]) -> None:
        index = torch.tensor([row for row, _ in ended], device=self.device)
        vectors = rows.pool.select(index).value().cpu()
        # Until they are replaced, rows that have ended are fed at their last position: behind it may be none.
        rows.position = rows.position.index_add(0, index, torch.full_like(index, -1))
        for (row, stop_id), vector in zip(ended, vectors, strict=True):
            rows.live[row] = False
            job = rows.jobs[row]
            logprobs = tuple(rows.logprobs[row]) if self.sampling.logprobs else None
            rollout = Rollout(tuple(rows.generated[row]), stop_id, checked(vector, job.prompt), logprobs)
            self.finish(job, rollout)
