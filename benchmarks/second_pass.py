"""Vectors and rewards as a trainer without pooling has to make them: by a second forward pass. Knows torch alone.

For the environment of TRL, which has none of this package; the tests hold it against the package's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Prompt = Mapping[str, Any]
"""A prompt as `grace_steps.workload` writes it: ``text``, ``ids`` and ``pool_start``."""


class Embedder:
    """Vectors of prompts with their completions by a second forward pass, and rollouts of further prompts.

    Args:
        model: The policy.
        rows: Rows of one forward pass.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self.model = model
        self.rows = rows

    @torch.no_grad()
    def vectors(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[int]]) -> Tensor:
        """``[n, d]``, the mean over the text and its rationale, as GRACE pools."""
        pad = self.model.config.pad_token_id
        found = []
        for start in range(0, len(prompts), self.rows):
            part = range(start, min(start + self.rows, len(prompts)))
            sequences = [torch.tensor([*prompts[i]["ids"], *completions[i]]) for i in part]
            lengths = torch.tensor([len(sequence) for sequence in sequences])
            starts = torch.tensor([prompts[i]["pool_start"] for i in part])
            # Padding stands on the right, where causal attention never looks.
            ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad)
            hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            columns = torch.arange(ids.shape[1])
            span = (columns >= starts[:, None]) & (columns < lengths[:, None])
            found.append((hidden * span[..., None]).sum(1) / span.sum(1, keepdim=True))
        return torch.cat(found)

    @torch.no_grad()
    def rollouts(self, prompts: Sequence[Prompt], settings: Any) -> list[list[int]]:
        """One completion of each prompt, generated as TRL generates: padded on the left, together."""
        sequences = [torch.tensor(prompt["ids"]) for prompt in prompts]
        width = max(map(len, sequences))
        ids = torch.full((len(sequences), width), self.model.config.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, width - len(sequence) :], mask[row, width - len(sequence) :] = sequence, 1
        output = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        return output[:, width:].tolist()


def agreement(vectors: Tensor, group: int) -> Tensor:
    """``[n]``: the mean similarity of each vector to the others of its group (Eq. 14)."""
    unit = F.normalize(vectors, dim=-1).unflatten(0, (-1, group))
    return ((unit @ unit.mT).sum(-1) - 1).div(group - 1).flatten()


def contrast(rollouts: Tensor, queries: Tensor, negatives: Tensor, counts: Sequence[int], group: int) -> Tensor:
    """``[B * K]``: the reward ``per_rollout`` with its default weights.

    Args:
        rollouts: ``[B * K, d]``.
        queries: ``[B, d]``.
        negatives: ``[sum of counts, d]``.
        counts: How many of them each query has.
        group: ``K``.
    """
    unit, instances = F.normalize(rollouts, dim=-1), torch.arange(len(queries))
    owner = instances.repeat_interleave(group)
    similar = unit @ F.normalize(queries, dim=-1).T
    own = similar.gather(1, owner[:, None])[:, 0]
    others = (similar.sum(1) - own) / max(1, len(queries) - 1)
    theirs = owner[:, None] == instances.repeat_interleave(torch.tensor(counts))
    near = (unit @ F.normalize(negatives, dim=-1).T * theirs).sum(1) / theirs.sum(1)
    return 10 * (own - near + 0.2 * agreement(rollouts, group) - 0.2 * others)
