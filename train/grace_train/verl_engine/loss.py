"""The loss of `grace_train.losses` in the shape in which verl's workers call one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grace_train.choices import Aggregation
from grace_train.losses import aggregate, kl_terms, policy_terms


@dataclass(frozen=True)
class LossSettings:
    """What the loss needs of the configuration.

    Attributes:
        aggregation: Over all tokens, or per rollout.
        clip_low: Ratios are clipped at 1 - this.
        clip_high: Ratios are clipped at 1 + this.
        kl: Weight of the divergence from the start model.
        entropy: Weight of the entropy bonus.
        off_policy: Whether the batch carries log-probabilities of the policy that generated.
    """

    aggregation: Aggregation
    clip_low: float
    clip_high: float
    kl: float
    entropy: float
    off_policy: bool


def contrastive_loss(
    model_output: dict[str, Any], data: Any, dp_group: Any = None, *, settings: LossSettings
) -> tuple[Tensor, dict[str, float]]:
    """The policy loss of a micro-batch: its share of the loss of the whole batch, over all workers.

    Args:
        model_output: ``log_probs`` and perhaps ``entropy``, nested ``[n, tokens]``.
        data: A micro-batch of `grace_train.verl_engine.rows.update_batch`, with ``whole``: tokens (``token-mean``)
            or rollouts (``seq-sum``) of the batch over all workers.
        dp_group: verl passes the workers' process group; unused.
        settings: The configuration.

    Returns:
        The loss, times the number of workers since FSDP averages their gradients; and sums for the log.
    """
    from verl.workers.utils.padding import no_padding_2_padding

    logprobs = no_padding_2_padding(model_output["log_probs"], data).float()
    valid = data["response_mask"].to_padded_tensor(0).bool()
    terms = policy_terms(
        logprobs,
        data["advantages"],
        valid,
        old_logprobs=data["old_log_probs"].to_padded_tensor(0.0) if settings.off_policy else None,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
    )
    whole = float(data["whole"])
    loss = aggregate(terms.per_token, valid, settings.aggregation, count=whole)
    sums = {
        "loss_sum": loss.item(),
        "surprise_sum": -torch.where(valid, logprobs.detach(), 0.0).sum().item(),
        "clipped_sum": terms.clipped.sum().item(),
        "gap_sum": _gap(logprobs, data["generated_logprobs"], valid),
    }
    if settings.kl > 0:
        divergence = kl_terms(logprobs, data["ref_log_prob"].to_padded_tensor(0.0), valid)
        loss = loss + settings.kl * aggregate(divergence, valid, settings.aggregation, count=whole)
        sums["kl_sum"] = divergence.sum().item()
    if settings.entropy > 0:
        entropy = no_padding_2_padding(model_output["entropy"], data).float()
        loss = loss - settings.entropy * aggregate(entropy, valid, settings.aggregation, count=whole)
        sums["entropy_sum"] = torch.where(valid, entropy.detach(), 0.0).sum().item()
    return loss * data["dp_size"], sums


def _gap(logprobs: Tensor, generated: Tensor, valid: Tensor) -> float:
    """How far the generating engine's log-probabilities are from the present ones, summed over tokens."""
    return torch.where(valid, (logprobs.detach() - generated.to_padded_tensor(0.0)).abs(), 0.0).sum().item()
