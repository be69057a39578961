"""What is asked for twice in a call is computed once: equal prompts, and equal prompts with equal rationales.

Knows token ids only, and nothing about how they are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from grace_st.config import PoolingSpan
from grace_st.engines.base import OnRollout, Progress, PromptTokens, Rollout
from grace_st.engines.requests import pooled_from


def deduplicate(keys: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
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


class DistinctRollouts:
    """The rollouts that a call generates, and who is told of each.

    Args:
        prompts: The prompts of the call.
        num_samples: Rollouts of each.
        progress: Called with the number of prompts whose last rollout has just been finished.
        on_rollout: Called with each finished rollout and its place in `in_order`, once for each place.

    Attributes:
        prompts: The distinct prompts, as they first occur.
        indices: Which of the call's prompts each of them is.
        finished: Rollouts so far, by distinct prompt and sample.
    """

    def __init__(
        self,
        prompts: Sequence[PromptTokens],
        num_samples: int,
        *,
        progress: Progress | None = None,
        on_rollout: OnRollout | None = None,
    ) -> None:
        self.indices, self._owners = deduplicate([(*prompt.ids, prompt.pool_start) for prompt in prompts])
        self.prompts = [prompts[index] for index in self.indices]
        self.finished: dict[tuple[int, int], Rollout] = {}
        self._num_samples = num_samples
        self._progress = progress
        self._on_rollout = on_rollout
        self._missing = [num_samples] * len(self.prompts)
        self._places: list[list[int]] = [[] for _ in self.prompts]
        for place, owner in enumerate(self._owners):
            self._places[owner].append(place)

    def finish(self, prompt: int, sample: int, rollout: Rollout) -> None:
        """Take a rollout of a distinct prompt, and tell of it."""
        self.finished[prompt, sample] = rollout
        self._missing[prompt] -= 1
        if self._on_rollout is not None:
            for place in self._places[prompt]:
                self._on_rollout(place * self._num_samples + sample, rollout)
        if self._progress is not None and self._missing[prompt] == 0:
            self._progress(len(self._places[prompt]))

    def in_order(self) -> list[Rollout]:
        """All rollouts of the call, all samples of the first prompt first. Every one must be finished."""
        samples = range(self._num_samples)
        return [self.finished[owner, sample] for owner in self._owners for sample in samples]


class DistinctSequences:
    """Prompts followed by given rationales.

    Args:
        prompts: The prompts of the call.
        rationales: One for each, ids without EOS.
        pooling_span: Where the pooled span starts, see `grace_st.config.GraceConfig`.

    Attributes:
        ids: The distinct sequences, as they first occur.
        starts: The index of the first pooled token of each.
        indices: Which of the call's prompts each of them is of.
        counts: How many of the call's prompts each of them stands for.
    """

    def __init__(
        self, prompts: Sequence[PromptTokens], rationales: Sequence[Sequence[int]], pooling_span: PoolingSpan
    ) -> None:
        sequences = [prompt.ids + tuple(given) for prompt, given in zip(prompts, rationales, strict=True)]
        starts = [pooled_from(prompt, pooling_span) for prompt in prompts]
        keys = [(*ids, start) for ids, start in zip(sequences, starts, strict=True)]
        self.indices, self._owners = deduplicate(keys)
        self.ids = [sequences[index] for index in self.indices]
        self.starts = [starts[index] for index in self.indices]
        self.counts = [0] * len(self.ids)
        for owner in self._owners:
            self.counts[owner] += 1
        self._rationales = rationales

    def in_order(self, vectors: Mapping[int, Tensor]) -> list[Rollout]:
        """One rollout for each prompt of the call, from the vectors ``[d]`` of all distinct sequences."""
        return [
            Rollout(tuple(given), None, vectors[owner])
            for given, owner in zip(self._rationales, self._owners, strict=True)
        ]
