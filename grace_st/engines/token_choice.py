"""Choosing the next token from logits: greedy, or sampled with numbers that are given."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from grace_st.engines.base import Sampling


class TokenChooser:
    """Turns logits into token ids as a `Sampling` asks.

    The order is transformers' own: repetition penalty, temperature, top-k, top-p.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.warpers: list[LogitsProcessor] = []
        if sampling.do_sample:
            if sampling.temperature != 1:
                self.warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self.warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self.warpers.append(TopPLogitsWarper(float(sampling.top_p)))

    @property
    def needs_seen(self) -> bool:
        """Whether `choose` wants to know which tokens occurred already."""
        return self.sampling.repetition_penalty != 1

    def choose(self, logits: Tensor, uniforms: Tensor | None, seen: Tensor | None) -> Tensor:
        """The next token of each row.

        Args:
            logits: ``[B, V]`` float32.
            uniforms: ``[B]`` float64 in [0, 1), one number a row; None when greedy.
            seen: ``[B, V]`` bool, tokens that occurred in prompt or rationale; None without a penalty.

        Returns:
            ``[B]`` int64.
        """
        if seen is not None:
            penalty = self.sampling.repetition_penalty
            penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(seen, penalised, logits)
        if uniforms is None:
            return logits.argmax(dim=-1)
        # Shifted so that the largest is 0: no temperature, however small, makes them overflow.
        logits = logits - logits.amax(dim=-1, keepdim=True)
        for warper in self.warpers:
            logits = warper(None, logits)  # these three never read the ids
        # Inverse transform sampling: one number a row decides, so the row's neighbours cannot.
        # float64, because float32 sums over a vocabulary of 150,000 misplace the borders; MPS has none.
        device = logits.device
        wide = logits.cpu().double() if device.type == "mps" else logits.double()
        cumulative = wide.softmax(dim=-1).cumsum(dim=-1)
        total = cumulative[:, -1:]
        threshold = uniforms.to(cumulative.device).unsqueeze(-1) * total
        # Rounding must not reach the total: the first token whose cumulative probability exceeds the threshold
        # is then always one of probability > 0.
        threshold = torch.minimum(threshold, torch.nextafter(total, torch.zeros_like(total)))
        tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
        # Past the end only where logits are NaN, which the caller reports.
        return tokens.clamp(max=logits.shape[-1] - 1).to(device)


def chosen_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of tokens under the model's own distribution.

    Args:
        logits: ``[B, V]`` float32, as the model gave them.
        tokens: ``[B]`` int64.

    Returns:
        ``[B]`` float32.
    """
    return logits.log_softmax(dim=-1).gather(1, tokens.unsqueeze(-1)).squeeze(-1)
