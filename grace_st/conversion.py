"""convert(): any causal LM becomes a model folder that sentence-transformers loads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from grace_st.cards import write_folder_card
from grace_st.config import DEFAULT_SYSTEM_PROMPT, GraceConfig, Pooling, PoolingSpan
from grace_st.engines.forward import context_length
from grace_st.engines.requests import check_context
from grace_st.hub import check_hub
from grace_st.model import GraceModel
from grace_st.model_files import LOADER_TYPE, MODULES_NAME
from grace_st.module import GenerateThenPool
from grace_st.paths import destination as destination_folder
from grace_st.paths import local_or_hub, written_whole
from grace_st.special_tokens import ensure_padding, eos_token_ids, load_tokenizer
from grace_st.template import SystemRole, render_template
from grace_st.trial import try_module
from grace_st.weights import is_adapter, load_adapter_merged, load_causal_lm

DEFAULT_MAX_SEQ_LENGTH = 1024
"""Longest prompt in tokens, unless one is named."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` decided.

    Attributes:
        path: The model folder.
        config: Prompt, limits and pooling as stored.
        architecture: Class of the causal LM.
        embedding_dimension: ``d``.
        num_parameters: Measured, tied weights counted once.
        context_length: The model's context in tokens; None where its config names none.
    """

    path: Path
    config: GraceConfig
    architecture: str
    embedding_dimension: int
    num_parameters: int
    context_length: int | None


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT,
    system_role: SystemRole = "auto",
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_seq_length: int = DEFAULT_MAX_SEQ_LENGTH,
    max_new_tokens: int = 256,
    pooling: Pooling = "mean",
    pooling_span: PoolingSpan = "text_and_rationale",
    eos_token: str | Sequence[str] | None = None,
    pad_token: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Make a GRACE model folder from a causal LM.

    The folder is written whole or not at all.

    Args:
        source: Local folder or hub name of a causal LM, or of a PEFT adapter, which is merged into its base.
        destination: The folder to make.
        system_prompt: The message that asks for a rationale; None keeps the chat template's own.
        system_role: Where the message goes, see `grace_st.template.render_template`.
        chat_template_kwargs: Passed to the chat template, e.g. ``{"enable_thinking": False}``.
        max_seq_length: Longest prompt in tokens, template included; only texts are truncated.
        max_new_tokens: Default budget of a rationale in tokens.
        pooling: See `grace_st.GraceConfig`.
        pooling_span: See `grace_st.GraceConfig`.
        eos_token: Tokens that end a rationale, instead of those that checkpoint, tokenizer and template name.
        pad_token: Padding token, for tokenizers that have none.
        dtype: Save the weights in this dtype, e.g. ``"bfloat16"``; None keeps the checkpoint's.
        revision: Hub revision.
        token: Hub token.
        cache_folder: Where downloads are kept.
        trust_remote_code: For checkpoints with code of their own.
        overwrite: Replace ``destination`` if it exists.

    Returns:
        What was decided.

    Raises:
        FileExistsError: ``destination`` exists and ``overwrite`` is False.
        OSError: The source cannot be found, the hub cannot be reached, or there are no safetensors weights.
        ValueError: The source is not a causal LM, has no EOS or padding token, its template drops the message, or
            prompt and budget exceed its context. Nothing is guessed: the message names the option to give.
    """
    name = local_or_hub(source)
    target = destination_folder(destination, overwrite=overwrite, source=name)
    module = prepare(
        name,
        system_prompt=system_prompt,
        system_role=system_role,
        chat_template_kwargs=chat_template_kwargs,
        max_seq_length=max_seq_length,
        max_new_tokens=max_new_tokens,
        pooling=pooling,
        pooling_span=pooling_span,
        eos_token=eos_token,
        pad_token=pad_token,
        dtype=dtype,
        revision=revision,
        token=token,
        cache_folder=cache_folder,
        trust_remote_code=trust_remote_code,
    )
    conversion = Conversion(
        path=target,
        config=module.config,
        architecture=type(module.model).__name__,
        embedding_dimension=module.get_embedding_dimension(),
        num_parameters=sum(parameter.numel() for parameter in module.model.parameters()),
        context_length=context_length(module.model.config),
    )
    with written_whole(target) as partial:
        is_local = Path(name).is_dir()
        write_folder(
            module,
            partial,
            name=target.name,
            source=Path(name).name if is_local else name,
            base_model=None if is_local else name,
        )
    return conversion


