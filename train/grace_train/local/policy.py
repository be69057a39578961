"""Policy: the model that is trained, in the three forms that training needs it.

The module generates and pools exactly as an encoder does; the same weights give log-probabilities with gradients;
and they are written as a model folder. Knows nothing about rewards or steps.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import grace_st
from grace_st.config import CONFIG_NAME, DEFAULT_SYSTEM_PROMPT
from grace_st.conversion import prepare, write_folder
from grace_st.engines.base import NonFiniteVectorError, Sampling
from grace_st.engines.kv_cache import can_repack
from grace_st.module import GenerateThenPool
from grace_train.config import TrainConfig
from grace_train.local.logprobs import TokenScores, token_scores
from grace_train.local.packing import MicroBatch
from grace_train.options import ConfigError
from grace_train.sections import LoraConfig

BUNDLED = "grace-nano"
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


# -------------------------------------------------------------------- loading


def load_policy(config: TrainConfig, *, keep_reference: bool) -> Policy:
    """Load the model that a configuration names and make it trainable.

    Args:
        config: The run.
        keep_reference: Keep the start weights for a KL divergence.

    Raises:
        OSError: The model cannot be found.
        ValueError: It cannot be trained as the configuration says.
    """
    device = choose_device(config.compute.device)
    use_lora = config.lora.rank > 0
    half = _half_dtype(config.compute.precision, device)
    loaded = _load_module(config)
    start_dtype = loaded.stored_dtype
    # Frozen weights may be in half precision; trained ones must not be (updates of 1e-6 would vanish).
    model = loaded.model
    if model.config.to_dict().get("quantization_config") is not None:
        raise ConfigError(f"model={config.model} holds quantized weights, which cannot be trained: name the original")
    _move(model, device, torch.float32 if half is None or not use_lora else half)
    # Log-probabilities must be those of the policy that generated, in training mode as well.
    set_dropout(model, 0.0)
    torch.manual_seed(config.seed)  # of the adapters' first values
    lora = _add_lora(model, config.lora) if use_lora else None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not use_lora or "lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if config.compute.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    reference = _frozen_copy(model, half) if keep_reference and not use_lora else None
    module = GenerateThenPool(
        model,
        loaded.tokenizer,
        loaded.config,
        engine_kwargs=None if config.rollout.slots is None else {"slots": config.rollout.slots},
        keep_dtype=True,
    )
    module.eval()
    return Policy(module, device, half, lora, reference, Path(config.model).name, start_dtype)


def choose_device(name: str | None) -> torch.device:
    """The device of a run: as told, or the best there is.

    Raises:
        ConfigError: There is no such device.
    """
    if name is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    if name == "meta":
        raise ConfigError("compute.device='meta' computes nothing: name cpu, cuda or mps")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"compute.device={name!r} cannot be used here: {reason}") from error
    return device


def _half_dtype(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype | None:
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if precision == "bf16" else None


def _load_module(config: TrainConfig) -> GenerateThenPool:
    prompt = config.prompt
    given = {
        name: getattr(prompt, name)
        for name in ("max_seq_length", "max_new_tokens", "pooling", "pooling_span")
        if getattr(prompt, name) is not None
    }
    folder = Path(config.model).expanduser()
    if config.model == BUNDLED and not folder.exists():
        folder = grace_st.nano_path()
    if (folder / CONFIG_NAME).is_file():
        if prompt.system_prompt is not None:
            raise ConfigError(
                f"prompt.system_prompt cannot be changed in {config.model}, which is a GRACE model folder already: "
                "leave it out, or start from the causal LM"
            )
        return GenerateThenPool.load(str(folder), local_files_only=True, config_kwargs=given)
    return prepare(config.model, system_prompt=prompt.system_prompt or DEFAULT_SYSTEM_PROMPT, **given)


def _move(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model and cast its parameters alone: rotary frequencies are buffers, and do not survive half precision."""
    model.to(device)  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def set_dropout(model: nn.Module, rate: float) -> int:
    """Set every dropout of a model, of attention weights too, and return how many there are."""
    count = 0
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
            count += 1
        # Some layers call the function, with a rate of their own: OPT's `dropout`, Qwen2's `attention_dropout`.
        for name, value in vars(part).items():
            if "dropout" in name and isinstance(value, (int, float)) and not isinstance(value, bool):
                setattr(part, name, rate)
                count += 1
    return count


def _add_lora(model: PreTrainedModel, lora: LoraConfig) -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError("lora.rank > 0 needs peft: pip install 'grace-st[train]'") from error
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha if lora.alpha is not None else 2 * lora.rank,
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        # Puts adapters into the layers of the model itself, so module and engine use them without knowing.
        wrapped = peft.get_peft_model(model, settings, adapter_name=ADAPTER)
    except ValueError as error:
        raise ConfigError(f"lora.target_modules={lora.target_modules!r} does not fit the model: {error}") from error
    _refuse_tied_adapters(model, lora)
    return wrapped


def _refuse_tied_adapters(model: PreTrainedModel, lora: LoraConfig) -> None:
    """An adapter of one of two layers that share a weight cannot be merged: it would change the other one, too."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for names in owners.values():
        adapted = next((name for name in names if ".base_layer." in name), None)
        if adapted is not None and len(names) > 1:
            layer = adapted.partition(".base_layer.")[0]
            raise ConfigError(
                f"lora.target_modules={lora.target_modules!r} names {layer}, which shares its weight with another "
                "layer, so that its adapter could not be merged: leave it out"
            )


def _copy_buffers(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Give a model that was built without memory the buffers of another: rotary frequencies are in no checkpoint."""
    buffers = dict(source.named_buffers(remove_duplicate=False))
    for name, _ in list(target.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        target.get_submodule(owner)._buffers[leaf] = buffers[name].detach().to("cpu", copy=True)


def _frozen_copy(model: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    frozen = copy.deepcopy(model)
    frozen.gradient_checkpointing_disable()
    if dtype is not None:
        for parameter in frozen.parameters():
            parameter.data = parameter.data.to(dtype)
    return frozen.requires_grad_(False).eval()
