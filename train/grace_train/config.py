"""TrainConfig: every setting of a training run, in one place, checked when it is made.

``grace-st train --show-config NAME`` prints a configuration with the documentation of its keys, taken from here.
Knows nothing about models or data files: names, types and the rules between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from grace_st.config import Pooling, PoolingSpan
from grace_train.data.config import DataConfig
from grace_train.options import ConfigError, from_mapping, option, require, require_text
from grace_train.report.config import LogConfig, StopConfig

Mode = Literal["supervised", "unsupervised"]
Variant = Literal["paper", "per_rollout", "symmetric", "infonce"]
LengthPenalty = Literal["below_group", "replace", "soft", "none"]
Algorithm = Literal["grpo", "rloo", "dapo", "reinforce++", "remax"]
Method = Literal["grace", "cl", "simcse"]


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The prompt and the limits; what is null is the model folder's, or the default of ``grace-st convert``."""

    system_prompt: str | None = option(
        None, "System message that asks for a rationale; only for models that are not GRACE model folders yet."
    )
    max_seq_length: int | None = option(
        None, "Longest prompt in tokens, template included; texts are truncated to fit."
    )
    max_new_tokens: int | None = option(
        None, "Budget of a rationale in tokens, in training and in the model folder that is written."
    )
    pooling: Pooling | None = option(None, "Reduction over the span: mean, mean_penultimate, max or last.")
    pooling_span: PoolingSpan | None = option(None, "What is pooled: text_and_rationale or rationale.")

    def __post_init__(self) -> None:
        require_text("prompt.system_prompt", self.system_prompt, "a text, or null")
        for name in ("max_seq_length", "max_new_tokens"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"prompt.{name}", value, "an integer >= 1, or null")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How rollouts are generated."""

    group_size: int = option(8, "K: rollouts of each positive (of each text when unsupervised).")
    query_group_size: int | None = option(
        None, "Kq: rollouts of each query, for the symmetric reward; null is group_size."
    )
    temperature: float = option(1.0, "Sampling temperature; gradients are those of the policy at this temperature.")
    slots: int | None = option(None, "Rows decoded at once; null is what suits the device.")

    def __post_init__(self) -> None:
        require(self.group_size >= 1, "rollout.group_size", self.group_size, "an integer >= 1")
        require(
            self.query_group_size is None or self.query_group_size >= 1,
            "rollout.query_group_size",
            self.query_group_size,
            "an integer >= 1, or null",
        )
        require(0.01 <= self.temperature <= 100, "rollout.temperature", self.temperature, "a number from 0.01 to 100")
        require(self.slots is None or self.slots >= 1, "rollout.slots", self.slots, "an integer >= 1, or null")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The contrastive reward; see docs/rewards.md."""

    variant: Variant = option(
        "per_rollout",
        "Supervised reward: paper (its negatives cancel in the advantages), per_rollout, symmetric or infonce.",
    )
    lambda_consistency: float = option(0.2, "Weight of the consistency term (Eq. 14).")
    lambda_hard: float = option(0.2, "Weight of the in-batch hard-negative term (Eq. 15).")
    scale: float | None = option(None, "Multiplies the reward; null is 10, and 1 for infonce.")
    temperature: float = option(0.05, "Temperature of the infonce variant.")
    hard_reduction: Literal["mean", "max"] = option("mean", "Over the other queries: their mean, or the nearest one.")
    other_positives: bool = option(False, "infonce: other instances' positives are negatives of the query, too.")
    length_penalty: LengthPenalty | None = option(
        None,
        "For rollouts that reach the budget: below_group (gamma below the worst finished one), replace (by -gamma, "
        "Eq. 28), soft (DAPO's, over the last soft_buffer tokens) or none; null is soft for dapo, else below_group.",
    )
    gamma: float = option(1.0, "Size of the length penalty, in units of the scaled reward.")
    soft_buffer: int | None = option(None, "Tokens before the budget where soft begins; null is a fifth of the budget.")

    def __post_init__(self) -> None:
        for name in ("lambda_consistency", "lambda_hard"):
            require(0 <= getattr(self, name) <= 1e6, f"reward.{name}", getattr(self, name), "a number from 0 to 1e6")
        for name in ("gamma", "scale"):
            value = getattr(self, name)
            null = ", or null" if name == "scale" else ""
            require(value is None or 0 < value <= 1e6, f"reward.{name}", value, f"a number > 0, at most 1e6{null}")
        require(1e-4 <= self.temperature <= 1e6, "reward.temperature", self.temperature, "a number from 1e-4 to 1e6")
        require(
            self.soft_buffer is None or self.soft_buffer >= 1, "reward.soft_buffer", self.soft_buffer, "an integer >= 1"
        )
        if self.hard_reduction == "max" and self.variant in ("paper", "infonce"):
            raise ConfigError(f"reward.hard_reduction=max has no meaning for the variant {self.variant}: leave it out")
        if self.other_positives and self.variant != "infonce":
            raise ConfigError(
                f"reward.other_positives is an option of infonce, and reward.variant is {self.variant}: leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """From rewards to a loss."""

    name: Algorithm = option("grpo", "Advantages: grpo, rloo, dapo, reinforce++ or remax.")
    normalize_std: bool = option(False, "grpo: divide by the group's standard deviation (off in the paper, Eq. 18).")
    aggregation: Literal["token-mean", "seq-sum"] = option(
        "token-mean", "Mean over all tokens of the batch, or mean over rollouts of their token sums (Eq. 19)."
    )
    updates_per_batch: int = option(
        1, "Optimiser steps on the rollouts of one batch; with more than one, importance ratios are clipped."
    )
    clip_low: float = option(0.2, "Ratios are clipped at 1 - clip_low.")
    clip_high: float | None = option(None, "Ratios are clipped at 1 + clip_high; null is 0.28 for dapo, else 0.2.")
    min_spread: float | None = option(
        None, "Groups whose rewards differ by no more than this train nothing; null is 1e-3 for dapo, else 0."
    )
    kl: float = option(0.0, "Weight of the KL divergence to the start model in the loss.")
    entropy: float = option(0.0, "Weight of the entropy bonus in the loss.")

    def __post_init__(self) -> None:
        require(self.updates_per_batch >= 1, "algorithm.updates_per_batch", self.updates_per_batch, "an integer >= 1")
        require(0 < self.clip_low < 1, "algorithm.clip_low", self.clip_low, "between 0 and 1")
        for name in ("clip_high", "min_spread"):
            value = getattr(self, name)
            require(value is None or 0 <= value < float("inf"), f"algorithm.{name}", value, "a number >= 0, or null")
        for name in ("kl", "entropy"):
            require(0 <= getattr(self, name) < float("inf"), f"algorithm.{name}", getattr(self, name), "a number >= 0")
        if self.normalize_std and self.name != "grpo":
            raise ConfigError(
                f"algorithm.normalize_std is an option of grpo, and algorithm.name is {self.name!r}: leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """The baselines, method=cl and simcse; see docs/baselines.md."""

    temperature: float = option(0.05, "Temperature of InfoNCE; cosines are divided by it.")
    dropout: float = option(0.1, "simcse: dropout, which makes two vectors of one text differ.")
    mini_batch_size: int | None = option(
        None,
        "Rows that are in memory at once; gradients are those of the whole batch, at the price of one more forward "
        "pass. null is all of them.",
    )

    def __post_init__(self) -> None:
        expected = "a number from 1e-4 to 1e6"
        require(1e-4 <= self.temperature <= 1e6, "contrastive.temperature", self.temperature, expected)
        require(0 < self.dropout < 1, "contrastive.dropout", self.dropout, "between 0 and 1")
        size = self.mini_batch_size
        require(size is None or size >= 1, "contrastive.mini_batch_size", size, "an integer >= 1, or null")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, with fp32 weights and states whatever the precision of the passes."""

    learning_rate: float = option(1e-6, "Peak learning rate.")
    betas: tuple[float, ...] = option((0.9, 0.999), "Decay rates of AdamW's averages.")
    eps: float = option(1e-8, "AdamW's epsilon.")
    weight_decay: float = option(0.0, "Decoupled weight decay, on matrices only.")
    schedule: Literal["constant", "linear", "cosine"] = option("constant", "After the warm-up; the others end at 0.")
    warmup_steps: int = option(0, "Steps of linear warm-up.")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm.")

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_grad_norm", "eps"):
            value = getattr(self, name)
            require(0 < value <= 1e9, f"optimizer.{name}", value, "a number > 0, at most 1e9")
        valid = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(valid, "optimizer.betas", self.betas, "two numbers in [0, 1)")
        require(0 <= self.weight_decay < 1, "optimizer.weight_decay", self.weight_decay, "a number in [0, 1)")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "an integer >= 0")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021) through peft; merged into the weights of the model folder."""

    rank: int = option(0, "Rank of the adapters; 0 trains all weights.")
    alpha: int | None = option(None, "Their scale is alpha / rank; null is twice the rank.")
    target_modules: str | tuple[str, ...] = option("all-linear", "Names of the layers that get one.")

    def __post_init__(self) -> None:
        require(self.rank >= 0, "lora.rank", self.rank, "an integer >= 0")
        require(self.alpha is None or self.alpha > 0, "lora.alpha", self.alpha, "an integer >= 1, or null")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Device, precision and memory."""

    device: str | None = option(None, "cpu, cuda, cuda:1, mps; null is the best there is.")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto",
        "Of the passes, by autocast; auto is bf16 on CUDA devices that have it (and with engine=verl), else fp32.",
    )
    gradient_checkpointing: bool = option(False, "Compute activations twice instead of keeping them.")
    tokens_per_microbatch: int = option(8192, "Tokens of one forward and backward pass, padding included.")
    threads: int | None = option(None, "CPU threads; null is torch's choice.")

    def __post_init__(self) -> None:
        require_text("compute.device", self.device, "the name of a device, such as cpu or cuda, or null")
        require(
            self.tokens_per_microbatch >= 1,
            "compute.tokens_per_microbatch",
            self.tokens_per_microbatch,
            "an integer >= 1",
        )
        # Thousands of threads end the process without a word.
        expected = "an integer from 1 to 1024, or null"
        require(self.threads is None or 1 <= self.threads <= 1024, "compute.threads", self.threads, expected)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The machines of the verl engine; see docs/verl.md."""

    gpus: int = option(1, "GPUs of each node.")
    nodes: int = option(1, "Nodes. More than one needs a running Ray cluster (ray start) and a shared folder.")
    address: str | None = option(None, "Ray cluster to join, such as auto; null starts one on this machine.")
    tensor_parallel: int = option(1, "GPUs that share one copy of the model while generating.")
    fsdp: Literal["fsdp2", "fsdp"] = option("fsdp2", "How weights are sharded while training.")
    offload: bool = option(False, "Keep weights and optimiser states in main memory while generating.")
    gpu_memory: float = option(0.5, "Share of a GPU's memory for vLLM while it generates.")
    attention: Literal["flash_attention_2", "sdpa"] = option(
        "flash_attention_2",
        "Attention of the training passes. sdpa needs no further package, and pads; flash_attention_2 packs.",
    )
    agent_workers: int = option(8, "Processes that hand prompts to the generating engines.")
    seeded: bool = option(True, "Seed each rollout by its text; false is faster with hundreds of rows.")
    step_limit: float = option(3600.0, "Seconds after which any one wait (start, rollouts, update) ends the run.")
    max_lost: float = option(0.1, "Share of a batch's instances that may fail to generate before the run stops.")
    loggers: tuple[str, ...] = option((), "verl's own loggers that get the same values: mlflow, swanlab, wandb, ...")

    def __post_init__(self) -> None:
        for name in ("gpus", "nodes", "tensor_parallel", "agent_workers"):
            require(getattr(self, name) >= 1, f"cluster.{name}", getattr(self, name), "an integer >= 1")
        require(0 < self.gpu_memory < 1, "cluster.gpu_memory", self.gpu_memory, "a number between 0 and 1")
        require(self.step_limit > 0, "cluster.step_limit", self.step_limit, "a number > 0")
        require(0 <= self.max_lost < 1, "cluster.max_lost", self.max_lost, "a number in [0, 1)")
        if self.world_size % self.tensor_parallel:
            raise ConfigError(
                f"cluster.tensor_parallel={self.tensor_parallel} does not divide the {self.world_size} GPUs of "
                "cluster.gpus times cluster.nodes"
            )

    @property
    def world_size(self) -> int:
        """GPUs in all."""
        return self.gpus * self.nodes


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Held-out retrieval, with greedy rationales."""

    dev: str | None = option(
        None, "Rows (query, positive) that choose the best step; null is data.holdout rows of the training data."
    )
    test: str | None = option(None, "Rows that are looked at twice: before training, and with the chosen weights.")
    mode: Mode | None = option(
        None,
        "What dev and test hold: supervised (query, positive), or unsupervised (texts, of which the first half has to "
        "find the second); null is mode.",
    )
    every: int = option(50, "Steps between evaluations on dev; 0 is never.")
    max_queries: int | None = option(None, "At most this many queries of each set; null is all.")
    patience: int | None = option(
        None, "Stop after this many evaluations in a row without a better nDCG@10; null is never."
    )
    kl: bool = option(
        True, "Measure the KL divergence to the start model as well; without LoRA this keeps a copy of its weights."
    )
    keep: Literal["best", "last"] = option("best", "Which weights the model folder gets: the best on dev, or the last.")

    def __post_init__(self) -> None:
        require(self.every >= 0, "eval.every", self.every, "an integer >= 0")
        for name in ("dev", "test"):
            require_text(f"eval.{name}", getattr(self, name), "a file, a folder, a data set's name, or null")
        for name in ("max_queries", "patience"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"eval.{name}", value, "an integer >= 1, or null")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What a run can go on from."""

    every: int = option(50, "Steps between checkpoints; the last step and an interruption make one in any case.")
    keep: int = option(2, "How many of the newest are kept.")

    def __post_init__(self) -> None:
        require(self.every >= 1, "checkpoint.every", self.every, "an integer >= 1")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "an integer >= 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Raises:
        ConfigError: A value, or a combination of values, that cannot work; the message names the key.
    """

    model: str = option(
        doc="What is trained: a GRACE model folder, any causal LM (a folder or a hub name), or grace-nano."
    )
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
            if self.algorithm.name in ("grpo", "rloo", "dapo"):
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
        if self.batch_size == 1 and self.reward.lambda_hard > 0 and not self._is_infonce:
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
