"""The update: from advantages to new weights.

Loss and gradients do not depend on how the batch is cut into micro-batches (but for rounding): each adds its share of
a sum whose divisor is that of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from grace_train.config import TrainConfig
from grace_train.local.packing import MicroBatch, Response, pack
from grace_train.local.policy import Policy
from grace_train.local.scoring import Side
from grace_train.losses import aggregate, kl_terms, policy_terms
from grace_train.report.health import TrainingStopped
from grace_train.sections import OptimizerConfig


@dataclass(frozen=True, eq=False)
class Sample:
    """One rollout in the loss.

    Attributes:
        prompt: Token ids.
        actions: Token ids that the policy chose, the terminating EOS included: ending is an action.
        advantage: ``A(i, k)``.
        old_logprobs: ``[len(actions)]`` under the policy that generated, as the engine measured them.
    """

    prompt: tuple[int, ...]
    actions: tuple[int, ...]
    advantage: float
    old_logprobs: Tensor


def samples_of(sides: Sequence[Side], instances: range) -> list[Sample]:
    """The rollouts of some instances, those of dropped groups left out."""
    samples = []
    for side in sides:
        for index in instances:
            if not bool(side.kept[index]):
                continue
            group = side.groups[index]
            for rollout, advantage in zip(group.rollouts, side.advantages[index].tolist(), strict=True):
                end = () if rollout.stop_id is None else (rollout.stop_id,)
                samples.append(
                    Sample(group.prompt.ids, rollout.ids + end, advantage, torch.tensor(rollout.logprobs or ()))
                )
    return samples


@dataclass
class Sums:
    """Sums over the tokens of an update, for the log."""

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    surprise: float = 0.0
    clipped: float = 0.0
    gap: float = 0.0
    tokens: int = 0
    norms: list[float] = field(default_factory=list)


class Learner:
    """Holds the optimiser and makes updates.

    Args:
        policy: The model.
        config: The run.
        total_steps: Steps of the whole run, for the learning rate's schedule.
    """

    def __init__(self, policy: Policy, config: TrainConfig, total_steps: int) -> None:
        self.policy = policy
        self.config = config
        self.total_steps = total_steps
        self.parameters = list(policy.trainable().values())
        matrices = [parameter for parameter in self.parameters if parameter.dim() >= 2]
        vectors = [parameter for parameter in self.parameters if parameter.dim() < 2]
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
        )

    def update(self, sides: Sequence[Side], step: int) -> dict[str, float]:
        """Train on one batch.

        Args:
            sides: Groups with advantages.
            step: Which step this is, from 1.

        Returns:
            Values for the log.

        Raises:
            TrainingStopped: The gradients are not finite; the weights are as before that optimiser step.
        """
        rate = learning_rate(self.config.optimizer, step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batches = [samples_of(sides, part) for part in part_borders(len(sides[0].groups), self.config)]
        batches = [samples for samples in batches if samples]
        old = [self._old_logprobs(samples) for samples in batches]
        sums = Sums()
        for samples, old_logprobs in zip(batches, old, strict=True):
            self.accumulate(samples, old_logprobs, sums)
            sums.norms.append(self._apply(step))
        return logged_values(sums, rate, self.config)

    # ---------------------------------------------------------------- one optimiser step

    def accumulate(self, samples: Sequence[Sample], old_logprobs: Tensor | None, sums: Sums) -> None:
        """Add the gradients of a mini-batch, micro-batch by micro-batch.

        Args:
            samples: The mini-batch, ``n`` rollouts of at most ``T`` tokens.
            old_logprobs: ``[n, T]`` under the policy that generated; None where that is the present one.
            sums: Added to, for the log.
        """
        settings = self.config.algorithm
        advantages = torch.tensor([sample.advantage for sample in samples], device=self.policy.device)
        tokens = sum(len(sample.actions) for sample in samples)
        whole = tokens if settings.aggregation == "token-mean" else len(samples)
        generated = None
        if old_logprobs is None and self.config.rollout.temperature == 1:  # the engine measures at temperature 1
            generated = _padded([sample.old_logprobs for sample in samples], self.policy.device)
        for batch in self._micro_batches(samples):
            scores = self.policy.scores(
                batch, temperature=self.config.rollout.temperature, entropy=settings.entropy > 0
            )
            terms = policy_terms(
                scores.logprobs,
                advantages[batch.indices],
                batch.valid,
                old_logprobs=None if old_logprobs is None else _rows(old_logprobs, batch),
                clip_low=settings.clip_low,
                clip_high=self.config.clip_high,
            )
            loss = aggregate(terms.per_token, batch.valid, settings.aggregation, count=whole)
            sums.loss += loss.item()
            if settings.kl > 0:
                reference = self.policy.reference_scores(batch, temperature=self.config.rollout.temperature)
                divergence = kl_terms(scores.logprobs, reference.logprobs, batch.valid)
                loss = loss + settings.kl * aggregate(divergence, batch.valid, settings.aggregation, count=whole)
                sums.kl += divergence.sum().item()
            if settings.entropy > 0 and scores.entropy is not None:
                loss = loss - settings.entropy * aggregate(
                    scores.entropy, batch.valid, settings.aggregation, count=whole
                )
                sums.entropy += scores.entropy.sum().item()
            loss.backward()
            sums.surprise -= scores.logprobs.sum().item()
            sums.clipped += terms.clipped.sum().item()
            if generated is not None:
                gap = (scores.logprobs.detach() - _rows(generated, batch)).abs()
                sums.gap += (gap * batch.valid).sum().item()
        sums.tokens += tokens

    def _apply(self, step: int) -> float:
        """Clip, step, and clear the gradients. Returns their norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.max_grad_norm).item()
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise gradients_not_finite(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _old_logprobs(self, samples: Sequence[Sample]) -> Tensor | None:
        """``[n, T]`` log-probabilities under the policy that generated, or None where the policy still is the same."""
        if self.config.algorithm.updates_per_batch == 1:
            return None
        if self.config.rollout.temperature == 1:
            return _padded([sample.old_logprobs for sample in samples], self.policy.device)
        # The engine measures at temperature 1.
        longest = max(len(sample.actions) for sample in samples)
        result = torch.zeros((len(samples), longest), device=self.policy.device)
        with torch.no_grad():
            for batch in self._micro_batches(samples):
                scores = self.policy.scores(batch, temperature=self.config.rollout.temperature)
                result[batch.indices, : scores.logprobs.shape[1]] = scores.logprobs
        return result

    @torch.no_grad()
    def divergence_from_start(self, sides: Sequence[Side]) -> float:
        """KL to the start model in nats per token, estimated on all rollouts of a batch (the k3 estimator)."""
        everything = [replace(side, kept=torch.ones_like(side.kept)) for side in sides]
        samples = samples_of(everything, range(len(sides[0].groups)))
        total, tokens = 0.0, 0
        for batch in self._micro_batches(samples):
            own = self.policy.scores(batch, temperature=1.0)
            start = self.policy.reference_scores(batch, temperature=1.0)
            total += kl_terms(own.logprobs, start.logprobs, batch.valid).sum().item()
            tokens += int(batch.valid.sum())
        return total / tokens

    def _micro_batches(self, samples: Sequence[Sample]) -> Iterator[MicroBatch]:
        """One after the other: the masks of all together would not fit beside the model."""
        responses = [Response(index, sample.prompt, sample.actions) for index, sample in enumerate(samples)]
        longest = max((len(item.prompt) + len(item.ids) for item in responses), default=0)
        batches = pack(
            responses,
            max_tokens=self.config.compute.tokens_per_microbatch,
            pad_token_id=self.policy.module.config.pad_token_id,
            share_prompts=self.policy.can_share_prompts(longest),
        )
        return (batch.to(self.policy.device) for batch in batches)


def gradients_not_finite(step: int) -> TrainingStopped:
    """What stops a run whose gradients hold NaN or infinity."""
    return TrainingStopped(
        f"the gradients of step {step} are not finite: lower optimizer.learning_rate, or compute in "
        "compute.precision=fp32"
    )


def part_borders(count: int, config: TrainConfig) -> list[range]:
    """The instances of each of a batch's mini-batches."""
    parts = config.algorithm.updates_per_batch
    borders = [round(part * count / parts) for part in range(parts + 1)]
    return [range(*borders[part : part + 2]) for part in range(parts)]


def logged_values(sums: Sums, rate: float, config: TrainConfig) -> dict[str, float]:
    """What the log shows of the updates on one batch."""
    if not sums.norms:
        return {"loss/learning_rate": rate, "loss/updates": 0.0}
    updates, tokens = len(sums.norms), sums.tokens
    values = {
        "loss/policy": sums.loss / updates,
        "loss/grad_norm": sum(sums.norms) / updates,
        "loss/surprise": sums.surprise / tokens,
        "loss/learning_rate": rate,
    }
    if config.algorithm.updates_per_batch > 1:
        values["loss/clip_fraction"] = sums.clipped / tokens
    elif config.rollout.temperature == 1:
        values["loss/logprob_gap"] = sums.gap / tokens
    if config.algorithm.kl > 0:
        values["loss/kl"] = sums.kl / tokens
    if config.algorithm.entropy > 0:
        values["loss/entropy"] = sums.entropy / tokens
    return values


def learning_rate(settings: OptimizerConfig, step: int, total_steps: int) -> float:
    """The learning rate of a step, from 1: linear warm-up, then constant, or falling to 0 behind the last step."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    progress = (step - 1 - settings.warmup_steps) / max(1, total_steps - settings.warmup_steps)
    if settings.schedule == "linear":
        return settings.learning_rate * max(0.0, 1 - progress)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return settings.learning_rate


def _padded(values: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True).to(device)


def _rows(values: Tensor, batch: MicroBatch) -> Tensor:
    """The rows ``[n, T]`` of a micro-batch among those of its mini-batch."""
    return values[batch.indices, : batch.valid.shape[1]]
