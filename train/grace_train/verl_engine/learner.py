"""The update on a cluster: from advantages to new weights, with the values that the local engine logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from grace_train.config import TrainConfig
from grace_train.local.scoring import Side
from grace_train.local.update import (
    Sample,
    Sums,
    gradients_not_finite,
    learning_rate,
    logged_values,
    part_borders,
    samples_of,
)
from grace_train.verl_engine.loss import LossSettings
from grace_train.verl_engine.rows import UpdateRows, update_rows

if TYPE_CHECKING:
    from grace_train.verl_engine.cluster import Cluster


class ClusterLearner:
    """Makes updates.

    Args:
        cluster: The running cluster.
        config: The run.
        total_steps: Steps of the whole run, for the learning rate's schedule.
    """

    def __init__(self, cluster: Cluster, config: TrainConfig, total_steps: int) -> None:
        self.cluster = cluster
        self.config = config
        self.total_steps = total_steps
        algorithm = config.algorithm
        self.settings = LossSettings(
            aggregation=algorithm.aggregation,
            clip_low=algorithm.clip_low,
            clip_high=config.clip_high,
            kl=algorithm.kl,
            entropy=algorithm.entropy,
            off_policy=algorithm.updates_per_batch > 1,
        )

    def update(self, sides: Sequence[Side], step: int) -> dict[str, float]:
        """Train on one batch.

        Args:
            sides: Groups with advantages.
            step: Which step this is, from 1.

        Returns:
            Values for the log.

        Raises:
            TrainingStopped: The gradients are not finite; no step was made with them.
        """
        rate = learning_rate(self.config.optimizer, step, self.total_steps)
        parts = [samples_of(sides, part) for part in part_borders(len(sides[0].groups), self.config)]
        parts = [part for part in parts if part]
        sums = Sums()
        if not parts:
            return logged_values(sums, rate, self.config)
        tokens = [sum(len(sample.actions) for sample in part) for part in parts]
        wholes = tokens if self.config.algorithm.aggregation == "token-mean" else [len(part) for part in parts]
        dealt = [self._rows(part) for part in parts]
        answers = self.cluster.call(
            "learn",
            wholes,
            self.settings,
            rate,
            self.config.rollout.temperature,
            each=[list(rows) for rows in zip(*dealt, strict=True)],
            what=f"the update of step {step}",
        )
        for result, count in zip(answers[0], tokens, strict=False):  # verl gathers the sums of all workers in each
            norm = result["grad_norm"]
            if not math.isfinite(norm):
                raise gradients_not_finite(step)
            sums.norms.append(norm)
            sums.tokens += count
            sums.loss += result["loss_sum"]
            sums.surprise += result["surprise_sum"]
            sums.clipped += result["clipped_sum"]
            sums.kl += result.get("kl_sum", 0.0)
            sums.entropy += result.get("entropy_sum", 0.0)
            sums.gap += result.get("gap_sum", 0.0)
        return logged_values(sums, rate, self.config)

    def divergence_from_start(self, sides: Sequence[Side]) -> float:
        """KL to the start model in nats per token, estimated on all rollouts of a batch (the k3 estimator)."""
        everything = [replace(side, kept=torch.ones_like(side.kept)) for side in sides]
        samples = samples_of(everything, range(len(sides[0].groups)))
        answers = self.cluster.call("divergence", each=self._rows(samples), what="the divergence from the start model")
        return sum(total for total, _ in answers) / max(1, sum(count for _, count in answers))

    def _rows(self, samples: Sequence[Sample]) -> list[UpdateRows]:
        return update_rows(
            [sample.prompt for sample in samples],
            [sample.actions for sample in samples],
            [sample.advantage for sample in samples],
            [sample.old_logprobs.tolist() for sample in samples],
            self.cluster.world_size,
        )
