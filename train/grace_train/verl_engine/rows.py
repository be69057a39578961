"""Rows of token ids on their way to the workers: dealt out, padded, and made into verl's batches there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]


@dataclass
class EmbedRows:
    """Sequences to pool, of one worker.

    Attributes:
        ids: ``n`` sequences.
        starts: ``n`` first pooled positions.
        places: Where each row belongs in the whole batch; -1 for a row that only pads.
    """

    ids: list[Ids] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


@dataclass
class UpdateRows:
    """Rollouts to learn from, of one worker.

    Attributes:
        prompts: ``n`` prompts.
        actions: ``n`` rationales, each with the EOS that ended it.
        advantages: ``n`` numbers.
        logprobs: ``n`` log-probabilities of the actions, as the generating engine measured them.
        counts: False for a row that only pads.
    """

    prompts: list[Ids] = field(default_factory=list)
    actions: list[Ids] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    counts: list[bool] = field(default_factory=list)


def deal(lengths: Sequence[int], workers: int) -> list[list[int]]:
    """Deal rows out so that all workers have equally many, and about as many tokens.

    Args:
        lengths: Tokens of each row.
        workers: How many.

    Returns:
        Row numbers of each worker; some lists may be one shorter than others.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    hands: list[list[int]] = [[] for _ in range(workers)]
    for turn, row in enumerate(order):
        place = turn % workers
        # Back and forth, so that the first worker does not get the longest of every round.
        hands[place if (turn // workers) % 2 == 0 else workers - 1 - place].append(row)
    return hands


def embed_rows(sequences: Sequence[Sequence[int]], starts: Sequence[int], workers: int) -> list[EmbedRows]:
    """Sequences for each worker, all of one count: FSDP's workers must make equally many passes."""
    hands = deal([len(ids) for ids in sequences], workers)
    count = max(1, *map(len, hands))
    made = []
    for hand in hands:
        rows = EmbedRows()
        for place in hand:
            rows.ids.append(np.asarray(sequences[place], dtype=np.int32))
            rows.starts.append(starts[place])
            rows.places.append(place)
        while len(rows.ids) < count:
            rows.ids.append(np.zeros(2, dtype=np.int32))
            rows.starts.append(0)
            rows.places.append(-1)
        made.append(rows)
    return made


def update_rows(
    prompts: Sequence[Sequence[int]],
    actions: Sequence[Sequence[int]],
    advantages: Sequence[float],
    logprobs: Sequence[list[float]],
    workers: int,
) -> list[UpdateRows]:
    """Rollouts for each worker, all of one count."""
    hands = deal([len(prompt) + len(ids) for prompt, ids in zip(prompts, actions, strict=True)], workers)
    count = max(1, *map(len, hands))
    made = []
    for hand in hands:
        rows = UpdateRows()
        for place in hand:
            rows.prompts.append(np.asarray(prompts[place], dtype=np.int32))
            rows.actions.append(np.asarray(actions[place], dtype=np.int32))
            rows.advantages.append(advantages[place])
            rows.logprobs.append(logprobs[place] or [0.0] * len(actions[place]))
            rows.counts.append(True)
        while len(rows.prompts) < count:
            rows.prompts.append(np.zeros(1, dtype=np.int32))
            rows.actions.append(np.zeros(1, dtype=np.int32))
            rows.advantages.append(0.0)
            rows.logprobs.append([0.0])
            rows.counts.append(False)
        made.append(rows)
    return made


# ------------------------------------------------------------------ in the workers


def embed_batch(rows: EmbedRows) -> Any:
    """The rows as a TensorDict of verl's "no padding" layout, with ``place`` and ``start`` of each."""
    from tensordict import TensorDict

    ids = [torch.from_numpy(item.astype(np.int64)) for item in rows.ids]
    return TensorDict(
        {
            "input_ids": _nested(ids),
            "position_ids": _nested([torch.arange(len(item)) for item in ids]),
            "start": torch.tensor(rows.starts),
            "place": torch.tensor(rows.places),
        },
        batch_size=len(ids),
    )


def update_batch(rows: UpdateRows) -> Any:
    """The rows as a TensorDict of verl's "no padding" layout."""
    from tensordict import TensorDict

    prompts = [torch.from_numpy(item.astype(np.int64)) for item in rows.prompts]
    actions = [torch.from_numpy(item.astype(np.int64)) for item in rows.actions]
    masks = [
        torch.full((len(item),), int(counts), dtype=torch.int64)
        for item, counts in zip(actions, rows.counts, strict=True)
    ]
    whole = [torch.cat(pair) for pair in zip(prompts, actions, strict=True)]
    return TensorDict(
        {
            "input_ids": _nested(whole),
            "position_ids": _nested([torch.arange(len(item)) for item in whole]),
            "prompts": _nested(prompts),
            "responses": _nested(actions),
            "response_mask": _nested(masks),
            "loss_mask": _nested(masks),
            "generated_logprobs": _nested([torch.tensor(item) for item in rows.logprobs]),
            "advantages": torch.tensor(rows.advantages, dtype=torch.float32),
        },
        batch_size=len(whole),
    )


def _nested(items: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(items, layout=torch.jagged)
