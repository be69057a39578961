"""What the engine must give, computed the slow way: no cache, a full forward a token, float64 pooling."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grace_st.engines.base import PromptTokens


def _last_layer(model: PreTrainedModel) -> torch.nn.Module:
    return model.get_decoder().layers[-1]


@torch.no_grad()
def greedy(
    model: PreTrainedModel, prompts: Sequence[PromptTokens], budget: int, stops: Sequence[int]
) -> list[tuple[list[int], int | None]]:
    """Greedy rationales and what ended them, by a full forward over everything for each token."""
    sequences = [list(prompt.ids) for prompt in prompts]
    ended: list[int | None] = [None] * len(prompts)
    open_rows = list(range(len(prompts)))
    for _ in range(budget):
        if not open_rows:
            break
        width = max(len(sequences[row]) for row in open_rows)
        # Padding on the right: causal attention cannot see it.
        ids = torch.tensor([sequences[row] + [0] * (width - len(sequences[row])) for row in open_rows])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        still_open = []
        for index, row in enumerate(open_rows):
            token = int(logits[index, len(sequences[row]) - 1].argmax())
            if token in stops:
                ended[row] = token
            else:
                sequences[row].append(token)
                still_open.append(row)
        open_rows = still_open
    return [
        (sequence[len(prompt.ids) :], stop) for sequence, prompt, stop in zip(sequences, prompts, ended, strict=True)
    ]


@torch.no_grad()
def vector(model: PreTrainedModel, ids: Sequence[int], start: int, pooling: str) -> Tensor:
    """``[d]`` float64: the representation of ``ids[start:]``, by one full forward of a float64 copy."""
    wide = copy.deepcopy(model).double()
    caught: list[Tensor] = []

    def catch(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])

    handle = _last_layer(wide).register_forward_pre_hook(catch, with_kwargs=True)
    output = wide.get_decoder()(input_ids=torch.tensor([list(ids)]), use_cache=False)
    handle.remove()
    states = caught[0] if pooling == "mean_penultimate" else output.last_hidden_state
    span = states[0, start:]
    if pooling == "max":
        return span.amax(dim=0)
    if pooling == "last":
        return span[-1]
    return span.mean(dim=0)
