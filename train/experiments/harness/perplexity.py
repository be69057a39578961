"""General ability: how well a model still predicts texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from grace_st.module import GenerateThenPool

_ROWS = 64


@torch.no_grad()
def perplexity(module: GenerateThenPool, texts: Sequence[str]) -> float:
    """Of the texts' tokens in their prompts, the template's tokens not counted: exp of the mean loss in nats."""
    prompts = module.prompts_of(texts)
    tail = len(module.prompt.tail_ids)
    loss, tokens = 0.0, 0
    for first in range(0, len(prompts), _ROWS):
        part = prompts[first : first + _ROWS]
        features = module.features_of(part)
        output = module.model(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
        chosen = torch.log_softmax(output.logits[:, :-1].float(), dim=-1)
        chosen = chosen.gather(2, features["input_ids"][:, 1:, None])[:, :, 0]
        for line, prompt in zip(chosen, part, strict=True):
            span = line[prompt.pool_start - 1 : len(prompt.ids) - tail - 1]
            loss -= float(span.sum())
            tokens += len(span)
    return math.exp(loss / tokens)
