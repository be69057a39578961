"""Packing: rollouts into micro-batches of bounded size, each prompt computed once for several of its rollouts.

A row is a prompt followed by some of its responses. Each response sees the prompt and itself, at the positions it had
when it was generated, so its log-probabilities are those of prompt and response alone. Knows token ids, no models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Response:
    """One rollout as the loss sees it.

    Attributes:
        index: Its place in the batch.
        prompt: Token ids of the prompt.
        ids: Token ids of the rationale and, where there is one, the EOS that ended it; not empty.
    """

    index: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A prompt and some of its responses, one behind the other."""

    responses: tuple[Response, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        return self.responses[0].prompt

    @property
    def length(self) -> int:
        """Tokens to compute. The last token of a response is only predicted, but kept for simplicity."""
        return len(self.prompt) + sum(len(response.ids) for response in self.responses)


@dataclass(frozen=True)
class MicroBatch:
    """Rows as tensors, padded on the right. ``R`` rows of ``L`` tokens hold ``n`` responses of at most ``T`` tokens.

    Attributes:
        ids: ``[R, L]``.
        positions: ``[R, L]``.
        mask: ``[R, 1, L, L]`` bool, True where a token (third dimension) sees another (fourth); or ``[R, L]``, True
            for real tokens, where each row has one response and plain causal attention is right.
        indices: ``[n]`` places of the responses in the batch.
        sources: ``[n, T]`` flat places (row * L + column) of the states that predict each response token.
        targets: ``[n, T]`` the response tokens.
        valid: ``[n, T]`` bool, False for padding.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    indices: Tensor
    sources: Tensor
    targets: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device."""
        return MicroBatch(**{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})


def pack(
    responses: Sequence[Response], *, max_tokens: int, pad_token_id: int, share_prompts: bool
) -> Iterator[MicroBatch]:
    """Micro-batches that hold every response once.

    Args:
        responses: Those of one prompt need not be adjacent.
        max_tokens: Most tokens of a micro-batch, padding included; a single longer response is a batch of its own.
        pad_token_id: Fills rows up.
        share_prompts: Let responses of the same prompt stand in one row.

    Yields:
        Micro-batches, longest rows first, so that what does not fit into memory shows at once.
    """
    rows = sorted(_rows(responses, max_tokens, share_prompts), key=lambda row: -row.length)
    start = 0
    while start < len(rows):
        count = max(1, max_tokens // rows[start].length)
        yield _collate(rows[start : start + count], pad_token_id)
        start += count


def _rows(responses: Sequence[Response], max_tokens: int, share_prompts: bool) -> list[Row]:
    if not share_prompts:
        return [Row((response,)) for response in responses]
    groups: dict[tuple[int, ...], list[Response]] = {}
    for response in responses:
        groups.setdefault(response.prompt, []).append(response)
    rows = []
    for prompt, group in groups.items():
        taken: list[Response] = []
        length = len(prompt)
        for response in group:
            if taken and length + len(response.ids) > max_tokens:
                rows.append(Row(tuple(taken)))
                taken, length = [], len(prompt)
            taken.append(response)
            length += len(response.ids)
        rows.append(Row(tuple(taken)))
    return rows


def _collate(rows: Sequence[Row], pad_token_id: int) -> MicroBatch:
    width = max(row.length for row in rows)
    members = [response for row in rows for response in row.responses]
    longest = max(len(response.ids) for response in members)
    shape = (len(rows), width)
    ids = torch.full(shape, pad_token_id)
    positions = torch.zeros(shape, dtype=torch.long)
    # Which response a token belongs to, counted from 1 in its row; 0 is the prompt, -1 is padding.
    segments = torch.full(shape, -1)
    sources = torch.zeros((len(members), longest), dtype=torch.long)
    targets = torch.full((len(members), longest), pad_token_id)
    valid = torch.zeros((len(members), longest), dtype=torch.bool)
    member = 0
    for number, row in enumerate(rows):
        start = len(row.prompt)
        ids[number, :start] = torch.tensor(row.prompt)
        positions[number, :start] = torch.arange(start)
        segments[number, :start] = 0
        column = start
        for segment, response in enumerate(row.responses, start=1):
            count = len(response.ids)
            end = column + count
            ids[number, column:end] = torch.tensor(response.ids)
            positions[number, column:end] = torch.arange(start, start + count)
            segments[number, column:end] = segment
            # The prompt's last state predicts the first token, each token's state the one behind it.
            sources[member, 0] = number * width + start - 1
            sources[member, 1:count] = number * width + torch.arange(column, end - 1)
            targets[member, :count] = torch.tensor(response.ids)
            valid[member, :count] = True
            column, member = end, member + 1
    mask = segments >= 0 if all(len(row.responses) == 1 for row in rows) else _visibility(segments)
    indices = torch.tensor([response.index for response in members])
    return MicroBatch(ids, positions, mask, indices, sources, targets, valid)


def _visibility(segments: Tensor) -> Tensor:
    """``[R, 1, L, L]``: earlier tokens of the same segment and of the prompt; padding sees itself, nobody sees it."""
    order = torch.arange(segments.shape[1])
    earlier = order[:, None] >= order[None, :]
    same = segments[:, :, None] == segments[:, None, :]
    of_prompt = (segments == 0)[:, None, :]
    real = (segments >= 0)[:, None, :]
    visible = earlier & (same | of_prompt) & real
    # A row that sees nothing would make softmax NaN.
    itself = order[:, None] == order[None, :]
    return (visible | itself)[:, None]
