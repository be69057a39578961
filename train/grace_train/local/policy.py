"""Policy: the model that is trained, in the three forms that training needs it.

The module generates and pools exactly as an encoder does; the same weights give log-probabilities with gradients;
and they are written as a model folder. Knows nothing about rewards or steps; `grace_train.local.loading` makes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grace_st.conversion import write_folder
from grace_st.engines.base import NonFiniteVectorError, Sampling
from grace_st.engines.kv_cache import can_repack
from grace_st.module import GenerateThenPool
from grace_train.local.logprobs import TokenScores, token_scores
from grace_train.local.packing import MicroBatch

ADAPTER = "default"


@dataclass
class Policy:
    """A model in training.

    Attributes:
        module: Generates and pools.
        device: Where it is.
        autocast_dtype: Of the passes; None computes in float32.
        lora: The peft wrapper around the same layers, or None where all weights are trained.
        reference: A frozen copy of the start weights, or None (with LoRA the base weights are the reference).
        name: The start model's name.
        start_dtype: The start model's own dtype.
    """

    module: GenerateThenPool
    device: torch.device
    autocast_dtype: torch.dtype | None
    lora: Any
    reference: PreTrainedModel | None
    name: str
    start_dtype: torch.dtype

    @property
    def model(self) -> PreTrainedModel:
        """The causal LM, with adapters inside where there are any."""
        return self.module.model

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that are trained, by name, float32."""
        return {name: item for name, item in self.model.named_parameters() if item.requires_grad}

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a pass."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def scores(self, batch: MicroBatch, *, temperature: float, entropy: bool = False) -> TokenScores:
        """Log-probabilities of a micro-batch, with gradients where they are enabled."""
        with self.autocast(), self._checkpointing():
            return token_scores(self.model, batch, temperature=temperature, entropy=entropy)

    @torch.no_grad()
    def reference_scores(self, batch: MicroBatch, *, temperature: float) -> TokenScores:
        """Log-probabilities under the start weights.

        Raises:
            RuntimeError: They were not kept.
        """
        if self.lora is not None:
            with self.lora.disable_adapter(), self.autocast():
                return token_scores(self.model, batch, temperature=temperature)
        if self.reference is None:
            raise RuntimeError("the start weights were not kept: load the policy with keep_reference=True")
        with self.autocast():
            return token_scores(self.reference, batch, temperature=temperature)

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        # transformers checkpoints activations in training mode only; dropout is switched off when a policy is loaded.
        self.model.train(self.model.is_gradient_checkpointing and torch.is_grad_enabled())
        try:
            yield
        finally:
            self.model.eval()

    def can_share_prompts(self, longest: int) -> bool:
        """Whether responses may stand in one row behind their prompt.

        Needs plain attention under a mask of our own: no recurrent layers, no window that is shorter than a prompt
        with its response, no distances (ALiBi) that the model counts from the mask.

        Args:
            longest: Tokens of the longest prompt with its response.
        """
        config = self.model.config.get_text_config(decoder=True)
        window = getattr(config, "sliding_window", None)
        chunk = getattr(config, "attention_chunk_size", None)
        within = all(limit is None or longest <= limit for limit in (window, chunk))
        within = within and not getattr(config, "alibi", False)
        # Our mask is boolean, and eager attention wants an additive one.
        return within and self.model.config._attn_implementation == "sdpa" and can_repack(self.model.config)

    def fingerprint(self) -> str:
        """A hash of the start weights: the shapes, and some values of each tensor that is not an adapter's."""
        digest = hashlib.blake2b(digest_size=16)
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                continue
            flat = parameter.detach().flatten()
            stride = max(1, flat.numel() // 64)
            digest.update(f"{name.replace('.base_layer', '')} {tuple(parameter.shape)}".encode())
            digest.update(flat[::stride][:64].float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Tensor]:
        """The trained weights, on the CPU."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self.trainable().items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: Names or shapes differ: the state is of another model.
        """
        parameters = self.trainable()
        if parameters.keys() != state.keys() or any(
            parameter.shape != state[name].shape for name, parameter in parameters.items()
        ):
            raise ValueError("the checkpoint holds the weights of another model: use the model that the run began with")
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    # ---------------------------------------------------------------- saving

    def save(self, folder: Path, *, name: str, dtype: torch.dtype) -> None:
        """Write a model folder; adapters are merged into the weights, which stay as they are here.

        Args:
            folder: An existing folder.
            name: What its README calls the model.
            dtype: Of the weights written.

        Raises:
            ArithmeticError: The weights encode nothing, in this dtype or at all.
        """
        weights = self._whole_state(dtype)
        with torch.device("meta"):
            plain = type(self.model)(self._plain_config())
        plain.load_state_dict(weights, strict=False, assign=True)
        plain.tie_weights()
        _copy_buffers(self.model, plain)
        missing = [key for key, parameter in plain.named_parameters() if parameter.is_meta]
        if missing:
            raise RuntimeError(f"no weights for {missing[0]}: {type(self.model).__name__} cannot be written")
        plain.config.dtype = dtype
        module = GenerateThenPool(plain, self.module.tokenizer, self.module.config, keep_dtype=True).eval()
        try:
            module.rollouts(module.prompts_of(["a"]), Sampling(max_new_tokens=1))
        except NonFiniteVectorError as error:
            raise ArithmeticError(
                f"the trained weights give NaN or infinity in {dtype}, so they are not written: go on with "
                "--resume save_dtype=float32, which has more range; if that is no help, train with a lower "
                "optimizer.learning_rate"
            ) from error
        write_folder(module, folder, name=name, source=self.name, is_trained=True)

    def _plain_config(self) -> Any:
        config = type(self.model.config).from_dict(self.model.config.to_dict())
        config._attn_implementation = self.model.config._attn_implementation
        return config

    @torch.no_grad()
    def _whole_state(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """All weights by their names without adapters, on the CPU."""
        weights: dict[str, Tensor] = {}
        layers: dict[str, Any] = dict(self.model.named_modules())
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                continue
            value = parameter.to(torch.float32)
            if ".base_layer." in name:
                owner, _, leaf = name.partition(".base_layer.")
                if leaf == "weight":
                    value = value + layers[owner].get_delta_weight(ADAPTER).to(value.device)
                name = f"{owner}.{leaf}"
            weights[name] = value.to("cpu", dtype, copy=True)
        return weights


def _copy_buffers(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Give a model that was built without memory the buffers of another: rotary frequencies are in no checkpoint."""
    buffers = dict(source.named_buffers(remove_duplicate=False))
    for name, _ in list(target.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        target.get_submodule(owner)._buffers[leaf] = buffers[name].detach().to("cpu", copy=True)
