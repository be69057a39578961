"""The names that settings and the functions over tensors choose between, once for both. Needs no torch."""

from __future__ import annotations

from typing import Literal

Variant = Literal["paper", "per_rollout", "symmetric", "infonce"]
"""Of the contrastive reward, see `grace_train.rewards.contrastive_rewards`."""

HardReduction = Literal["mean", "max"]
"""Of the hard term over the other instances."""

Algorithm = Literal["grpo", "rloo", "dapo", "reinforce++", "remax"]
"""From rewards to advantages, see `grace_train.advantages.group_advantages`."""

GROUP_BASELINES: tuple[Algorithm, ...] = ("grpo", "rloo", "dapo")
"""Those whose baseline comes from the group's other rollouts: they learn nothing from groups of one, K = 1."""

Aggregation = Literal["token-mean", "seq-sum"]
"""From the losses of tokens to one number, see `grace_train.losses.aggregate`."""
