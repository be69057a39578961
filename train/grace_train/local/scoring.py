"""From rollouts to advantages: rewards, length penalty, group comparison; and the values that the log shows of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from grace_st.engines.base import Rollout
from grace_train.advantages import group_advantages, informative_groups
from grace_train.config import TrainConfig
from grace_train.length_penalty import apply_length_penalty, soft_overlong_penalty
from grace_train.local.rollouts import Group, RolloutBatch
from grace_train.metrics import (
    distinct_share,
    effective_rank,
    mean_off_diagonal_similarity,
    mean_query_negative_similarity,
    within_group_std,
)
from grace_train.repetition import repeated_share, repeated_shares
from grace_train.rewards import Rewards, contrastive_rewards, self_rewards
from grace_train.sections import REPETITION_NGRAM


@dataclass(frozen=True, eq=False)
class Side:
    """Groups that are trained, with their advantages.

    Attributes:
        name: ``"reward"``, or ``"query_reward"`` for the queries of the symmetric variant: the log's prefix.
        groups: ``B`` groups of ``K`` rollouts.
        rewards: ``[B, K]``, scaled and weighted, less the repetition penalty, before the length penalty.
        terms: Each ``[B, K]``, signed, unscaled, unweighted; with a repetition penalty, ``"repetition"`` is one.
        advantages: ``[B, K]``.
        kept: ``[B]`` bool, False for groups that dynamic sampling drops.
    """

    name: str
    groups: tuple[Group, ...]
    rewards: Tensor
    terms: Mapping[str, Tensor]
    advantages: Tensor
    kept: Tensor


def score(batch: RolloutBatch, config: TrainConfig, budget: int) -> list[Side]:
    """Rewards and advantages of a batch.

    Args:
        batch: The rollouts.
        config: The run.
        budget: Most tokens of a rationale.

    Returns:
        One side, or two where queries are trained as well.
    """
    rewards = _rewards(batch, config)
    baseline = _rewards(_greedy(batch), config) if config.algorithm.name == "remax" else None
    sides = [
        _side(
            "reward",
            batch.trained,
            rewards.total,
            rewards.terms,
            None if baseline is None else baseline.total[:, 0],
            config,
            budget,
        )
    ]
    if config.is_symmetric:
        if rewards.query_total is None or rewards.query_terms is None:
            raise RuntimeError("the symmetric reward came without the queries' side")
        query_baseline = None if baseline is None or baseline.query_total is None else baseline.query_total[:, 0]
        sides.append(
            _side(
                "query_reward", batch.anchors, rewards.query_total, rewards.query_terms, query_baseline, config, budget
            )
        )
    return sides


def _rewards(batch: RolloutBatch, config: TrainConfig) -> Rewards:
    rewards = _contrastive(batch, config)
    weight, n = config.reward.repetition, config.reward.repetition_ngram
    if not weight:
        return rewards
    shares = _repeated(batch.trained, n)
    rewards = replace(rewards, total=rewards.total - weight * shares, terms={**rewards.terms, "repetition": -shares})
    if rewards.query_total is None or rewards.query_terms is None:
        return rewards
    shares = _repeated(batch.anchors, n)
    return replace(
        rewards,
        query_total=rewards.query_total - weight * shares,
        query_terms={**rewards.query_terms, "repetition": -shares},
    )


def _repeated(groups: tuple[Group, ...], n: int) -> Tensor:
    return repeated_shares([[rollout.ids for rollout in group.rollouts] for group in groups], n)


def _contrastive(batch: RolloutBatch, config: TrainConfig) -> Rewards:
    settings = config.reward
    weights = {"lambda_consistency": settings.lambda_consistency, "lambda_hard": config.lambda_hard}
    if config.mode == "unsupervised":
        scale = 10.0 if settings.scale is None else settings.scale
        return self_rewards(
            batch.anchor_vectors[:, 0], batch.trained_vectors, scale=scale, in_batch_mask=batch.in_batch_mask, **weights
        )
    negatives, negative_mask = batch.negative_vectors()
    anchors = batch.anchor_vectors
    return contrastive_rewards(
        anchors if config.is_symmetric else anchors[:, 0],
        batch.trained_vectors,
        negatives,
        negative_mask,
        variant=settings.variant,
        scale=settings.scale,
        temperature=settings.temperature,
        hard_reduction=settings.hard_reduction,
        other_positives=settings.other_positives,
        in_batch_mask=batch.in_batch_mask,
        **weights,
    )


def _greedy(batch: RolloutBatch) -> RolloutBatch:
    """The same batch with the greedy rollout in the place of each trained group (ReMax's baseline; K is 1)."""

    def only_greedy(group: Group) -> Group:
        return group if group.greedy is None else replace(group, rollouts=(group.greedy,))

    trained = tuple(map(only_greedy, batch.trained))
    return replace(batch, trained=trained, anchors=tuple(map(only_greedy, batch.anchors)))


def _side(
    name: str,
    groups: tuple[Group, ...],
    rewards: Tensor,
    terms: Mapping[str, Tensor],
    baseline: Tensor | None,
    config: TrainConfig,
    budget: int,
) -> Side:
    finished = torch.tensor([[rollout.finished for rollout in group.rollouts] for group in groups])
    gamma = config.reward.gamma
    if config.length_penalty == "soft":
        lengths = torch.tensor([[action_count(rollout) for rollout in group.rollouts] for group in groups])
        buffer = config.reward.soft_buffer or max(1, budget // 5)
        final = rewards + gamma * soft_overlong_penalty(lengths, budget, buffer)
    else:
        final = apply_length_penalty(rewards, finished, config.length_penalty, gamma)
    advantages = group_advantages(
        final, config.algorithm.name, normalize_std=config.algorithm.normalize_std, baseline=baseline
    )
    kept = torch.ones(len(groups), dtype=torch.bool)
    if config.min_spread is not None:
        kept = informative_groups(final, config.min_spread)
    return Side(name, groups, rewards, terms, advantages, kept)


def action_count(rollout: Rollout) -> int:
    """Tokens that the policy chose: the rationale, and the EOS where there is one."""
    return len(rollout.ids) + int(rollout.finished)


def describe(batch: RolloutBatch, sides: list[Side]) -> dict[str, float]:
    """What a step's rollouts and rewards look like, by the names of the log."""
    values: dict[str, float] = {}
    for side in sides:
        for term, reward in (("total", side.rewards), *side.terms.items()):
            values[f"{side.name}/{term}"] = float(reward.mean())
            if reward.shape[1] > 1:  # alone, a rollout differs from nothing, and may well train
                values[f"{side.name}/{term}_std"] = float(within_group_std(reward))
        if not bool(side.kept.all()):
            values[f"{side.name}/dropped_groups"] = float((~side.kept).float().mean())
    rollouts = [rollout for side in sides for group in side.groups for rollout in group.rollouts]
    values["rollout/length"] = sum(len(rollout.ids) for rollout in rollouts) / len(rollouts)
    values["rollout/max_length"] = float(max(len(rollout.ids) for rollout in rollouts))
    values["rollout/eos_rate"] = sum(rollout.finished for rollout in rollouts) / len(rollouts)
    written = [[rollout.ids for rollout in group.rollouts] for side in sides for group in side.groups]
    values["rollout/distinct"] = distinct_share(written)
    values["rollout/repetition"] = sum(repeated_share(ids, REPETITION_NGRAM) for ids in chain(*written)) / len(rollouts)
    anchors = batch.anchor_vectors[:, 0]
    if len(anchors) > 1:
        values["vectors/unrelated_similarity"] = float(mean_off_diagonal_similarity(anchors, batch.in_batch_mask))
    values["vectors/effective_rank"] = float(effective_rank(anchors))
    negatives, mask = batch.negative_vectors()
    if negatives is not None:
        values["vectors/query_negative_similarity"] = float(mean_query_negative_similarity(anchors, negatives, mask))
    return values


def rollout_count(batch: RolloutBatch) -> tuple[int, int]:
    """How many rollouts a batch holds, and how many tokens were generated for them."""
    everything: list[Rollout] = [rollout for group in (*batch.trained, *batch.anchors) for rollout in group.rollouts]
    everything += [rollout for row in batch.negatives for rollout in row]
    return len(everything), sum(action_count(rollout) for rollout in everything)
