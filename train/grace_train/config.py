"""TrainConfig: every setting of a training run, the rules between its sections, and what follows from them.

Checked when it is made. ``grace-st train --show-config NAME`` prints a configuration with the documentation of its
keys, which most have in their sections (`grace_train.sections`). Knows nothing about models or data files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from grace_train.choices import GROUP_BASELINES
from grace_train.data.config import DataConfig, Mode
from grace_train.options import ConfigError, from_mapping, option, require, require_text
from grace_train.report.config import LogConfig, StopConfig
from grace_train.sections import (
    REPETITION_NGRAM,
    AlgorithmConfig,
    CheckpointConfig,
    ClusterConfig,
    ComputeConfig,
    ContrastiveConfig,
    EvalConfig,
    LengthPenalty,
    LoraConfig,
    OptimizerConfig,
    PromptConfig,
    RewardConfig,
    RolloutConfig,
)

Method = Literal["grace", "cl", "simcse"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Raises:
        ConfigError: A value, or a combination of values, that cannot work; the message names the key.
    """

    model: str = option(doc="What is trained: a GRACE model or any causal LM (a folder or a hub name), or grace-nano.")
    output: str = option(doc="The folder to write: model files, and the run's log in training/.")
    method: Method = option(
        "grace",
        "grace (GRPO with contrastive rewards), or a baseline on the prompt alone: cl (InfoNCE on pairs) or simcse "
        "(InfoNCE of a text with itself; mode is unsupervised then).",
    )
    mode: Mode = option("supervised", "supervised (query, positive, negatives) or unsupervised (texts).")
    engine: Literal["local", "verl"] = option(
        "local", "What trains: local (this process, a CPU or one GPU), or verl (Ray, FSDP and vLLM, many GPUs)."
    )
    seed: int = option(0, "Of the order of the data and of all rollouts.")
    steps: int | None = option(None, "Batches to train on; null is what epochs says.")
    epochs: float = option(1.0, "Passes over the data, where steps is null.")
    batch_size: int = option(64, "B: instances (texts when unsupervised) of one batch.")
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        None, "Of the weights that are written; null is that of the start model. Training itself keeps float32."
    )
    data: DataConfig = option(doc="The training data.")
    prompt: PromptConfig = option(factory=PromptConfig)
    rollout: RolloutConfig = option(factory=RolloutConfig)
    reward: RewardConfig = option(factory=RewardConfig)
    algorithm: AlgorithmConfig = option(factory=AlgorithmConfig)
    contrastive: ContrastiveConfig = option(factory=ContrastiveConfig)
    optimizer: OptimizerConfig = option(factory=OptimizerConfig)
    lora: LoraConfig = option(factory=LoraConfig)
    compute: ComputeConfig = option(factory=ComputeConfig)
    cluster: ClusterConfig = option(factory=ClusterConfig)
    verl: Any = option(doc="Settings of verl itself, by its own names, over what is derived.", factory=dict)
    eval: EvalConfig = option(factory=EvalConfig)
    checkpoint: CheckpointConfig = option(factory=CheckpointConfig)
    log: LogConfig = option(factory=LogConfig)
    stop: StopConfig = option(factory=StopConfig)

    def __post_init__(self) -> None:
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "an integer >= 1, or null")
        require_text("model", self.model, "a folder, a name on the hub, or grace-nano")
        require_text("output", self.output, "the folder to write")
        require(0 < self.epochs <= 1e9, "epochs", self.epochs, "a number > 0, at most 1e9")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "an integer >= 1")
        require(-(2**31) <= self.seed < 2**31, "seed", self.seed, "an integer of 32 bits")
        self._check_unused()
        require(isinstance(self.verl, Mapping), "verl", self.verl, "a mapping of verl's own settings")
        if self.method == "grace":
            self._check_groups()
            self._check_batch()
        else:
            self._check_baseline()

    def _check_baseline(self) -> None:
        if self.engine != "local":
            raise ConfigError(f"method={self.method} trains in this process: use engine=local")
        if self.method == "cl" and self.mode == "unsupervised":
            raise ConfigError("method=cl trains on pairs: use mode=supervised, or method=simcse for single texts")
        if self.batch_size == 1 and (self.method == "simcse" or self.data.negatives == 0):
            raise ConfigError(f"batch_size=1 leaves method={self.method} without negatives: use at least 2")

    def _check_unused(self) -> None:
        """Refuse what would be accepted and do nothing."""
        if self.engine == "local" and (self.cluster != ClusterConfig() or self.verl):
            raise ConfigError("cluster.* and verl.* are for engine=verl, and engine is local: add engine=verl")
        if self.method == "simcse":  # pairs have no part in it
            object.__setattr__(self, "mode", "unsupervised")
        unused = [name for name in _changed(self.contrastive) if self.method == "grace" or name == "dropout"]
        if unused and self.method != "simcse":
            methods = "method=simcse" if unused == ["dropout"] else "method=cl and simcse"
            raise ConfigError(
                f"contrastive.{unused[0]} is an option of {methods}, and method is {self.method}: leave it out"
            )
        if self.data.holdout and self.eval.dev is not None:
            raise ConfigError(
                f"eval.dev={self.eval.dev} is what is evaluated on, so the rows of data.holdout={self.data.holdout} "
                "would be kept out of training for nothing: leave one out (eval.dev=null)"
            )
        if self.reward.soft_buffer is not None and self.length_penalty != "soft":
            raise ConfigError(
                f"reward.soft_buffer is an option of reward.length_penalty=soft, which is {self.length_penalty} here: "
                "leave it out"
            )
        if self.reward.repetition_ngram != REPETITION_NGRAM and not self.reward.repetition:
            raise ConfigError(
                "reward.repetition_ngram is an option of reward.repetition, which is 0: set that, or leave it out"
            )
        if self.rollout.query_group_size is not None and not self.is_symmetric:
            raise ConfigError(
                "rollout.query_group_size is an option of reward.variant=symmetric, which trains queries: leave it out"
            )
        if self.eval.patience is not None and not (self.eval.every and (self.eval.dev or self.data.holdout)):
            raise ConfigError(
                "eval.patience counts evaluations on dev, and there are none: set eval.every, and eval.dev or "
                "data.holdout"
            )

    def _check_groups(self) -> None:
        sizes = {"rollout.group_size": self.rollout.group_size}
        if self.is_symmetric:
            sizes["rollout.query_group_size"] = self.query_rollouts
        for key, size in sizes.items():
            if size > 1:
                continue
            if self.algorithm.name in GROUP_BASELINES:
                raise ConfigError(
                    f"{key}=1 leaves {self.algorithm.name} nothing to compare a rollout with (its advantage would be "
                    "0): use at least 2, or algorithm.name=remax or reinforce++"
                )
            if self.reward.lambda_consistency > 0:
                raise ConfigError(
                    f"{key}=1 has no other rollout to be consistent with: use at least 2, or "
                    "reward.lambda_consistency=0"
                )

    def _check_batch(self) -> None:
        if self.batch_size == 1 and self.lambda_hard > 0 and not self._is_infonce:
            raise ConfigError(
                "batch_size=1 has no other instances for the hard-negative term: use at least 2, or "
                "reward.lambda_hard=0"
            )
        if self.batch_size == 1 and self._is_infonce and self.data.negatives == 0:
            raise ConfigError(
                "batch_size=1 without negatives makes the infonce reward 0: use a larger batch, or data.negatives"
            )
        updates = self.algorithm.updates_per_batch
        if updates > self.batch_size:
            raise ConfigError(
                f"algorithm.updates_per_batch={updates} parts cannot be made of batch_size={self.batch_size} instances"
            )

    @property
    def _is_infonce(self) -> bool:
        return self.mode == "supervised" and self.reward.variant == "infonce"

    @property
    def is_symmetric(self) -> bool:
        """Whether queries are trained as well."""
        return self.mode == "supervised" and self.reward.variant == "symmetric"

    @property
    def query_rollouts(self) -> int:
        """Kq: rollouts of each query."""
        return (self.rollout.query_group_size or self.rollout.group_size) if self.is_symmetric else 1

    @property
    def ignored(self) -> list[str]:
        """Settings that are not the default and mean nothing to the method: those of rollouts, for the baselines."""
        if self.method == "grace":
            return []
        sections = {"rollout": self.rollout, "reward": self.reward, "algorithm": self.algorithm, "stop": self.stop}
        found = [f"{name}.{key}" for name, section in sections.items() for key in _changed(section)]
        found += [f"compute.{key}" for key in _changed(self.compute) if key == "tokens_per_microbatch"]
        return [key for key in found if key != "rollout.slots"]

    @property
    def reward_name(self) -> str | None:
        """What rollouts are rewarded by; None without rollouts."""
        if self.method != "grace":
            return None
        return self.reward.variant if self.mode == "supervised" else "self"

    @property
    def keeps_reference(self) -> bool:
        """Whether the start weights are kept, to measure how far training has moved."""
        if self.method != "grace":
            return False
        return self.algorithm.kl > 0 or (self.eval.kl and self.eval.every > 0)

    @property
    def lambda_hard(self) -> float:
        """The weight of the in-batch hard-negative term that applies."""
        given = self.reward.lambda_hard
        return given if given is not None else 3.0 if self.mode == "unsupervised" else 0.2

    @property
    def length_penalty(self) -> LengthPenalty:
        """The length penalty that applies."""
        return self.reward.length_penalty or ("soft" if self.algorithm.name == "dapo" else "below_group")

    @property
    def clip_high(self) -> float:
        """The upper clipping range that applies."""
        given = self.algorithm.clip_high
        return given if given is not None else 0.28 if self.algorithm.name == "dapo" else 0.2

    @property
    def min_spread(self) -> float | None:
        """The spread of rewards that a group must exceed to be trained on; None where all are."""
        given = self.algorithm.min_spread
        if given is None:
            return 1e-3 if self.algorithm.name == "dapo" else None
        return given or None

    def to_dict(self) -> dict[str, Any]:
        """Nested values as JSON and YAML take them."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build a configuration from nested mappings.

        Raises:
            ConfigError: An unknown or missing key, or a value that is refused.
        """
        return from_mapping(cls, values)


def _changed(settings: Any) -> list[str]:
    """Names of the fields that have not their default."""
    return [field.name for field in dataclasses.fields(settings) if getattr(settings, field.name) != field.default]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (tuple, list)) else value
