"""The sections of a configuration, each by itself: its settings, their documentation, and what they may be.

What holds between sections is in `grace_train.config`. The sections ``data``, ``log`` and ``stop`` stand beside what
they set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grace_st.config import Pooling, PoolingSpan
from grace_train.choices import Aggregation, Algorithm, HardReduction, Variant
from grace_train.data.config import Mode
from grace_train.options import ConfigError, option, require, require_text

LengthPenalty = Literal["below_group", "replace", "soft", "none"]

REPETITION_NGRAM = 3
"""Tokens of what counts as repeated, where nothing else is said."""


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
    lambda_hard: float | None = option(
        None,
        "Weight of the in-batch hard-negative term (Eq. 15); null is the paper's 0.2, and 3 in unsupervised training, "
        "where no other term compares with other texts.",
    )
    scale: float | None = option(None, "Multiplies the reward; null is 10, and 1 for infonce.")
    temperature: float = option(0.05, "Temperature of the infonce variant.")
    hard_reduction: HardReduction = option("mean", "Over the other queries: their mean, or the nearest one.")
    other_positives: bool = option(False, "infonce: other instances' positives are negatives of the query, too.")
    length_penalty: LengthPenalty | None = option(
        None,
        "For rollouts that reach the budget: below_group (gamma below the worst finished one), replace (by -gamma, "
        "Eq. 28), soft (DAPO's, over the last soft_buffer tokens) or none; null is soft for dapo, else below_group.",
    )
    gamma: float = option(1.0, "Size of the length penalty, in units of the scaled reward.")
    soft_buffer: int | None = option(None, "Tokens before the budget where soft begins; null is a fifth of the budget.")
    repetition: float = option(
        0.0,
        "Subtracted from the scaled reward, times the share of a rationale's n-grams that stood in it before.",
    )
    repetition_ngram: int = option(REPETITION_NGRAM, "Tokens of an n-gram that counts as repeated.")

    def __post_init__(self) -> None:
        for name in ("lambda_consistency", "lambda_hard", "repetition"):
            value = getattr(self, name)
            null = ", or null" if name == "lambda_hard" else ""
            require(value is None or 0 <= value <= 1e6, f"reward.{name}", value, f"a number from 0 to 1e6{null}")
        for name in ("gamma", "scale"):
            value = getattr(self, name)
            null = ", or null" if name == "scale" else ""
            require(value is None or 0 < value <= 1e6, f"reward.{name}", value, f"a number > 0, at most 1e6{null}")
        require(1e-4 <= self.temperature <= 1e6, "reward.temperature", self.temperature, "a number from 1e-4 to 1e6")
        require(
            self.soft_buffer is None or self.soft_buffer >= 1, "reward.soft_buffer", self.soft_buffer, "an integer >= 1"
        )
        require(self.repetition_ngram >= 1, "reward.repetition_ngram", self.repetition_ngram, "an integer >= 1")
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
    aggregation: Aggregation = option(
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
