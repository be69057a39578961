"""Log-probabilities of responses under a causal LM, with gradients, without keeping all logits in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from grace_train.local.packing import MicroBatch
from grace_train.losses import entropy_terms

LOGITS_AT_ONCE = 2**26
"""Logits (tokens times vocabulary) computed together, 256 MB in float32; more are computed in pieces, twice."""


@dataclass(frozen=True)
class TokenScores:
    """What the loss needs of a micro-batch's ``n`` responses of at most ``T`` tokens.

    Attributes:
        logprobs: ``[n, T]`` float32; padding holds 0.
        entropy: ``[n, T]`` float32 in nats, or None where it was not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None


def token_scores(
    model: PreTrainedModel, batch: MicroBatch, *, temperature: float = 1.0, entropy: bool = False
) -> TokenScores:
    """Score the response tokens of a micro-batch.

    Args:
        model: The causal LM. The decoder runs once; the output head, with whatever scaling or capping the model's
            own forward does, only where a response token is predicted.
        batch: On the model's device.
        temperature: Divides the logits: the policy that was sampled from.
        entropy: Also return entropies.
    """
    decoder = model.get_decoder()
    output = decoder(
        input_ids=batch.ids,
        attention_mask=batch.mask if batch.mask.dim() == 4 else batch.mask.long(),
        position_ids=batch.positions,
        use_cache=False,
        return_dict=True,
    )
    states = output.last_hidden_state.flatten(0, 1)
    sources, targets = batch.sources[batch.valid], batch.targets[batch.valid]
    states = states[sources]

    def score(some_states: Tensor, some_targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = _logits(model, some_states, type(output)).float() / temperature
        chosen = logits.log_softmax(dim=-1).gather(1, some_targets[:, None])[:, 0]
        return chosen, entropy_terms(logits[None])[0] if entropy else torch.zeros_like(chosen)

    embedding: Any = model.get_input_embeddings()
    vocabulary = int(embedding.weight.shape[0])
    piece = max(1, LOGITS_AT_ONCE // vocabulary)
    if len(targets) <= piece:
        scores = [score(states, targets)]
    else:
        scores = [
            checkpoint(score, *part, use_reentrant=False)
            for part in zip(states.split(piece), targets.split(piece), strict=True)
        ]
    blank = torch.zeros(batch.valid.shape, device=states.device)
    logprobs = blank.masked_scatter(batch.valid, torch.cat([item[0] for item in scores]))
    entropies = blank.masked_scatter(batch.valid, torch.cat([item[1] for item in scores])) if entropy else None
    return TokenScores(logprobs, entropies)


def _logits(model: PreTrainedModel, states: Tensor, kind: type[Any]) -> Tensor:
    """``[N, V]`` logits of states ``[N, d]``, by the model's own forward with its decoder's work already done.

    ``kind`` is what its decoder returns: the forward may look at fields that not every decoder has.
    """
    with _decoder_gives(model, kind(last_hidden_state=states[None])):
        ids = torch.zeros((1, states.shape[0]), dtype=torch.long, device=states.device)
        return model(input_ids=ids, use_cache=False, return_dict=True).logits[0]


@contextmanager
def _decoder_gives(model: PreTrainedModel, done: Any) -> Iterator[None]:
    decoder: Any = model.get_decoder()
    had_own = "forward" in decoder.__dict__
    own = decoder.__dict__.get("forward")
    decoder.forward = lambda *_args, **_kwargs: done
    try:
        yield
    finally:
        if had_own:
            decoder.forward = own
        else:
            del decoder.forward
