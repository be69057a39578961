"""Train a small model from scratch: a Qwen2 architecture, next-token prediction, a fixed number of steps.

The loss is on the rationale and its EOS, and, with a weight, on the user's text. The prompt's head is the
same for every sample, so it goes through the model once per step and its keys and values are shared by the
batch: the loss and the gradients are those of full sequences, at little more than half the cost.

Training data of step ``s`` depends on the seed and ``s`` alone, so a resumed run continues exactly (on the
same machine with the same number of threads).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from grace_train.files import write_atomically
from grace_train.nano.corpus import Sample
from grace_train.nano.prompt import template_ids, text_ids

logger = logging.getLogger(__name__)

# Few distinct shapes: every new one makes the CPU kernels compile and keep another variant, which costs time
# and memory.
_LENGTH_MULTIPLE = 8
_ROW_MULTIPLE = 256
_CHECKPOINT = "checkpoint.pt"
_METRICS = "metrics.jsonl"


class SampleSource(Protocol):
    """Where samples come from: `grace_train.nano.corpus.Corpus`, or one of real text."""

    vague: bool

    def samples(self, count: int, seed: str | int) -> Iterator[Sample]:
        """``count`` samples; the same for the same seed."""
        ...


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a training run.

    Args:
        steps: optimiser steps.
        batch_size: samples per step.
        learning_rate: the peak, after warm-up; a cosine takes it to 1% of that.
        warmup_steps: steps of linear warm-up.
        weight_decay: of AdamW, on matrices only.
        text_loss_weight: weight of the loss on the user's text, relative to 1 for the rationale.
        max_grad_norm: gradient clipping.
        seed: of the weights and of the samples.
        hidden_size, layers, heads, kv_heads, intermediate_size: the architecture.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines of ``metrics.jsonl``.
        bf16: compute in bfloat16 (the optimiser keeps fp32 weights).
        chunk_batches: batches that are drawn together and cut by length, to save padding.
        vague: whether the corpus has vague rationales, see `Corpus`.
    """

    steps: int = 4200
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    text_loss_weight: float = 0.5
    max_grad_norm: float = 1.0
    seed: int = 0
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 704
    checkpoint_every: int = 500
    log_every: int = 20
    bf16: bool = True
    chunk_batches: int = 16
    vague: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "warmup_steps", "checkpoint_every", "log_every", "chunk_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.hidden_size % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of heads ({self.heads}), and heads of kv_heads "
                f"({self.kv_heads})."
            )