def prepare(
    source: str | os.PathLike[str],
    *,
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT,
    system_role: SystemRole = "auto",
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_seq_length: int = DEFAULT_MAX_SEQ_LENGTH,
    max_new_tokens: int = 256,
    pooling: Pooling = "mean",
    pooling_span: PoolingSpan = "text_and_rationale",
    eos_token: str | Sequence[str] | None = None,
    pad_token: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | None = None,
    trust_remote_code: bool = False,
) -> GenerateThenPool:
    """What `convert` does, without writing anything: the module of a causal LM, tried and ready to encode.

    Takes the options of `convert` and raises what it raises.

    Returns:
        The module, in the checkpoint's dtype or the one that was asked for.
    """
    name = local_or_hub(source)
    hub = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_folder,
        "trust_remote_code": trust_remote_code,
        "local_files_only": Path(name).is_dir(),
    }
    check_hub(name, hub)
    # 1. Everything that can be refused without weights.
    model_kwargs = {} if dtype is None else {"dtype": _dtype(dtype)}
    adapted = is_adapter(name, hub)
    if not adapted:
        model_config = _model_config(name, hub)
        _refuse_other_architectures(model_config, name)
        check_context(max_seq_length, max_new_tokens, context_length(model_config))
    tokenizer = load_tokenizer(name, hub, is_adapter=adapted)
    ensure_padding(tokenizer, pad_token)
    template = render_template(
        tokenizer, system_prompt, system_role=system_role, chat_template_kwargs=chat_template_kwargs
    )
    config = GraceConfig(
        system_prompt=system_prompt,
        template=template.kind,
        head=template.head,
        tail=template.tail,
        eos_token_ids=(tokenizer.pad_token_id,),  # known once the generation config is loaded with the model
        pad_token_id=tokenizer.pad_token_id,
        max_seq_length=max_seq_length,
        max_new_tokens=max_new_tokens,
        pooling=pooling,
        pooling_span=pooling_span,
    )
    # 2. Weights.
    load_weights = load_adapter_merged if adapted else load_causal_lm
    model = load_weights(name, model_kwargs, hub)
    config = config.replace(eos_token_ids=eos_token_ids(tokenizer, model, template.turn_end, eos_token))
    module = GenerateThenPool(model, tokenizer, config, keep_dtype=True)
    try_module(module, name)
    return module


def write_folder(
    module: GenerateThenPool,
    folder: Path,
    *,
    name: str,
    source: str,
    base_model: str | None = None,
    is_trained: bool = False,
) -> None:
    """Write a module as a model folder: weights, tokenizer, configurations, loader stub and README.

    Args:
        module: What to save.
        folder: An existing folder.
        name: What the README calls the model.
        source: Which model it was made from, for the README.
        base_model: Hub name of that model, for the README's metadata; None where it has none.
        is_trained: Whether its weights are others than the source's.
    """
    model = GraceModel(modules=[module], device=str(module.model.device), similarity_fn_name="cosine")
    model.save(str(folder), create_model_card=False)
    modules_path = folder / MODULES_NAME
    modules = json.loads(modules_path.read_text(encoding="utf-8"))
    # The stub beside the weights, not this package's path: where the package is missing, it says so clearly.
    modules[0]["type"] = LOADER_TYPE
    modules_path.write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    write_folder_card(folder, name=name, made_from=source, base_model=base_model, is_conversion=not is_trained)


def _model_config(name: str, hub: Mapping[str, Any]) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(name, **hub)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"{name} is neither a folder with a model nor a model that the hub gives: {reason}") from error


def _refuse_other_architectures(config: PreTrainedConfig, name: str) -> None:
    if config.is_encoder_decoder:
        raise ValueError(
            f"{name} is an encoder-decoder model ({config.model_type}); GRACE needs a decoder-only causal LM, such as "
            "Qwen2.5 or Llama"
        )
    architectures = config.architectures or []
    if architectures and not any(item.endswith(("ForCausalLM", "LMHeadModel")) for item in architectures):
        raise ValueError(
            f"{name} is a {', '.join(architectures)}, which does not generate text; GRACE needs a decoder-only causal "
            "LM (an architecture that ends with ForCausalLM)"
        )


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, got {dtype!r}")
    return known[dtype]
