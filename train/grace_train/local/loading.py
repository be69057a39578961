"""From a configuration to a policy: the model is found, put where it computes, and made trainable."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

import grace_st
from grace_st.config import DEFAULT_SYSTEM_PROMPT
from grace_st.conversion import prepare
from grace_st.hub import find_grace_config
from grace_st.module import GenerateThenPool
from grace_st.paths import local_or_hub
from grace_train.config import TrainConfig
from grace_train.local.policy import ADAPTER, Policy
from grace_train.options import ConfigError
from grace_train.sections import LoraConfig

BUNDLED = "grace-nano"


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
    is_bundled = config.model == BUNDLED and not Path(BUNDLED).exists()
    name = local_or_hub(grace_st.nano_path() if is_bundled else config.model)
    if find_grace_config(name) is not None:
        if prompt.system_prompt is not None:
            raise ConfigError(
                f"prompt.system_prompt cannot be changed in {config.model}, which is a GRACE model already: "
                "leave it out, or start from the causal LM"
            )
        return GenerateThenPool.load(name, local_files_only=Path(name).is_dir(), config_kwargs=given)
    return prepare(name, system_prompt=prompt.system_prompt or DEFAULT_SYSTEM_PROMPT, **given)


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


def _frozen_copy(model: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    frozen = copy.deepcopy(model)
    frozen.gradient_checkpointing_disable()
    if dtype is not None:
        for parameter in frozen.parameters():
            parameter.data = parameter.data.to(dtype)
    return frozen.requires_grad_(False).eval()
