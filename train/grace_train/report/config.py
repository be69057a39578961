"""Settings of what a run shows and when it stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grace_train.options import option, require


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a run writes down and shows. Every step goes to ``metrics.jsonl``, whatever is set here."""

    every: int = option(1, "Steps between two lines where the output is no terminal; a terminal shows each step.")
    tensorboard: bool = option(True, "Whether event files for TensorBoard are written.")
    curves: bool = option(True, "Whether curves.png is drawn at the end.")
    wandb: str | None = option(None, "Weights & Biases project to log to; none if not given.")
    sample_texts: int | tuple[str, ...] = option(
        4, "Texts whose rationales are kept as training goes on: how many of the data, or the texts themselves."
    )
    samples_every: int = option(10, "Steps between two records of the sample texts' rationales.")

    def __post_init__(self) -> None:
        require(self.every >= 1, "log.every", self.every, "at least 1")
        require(self.wandb != "", "log.wandb", self.wandb, "the name of a project, or null")
        if isinstance(self.sample_texts, int):
            require(self.sample_texts >= 0, "log.sample_texts", self.sample_texts, "at least 0, or a list of texts")
        else:
            repeated = len(set(self.sample_texts)) < len(self.sample_texts)
            require(not repeated, "log.sample_texts", self.sample_texts, "a list of different texts")
        expected = "at least 1 (log.sample_texts=0 keeps none)"
        require(self.samples_every >= 1, "log.samples_every", self.samples_every, expected)

    def choose_texts(self, available: Sequence[str]) -> tuple[str, ...]:
        """The sample texts: those that are set, or the first different ones of ``available``."""
        if isinstance(self.sample_texts, int):
            return tuple(dict.fromkeys(available))[: self.sample_texts]
        return self.sample_texts


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """When a run stops by itself. A value that is not finite always stops it."""

    max_unrelated_similarity: float = option(
        0.999, "Mean cosine of unrelated texts from which on all texts count as having one vector."
    )
    collapse_steps: int = option(3, "Steps in a row at that similarity after which the run stops; 0: never.")
    eos_rate_zero_steps: int = option(
        10, "Steps in a row in which no rollout ends by itself after which the run stops; 0: never."
    )

    def __post_init__(self) -> None:
        similarity = self.max_unrelated_similarity
        require(0.0 < similarity <= 1.0, "stop.max_unrelated_similarity", similarity, "above 0 and at most 1")
        require(self.collapse_steps >= 0, "stop.collapse_steps", self.collapse_steps, "at least 0")
        require(self.eos_rate_zero_steps >= 0, "stop.eos_rate_zero_steps", self.eos_rate_zero_steps, "at least 0")
