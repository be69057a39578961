"""What runs in each of verl's FSDP workers: pooled vectors and updates. Only ``[n, d]`` vectors travel back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.engine.utils import prepare_micro_batches
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.padding import no_padding_2_padding

from grace_st.config import Pooling
from grace_st.pooling import pool
from grace_train.losses import kl_terms
from grace_train.verl_engine.loss import LossSettings, contrastive_loss
from grace_train.verl_engine.rows import EmbedRows, UpdateRows, embed_batch, update_batch

_PEFT = "base_model.model."


class GraceWorker(ActorRolloutRefWorker):
    """verl's worker with vectors, our loss, and whole weights in one file."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Load the model; the adapters' first values come from the run's seed."""
        torch.manual_seed(self.config.actor.fsdp_config.seed)
        super().init_model()

    # ---------------------------------------------------------------- vectors

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def embed(self, rows: EmbedRows, pooling: Pooling, max_tokens: int) -> tuple[list[int], NDArray[np.float32]]:
        """Pool sequences.

        Args:
            rows: This worker's.
            pooling: The reduction.
            max_tokens: Of one pass.

        Returns:
            Places in the whole batch, and the vectors ``[n, d]`` float32 in that order.
        """
        engine = self.actor.engine
        packed = bool(self.actor.model_config.get("use_remove_padding", False))
        batch = embed_batch(rows)
        tu.assign_non_tensor(
            batch,
            use_remove_padding=packed,
            use_fused_kernels=False,
            use_dynamic_bsz=True,
            max_token_len_per_gpu=max(max_tokens, *map(len, rows.ids)),
            sp_size=1,
            temperature=1.0,
        )
        places: list[int] = []
        vectors: list[Tensor] = []
        with engine.eval_mode(), torch.no_grad(), self._catching(pooling) as caught:
            parts, _ = prepare_micro_batches(batch, dp_group=engine.get_data_parallel_group())
            for part in parts:
                part = part.to(get_device_id())
                inputs, _ = engine.prepare_model_inputs(micro_batch=part)
                caught.clear()
                with self._autocast():
                    # The logits of one position: the head of a large vocabulary would cost more than the model.
                    engine.module(**inputs, use_cache=False, logits_to_keep=1)
                vectors += _pooled(caught[-1], part, packed, pooling)
                places += part["place"].tolist()
        kept = [index for index, place in enumerate(places) if place >= 0]
        found = torch.stack(vectors).cpu().numpy() if vectors else np.zeros((0, 0), np.float32)
        return [places[index] for index in kept], found[kept]

    @contextmanager
    def _catching(self, pooling: Pooling) -> Iterator[list[Tensor]]:
        """Collects the hidden states of each pass that ``pooling`` reduces, as the encoder's engine does."""
        decoder = _causal_lm(self.actor.engine.module).get_decoder()
        caught: list[Tensor] = []
        if pooling == "mean_penultimate":
            # What the last decoder layer receives.
            def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                caught.append(args[0] if args else kwargs["hidden_states"])

            handle = decoder.layers[-1].register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = decoder.register_forward_hook(
                lambda _module, _args, output: caught.append(output.last_hidden_state)
            )
        try:
            yield caught
        finally:
            handle.remove()

    def _autocast(self) -> Any:
        dtype = self.actor.engine._autocast_dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(get_device_name(), dtype=dtype)

    # ---------------------------------------------------------------- updates

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def learn(
        self, parts: list[UpdateRows], wholes: list[int], settings: LossSettings, rate: float, temperature: float
    ) -> list[dict[str, float]]:
        """One optimiser step for each part.

        Args:
            parts: This worker's rows of each part.
            wholes: Tokens or rollouts of each part over all workers.
            settings: Of the loss.
            rate: The learning rate.
            temperature: That of the rollouts.

        Returns:
            For each part ``grad_norm`` and sums for the log, both of all workers. A part with gradients that are not
            finite is the last one, and verl has not stepped with it.
        """
        self.actor.set_loss_fn(partial(contrastive_loss, settings=settings))
        batches = [update_batch(rows) for rows in parts]
        for batch, whole in zip(batches, wholes, strict=True):
            tu.assign_non_tensor(batch, temperature=temperature, whole=whole, calculate_entropy=settings.entropy > 0)
            # Before the first step, so that the old policy is the one that generated.
            if settings.off_policy:
                batch["old_log_probs"] = self._logprobs(batch, reference=False)
            if settings.kl > 0:
                batch["ref_log_prob"] = self._logprobs(batch, reference=True)
        for group in self.actor.engine.optimizer.param_groups:
            group["lr"] = rate
        results = []
        for batch in batches:
            metrics = tu.get(self.actor.train_batch(batch), "metrics")
            sums = {name: _total(value) for name, value in metrics.items() if name.endswith("_sum")}
            results.append({"grad_norm": float(metrics["grad_norm"]), **sums})
            if not math.isfinite(results[-1]["grad_norm"]):  # of all workers, so that all of them stop here
                break
        return results

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def divergence(self, rows: UpdateRows) -> tuple[float, int]:
        """Sum over tokens of the KL divergence to the start model (the k3 estimate) and their number."""
        batch = update_batch(rows)
        tu.assign_non_tensor(batch, temperature=1.0)
        own, start = (self._logprobs(batch, reference=which).to_padded_tensor(0.0) for which in (False, True))
        valid = batch["response_mask"].to_padded_tensor(0).bool()
        return kl_terms(own, start, valid).sum().item(), int(valid.sum())

    def _logprobs(self, batch: TensorDict, *, reference: bool) -> Tensor:
        """Nested ``[n, actions]`` log-probabilities of the actions, on the CPU."""
        data = batch.copy()
        tu.assign_non_tensor(data, compute_loss=False, calculate_entropy=False)
        worker = self.actor
        if reference and self._has_adapters:
            tu.assign_non_tensor(data, no_lora_adapter=True)
        elif reference:
            worker = self.ref
        logprobs = no_padding_2_padding(worker.infer_batch(data)["log_probs"].cpu(), batch).float()
        lengths = batch["responses"].offsets().diff().tolist()
        rows = [row[:length] for row, length in zip(logprobs, lengths, strict=True)]
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    # ---------------------------------------------------------------- weights

    @property
    def _has_adapters(self) -> bool:
        module = self.actor.engine.module
        return hasattr(getattr(module, "_fsdp_wrapped_module", module), "peft_config")

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_weights(self, path: str, step: int) -> None:
        """Write the trained weights, whole, by the names of the local engine (and a tied weight by both of its)."""
        with self._on_device():
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state = get_model_state_dict(self.actor.engine.module, options=options)
        if self.rank == 0:
            weights = {
                name.removeprefix(_PEFT): value.float()  # type: ignore[union-attr]
                for name, value in state.items()
                if not self._has_adapters or "lora_" in name
            }
            torch.save({"step": step, "weights": weights}, path)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_weights(self, path: str) -> None:
        """Take weights that `save_weights` wrote."""
        with self._on_device():
            # With adapters the weights below them go along: FSDP1 takes whole states only.
            gather = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state = get_model_state_dict(self.actor.engine.module, options=gather) if self._has_adapters else {}
            if self.rank == 0:
                prefix = _PEFT if self._has_adapters else ""
                saved = torch.load(path, weights_only=True, map_location="cpu")["weights"]
                state |= {prefix + name: value for name, value in saved.items()}
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            set_model_state_dict(self.actor.engine.module, state, options=options)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        with self.actor.engine.eval_mode():
            yield

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_run(self, folder: str) -> None:
        """Write this worker's shards of weights and optimiser."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.actor.save_checkpoint(folder)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_run(self, folder: str) -> None:
        """Read what `save_run` wrote."""
        self.actor.load_checkpoint(folder, None, False)


def _causal_lm(module: Any) -> Any:
    """The causal LM inside FSDP's and peft's wrappers."""
    module = getattr(module, "_fsdp_wrapped_module", module)
    return module.get_base_model() if hasattr(module, "peft_config") else module


def _pooled(states: Tensor, part: TensorDict, packed: bool, pooling: Pooling) -> list[Tensor]:
    """Vectors ``[d]`` of the rows of a pass; ``states`` is ``[1, tokens, d]`` packed, or ``[n, T, d]`` padded."""
    borders = part["input_ids"].offsets().tolist()
    vectors = []
    for row, start in enumerate(part["start"].tolist()):
        first, last = borders[row], borders[row + 1]
        own = states[0, first:last] if packed else states[row, : last - first]
        span = own[start:][None]
        vectors.append(pool(span, torch.ones(span.shape[:2], dtype=torch.bool, device=span.device), pooling)[0])
    return vectors


def _total(value: Any) -> float:
    """The sum of what verl gathers of a metric: a number, or nested lists by worker and micro-batch."""
    if isinstance(value, list):
        flat = chain.from_iterable(item if isinstance(item, list) else [item] for item in value)
        return float(sum(float(item) for item in flat))
    return float(value)
