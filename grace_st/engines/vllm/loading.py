"""From a model folder to a vLLM engine that is ready to start: what can be refused without starting is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from grace_st.config import GraceConfig
from grace_st.engines.forward import context_length
from grace_st.engines.requests import check_context
from grace_st.engines.vllm.engine import VllmEngine
from grace_st.engines.vllm.options import VllmOptions
from grace_st.engines.vllm.versions import require_vllm
from grace_st.weights import no_safetensors


def vllm_engine(
    source: str,
    config: GraceConfig,
    options: Mapping[str, Any] | None,
    model_kwargs: Mapping[str, Any],
    hub: Mapping[str, Any],
) -> VllmEngine:
    """A vLLM engine for a model folder, not yet started.

    Args:
        source: Folder or hub name; what is on the hub is downloaded whole.
        config: Prompt, limits and pooling.
        options: See `VllmOptions`.
        model_kwargs: ``dtype`` alone is possible.
        hub: Where and how to look: token, revision, cache_dir, ...

    Raises:
        VllmMissingError: vLLM is not installed, or in an unsupported version.
        ValueError: An option is refused, or limits exceed the model's context.
        OSError: There are no safetensors weights.
    """
    chosen = _with_dtype(VllmOptions.of(options), model_kwargs)
    require_vllm()
    folder = _local(source, hub)
    trust = bool(hub.get("trust_remote_code"))
    refuse_adapter(folder)
    if not any(folder.glob("*.safetensors")):
        raise no_safetensors(source)
    model = AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    context = context_length(model)
    check_context(config.max_seq_length, config.max_new_tokens, context)
    return VllmEngine(
        folder,
        eos_token_ids=config.eos_token_ids,
        vocabulary_size=int(model.get_text_config(decoder=True).vocab_size),
        context_length=context,
        longest=config.max_seq_length + config.max_new_tokens,
        pooling=config.pooling,
        pooling_span=config.pooling_span,
        trust_remote_code=trust,
        options=chosen,
    )


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder of LoRA weights.

    Raises:
        ValueError: It is one; the message says how to merge it.
    """
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} is a LoRA adapter, and engine='vllm' serves whole models: merge it with `grace-st convert "
            f"{folder} FOLDER`, or use engine='torch'"
        )


def _with_dtype(options: VllmOptions, model_kwargs: Mapping[str, Any]) -> VllmOptions:
    """The options with the dtype of ``model_kwargs``, where loading with transformers has its own."""
    names = ("dtype", "torch_dtype")
    others = [name for name in model_kwargs if name not in names]
    if others:
        raise ValueError(
            f"model_kwargs {others[0]!r} is for transformers, and engine='vllm' loads the weights itself: leave it "
            "out, or see the engine options of vLLM (quantization, tensor_parallel_size, ...)"
        )
    for value in (model_kwargs[name] for name in names if name in model_kwargs):
        if value is not None and value != "auto":
            name = str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
            return replace(options, dtype=name)
    return options


def _local(source: str, hub: Mapping[str, Any]) -> Path:
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(
                source,
                revision=hub.get("revision"),
                token=hub.get("token"),
                cache_dir=hub.get("cache_dir"),
                local_files_only=bool(hub.get("local_files_only")),
                allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.py", "*.txt", "*.model", "*/*"],
            )
        )
    return folder / (hub.get("subfolder") or "")
