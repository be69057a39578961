"""What the driver and the cluster say to each other about rollouts. Needs neither verl nor Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grace_train.report.health import TrainingStopped


class ClusterError(TrainingStopped):
    """A worker died, failed or did not answer in time."""


@dataclass(frozen=True)
class Job:
    """The rollouts of one instance.

    Attributes:
        prompts: Each with the seeds of its samples: a number, -1 for an unseeded sample, None for the greedy rollout.
    """

    prompts: tuple[tuple[tuple[int, ...], tuple[int | None, ...]], ...]

    def packed(self, eos: Sequence[int]) -> dict[str, Any]:
        """As it travels."""
        return {
            "prompts": [(np.asarray(ids, dtype=np.int32).tobytes(), list(seeds)) for ids, seeds in self.prompts],
            "eos": list(eos),
        }

    @property
    def size(self) -> int:
        """How many rollouts."""
        return sum(len(seeds) for _, seeds in self.prompts)


@dataclass(frozen=True)
class Written:
    """What vLLM wrote: the tokens, the EOS included where there is one, and their log-probabilities."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