def build_model(tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> Qwen2ForCausalLM:
    """A freshly initialised model; the same for the same seed."""
    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,
            initializer_range=0.03,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@dataclass(frozen=True)
class Batch:
    """Sequences without the head, padded on the right.

    Args:
        ids: user text, tail, rationale, EOS [batch, length].
        weights: the weight of predicting each token of ``ids`` [batch, length]; 0 for the tail and padding.
    """

    ids: Tensor
    weights: Tensor

    def to(self, device: str) -> Batch:
        """The same on a device."""
        return Batch(self.ids.to(device), self.weights.to(device))


class BatchSource:
    """Batches by step number, a pure function of the seed and the step."""

    def __init__(self, corpus: SampleSource, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._config = config
        _, self._tail = template_ids(tokenizer)

    def fingerprint(self) -> str:
        """Hash of the first texts as tokens: another corpus, or another tokenizer, has another one."""
        digest = hashlib.sha256()
        for batch in self._chunk(0):
            digest.update(batch.ids.numpy().tobytes())
        return digest.hexdigest()

    def batches(self, first_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of steps ``first_step`` to ``stop_step - 1``."""
        per_chunk = self._config.chunk_batches
        for chunk in range(first_step // per_chunk, math.ceil(stop_step / per_chunk)):
            for offset, batch in enumerate(self._chunk(chunk)):
                if first_step <= chunk * per_chunk + offset < stop_step:
                    yield batch

    def _chunk(self, chunk: int) -> list[Batch]:
        config = self._config
        seed = f"{config.seed}/{chunk}"
        samples = list(self._corpus.samples(config.batch_size * config.chunk_batches, f"pretrain/{seed}"))
        texts = text_ids(self._tokenizer, [sample.text for sample in samples])
        rationales = text_ids(self._tokenizer, [sample.rationale for sample in samples])
        pairs = sorted(zip(texts, rationales, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
        groups = [pairs[i : i + config.batch_size] for i in range(0, len(pairs), config.batch_size)]
        random.Random(f"order/{seed}").shuffle(groups)
        return [self._collate(group) for group in groups]

    def _collate(self, group: list[tuple[list[int], list[int]]]) -> Batch:
        eos, pad = int(self._tokenizer.eos_token_id), int(self._tokenizer.pad_token_id)
        length = max(len(text) + len(self._tail) + len(rationale) + 1 for text, rationale in group)
        length += -length % _LENGTH_MULTIPLE
        ids = torch.full((len(group), length), pad)
        weights = torch.zeros(len(group), length)
        for row, (text, rationale) in enumerate(group):
            sequence = [*text, *self._tail, *rationale, eos]
            ids[row, : len(sequence)] = torch.tensor(sequence)
            weights[row, : len(text)] = self._config.text_loss_weight
            weights[row, len(text) + len(self._tail) : len(sequence)] = 1.0
        return Batch(ids, weights)


def shared_head_states(model: Qwen2ForCausalLM, head: Tensor, ids: Tensor) -> Tensor:
    """Last-layer states of ``head + ids`` for each row, with the head computed once.

    Args:
        model: the model.
        head: token ids of the template's head [head length].
        ids: token ids after the head [batch, length], padded on the right.

    Returns:
        States at the head's last position and at every position of ``ids`` [batch, 1 + length, hidden].
    """
    cache = DynamicCache(config=model.config)
    head_states = model.model(input_ids=head[None], past_key_values=cache, use_cache=True).last_hidden_state
    cache.batch_repeat_interleave(len(ids))
    states = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    return torch.cat([head_states[:, -1:].expand(len(ids), -1, -1), states], dim=1)


def weighted_loss(model: Qwen2ForCausalLM, head: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The training loss, and the plain mean loss on rationale tokens (detached).

    Returns:
        Two scalars: the mean over weighted tokens, which is differentiated, and the mean over tokens of
        weight 1.
    """
    states = shared_head_states(model, head, batch.ids)[:, :-1].flatten(0, 1)
    weights, targets = batch.weights.flatten(), batch.ids.flatten()
    chosen = _rounded_up(weights > 0)
    weights = weights[chosen]
    losses = F.cross_entropy(model.lm_head(states[chosen]).float(), targets[chosen], reduction="none")
    return (losses * weights).sum() / weights.sum(), losses.detach()[weights == 1].mean()


def _rounded_up(wanted: Tensor) -> Tensor:
    """Indices where ``wanted`` [n] is true, and others up to a multiple of ``_ROW_MULTIPLE``."""
    indices, others = wanted.nonzero()[:, 0], (~wanted).nonzero()[:, 0]
    return torch.cat([indices, others[: -len(indices) % _ROW_MULTIPLE]])


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then a cosine to 1% of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def cast_parameters(model: Qwen2ForCausalLM, dtype: torch.dtype) -> None:
    """Cast the parameters alone.

    ``model.to`` would also cast the rotary frequencies, which are buffers: bfloat16 distorts them, and the
    model would be trained with other positions than it is used with.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


class MasterWeights:
    """fp32 weights and AdamW beside a model that computes in its own dtype.

    In bfloat16 the passes take three quarters of the time that autocast takes on a CPU, which casts every
    activation. Small updates would vanish in bfloat16 weights, so the optimiser keeps its own. Weight decay
    is on matrices only.

    Args:
        model: fp32 as initialised; its parameters are cast here.
        config: the settings.
    """

    def __init__(self, model: Qwen2ForCausalLM, config: PretrainConfig) -> None:
        self.model = model
        self.names = [name for name, _ in model.named_parameters()]
        self.masters = [parameter.detach().clone() for parameter in model.parameters()]
        cast_parameters(model, torch.bfloat16 if config.bf16 else torch.float32)
        matrices = [master for master in self.masters if master.dim() >= 2]
        vectors = [master for master in self.masters if master.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
        self._max_grad_norm = config.max_grad_norm

    def step(self, rate: float) -> float:
        """Apply the gradients that the model holds, and clear them.

        Args:
            rate: the learning rate.

        Returns:
            The gradient norm before clipping.

        Raises:
            RuntimeError: the gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for master, parameter in zip(self.masters, self.model.parameters(), strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self._max_grad_norm, error_if_nonfinite=True)
        self.optimizer.step()
        self.model.zero_grad()
        self.publish()
        return float(norm)

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the fp32 weights into the model."""
        for master, parameter in zip(self.masters, self.model.parameters(), strict=True):
            parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """The weights by name, and the optimiser's state."""
        return {
            "weights": dict(zip(self.names, self.masters, strict=True)),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.publish()


def pretrain(
    corpus: SampleSource,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    config: PretrainConfig,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    device: str = "cpu",
) -> Qwen2ForCausalLM:
    """Train, with checkpoints and metrics in ``folder``.

    Args:
        corpus: where samples come from.
        tokenizer: of ``train_tokenizer``.
        folder: for ``checkpoint.pt`` and ``metrics.jsonl``; made if missing.
        config: the settings.
        resume: go on from the folder's checkpoint.
        stop_after: end (with a checkpoint) after this step, as if interrupted there.
        device: where to compute.

    Returns:
        The model in fp32, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: ``resume`` without a checkpoint.
        ValueError: the checkpoint was made with other settings or texts, or the corpus is not what
            ``config.vague`` says.
    """
    if corpus.vague != config.vague:
        raise ValueError(f"vague is {config.vague} in the settings and {corpus.vague} in the corpus: make them agree.")
    folder.mkdir(parents=True, exist_ok=True)
    model = build_model(tokenizer, config)
    model.to(torch.device(device))  # type: ignore[arg-type]  # transformers wraps it without its overloads
    weights = MasterWeights(model, config)
    source = BatchSource(corpus, tokenizer, config)
    data = source.fingerprint()
    first_step = _restore(folder / _CHECKPOINT, weights, config, data) if resume else 0
    _start_metrics(folder / _METRICS, first_step)
    last_step = config.steps if stop_after is None else min(stop_after, config.steps)

    head = torch.tensor(template_ids(tokenizer)[0], device=device)
    logger.info("%d parameters, steps %d to %d", sum(p.numel() for p in model.parameters()), first_step, last_step)
    model.train()
    started = perf_counter()
    progress = tqdm(source.batches(first_step, last_step), initial=first_step, total=config.steps, desc="training")
    for step, batch in enumerate(progress, start=first_step):
        rate = learning_rate(step, config)
        loss, token_loss = weighted_loss(model, head, batch.to(device))
        loss.backward()
        norm = weights.step(rate)

        done = step + 1
        if done % config.log_every == 0 or done == last_step:
            line = {
                "step": done,
                "loss": loss.item(),
                "token_loss": token_loss.item(),
                "grad_norm": norm,
                "lr": rate,
            }
            _append_metrics(folder / _METRICS, line | {"seconds": round(perf_counter() - started, 1)})
            progress.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
        if done % config.checkpoint_every == 0 or done == last_step:
            state = {"step": done, "config": asdict(config), "data": data, **weights.state_dict()}
            write_atomically(folder / _CHECKPOINT, partial(torch.save, state))
    cast_parameters(model, torch.float32)
    weights.publish()
    return model.cpu().eval()


def _restore(path: Path, weights: MasterWeights, config: PretrainConfig, data: str) -> int:
    if not path.exists():
        raise FileNotFoundError(f"Nothing to resume: {path} does not exist. Run without --resume to start.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["config"] != asdict(config):
        changed = sorted(key for key, value in asdict(config).items() if state["config"].get(key) != value)
        raise ValueError(
            f"{path} was made with other settings ({', '.join(changed)}); use those, or run without --resume."
        )
    if state.get("data") != data:
        raise ValueError(f"{path} was made with other texts or another tokenizer; use those, or run without --resume.")
    weights.load_state_dict(state)
    return int(state["step"])


def _start_metrics(path: Path, first_step: int) -> None:
    """Keep the lines up to the step that the run goes on from, so that no step is logged twice."""
    kept: list[str] = []
    if first_step and path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= first_step]
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _append_metrics(path: Path, line: dict[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
