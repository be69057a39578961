"""convert(): any causal LM becomes a model folder that sentence-transformers loads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from grace_st.cards import write_folder_card
from grace_st.config import DEFAULT_SYSTEM_PROMPT, GraceConfig, Pooling, PoolingSpan
from grace_st.engines.base import NonFiniteVectorError, PromptTokens, Sampling
from grace_st.engines.forward import CausalForward, context_length
from grace_st.engines.requests import check_context
from grace_st.hub import check_hub
from grace_st.model import GraceModel
from grace_st.model_files import LOADER_TYPE, MODULES_NAME
from grace_st.module import GenerateThenPool
from grace_st.paths import destination as destination_folder
from grace_st.paths import local_or_hub, written_whole
from grace_st.template import SystemRole, render_template
from grace_st.weights import check_adapter, load_causal_lm

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
    is_adapter = _is_adapter(name, hub)
    if not is_adapter:
        model_config = _model_config(name, hub)
        _refuse_other_architectures(model_config, name)
        check_context(max_seq_length, max_new_tokens, context_length(model_config))
    tokenizer = load_tokenizer(name, hub, is_adapter=is_adapter)
    _ensure_padding(tokenizer, pad_token)
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
    load_weights = _load_adapter_merged if is_adapter else load_causal_lm
    model = load_weights(name, model_kwargs, hub)
    config = config.replace(eos_token_ids=_eos_token_ids(tokenizer, model, template.turn_end, eos_token))
    module = GenerateThenPool(model, tokenizer, config, keep_dtype=True)
    _try_it(module, name)
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


def _try_it(module: GenerateThenPool, name: str) -> None:
    """Encode a little, and refuse a model whose vectors would be wrong.

    Looks whether later tokens change earlier states (an encoder's would), and whether pooling while generating gives
    what a forward over the finished text gives, for prompts of different lengths decoded side by side.
    """
    architecture = type(module.model).__name__
    prompts = module.prompts_of(["a", "a longer text, for comparison", ""])
    try:
        _refuse_non_causal(module, prompts[0], name)
        rollouts = module.rollouts(prompts, Sampling(max_new_tokens=3))
        again = module.rollouts(prompts, rationales=[rollout.ids for rollout in rollouts])
    except NonFiniteVectorError as error:
        raise ValueError(
            f"{name} gives NaN or infinity: its weights are damaged, or overflow in {module.model.dtype}"
        ) from error
    except (RuntimeError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{name} ({architecture}) cannot be decoded one token at a time: {type(error).__name__}: {error}"
        ) from error
    for one_pass, two_passes in zip(rollouts, again, strict=True):
        # Loose, since half precision is: a wrong position or mask is far outside.
        if torch.cosine_similarity(one_pass.vector, two_passes.vector, dim=0) < 0.98:
            raise ValueError(
                f"{name} ({architecture}) gives other states one token at a time than at once, so it cannot be "
                "encoded in one pass"
            )


def _refuse_non_causal(module: GenerateThenPool, prompt: PromptTokens, name: str) -> None:
    forward = CausalForward(module.model, "mean", module.config.pad_token_id)
    ids = torch.tensor([[*prompt.ids, prompt.ids[0], prompt.ids[-1]]], device=module.model.device)
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % forward.vocabulary_size
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        states, others = (
            forward.feed(item, mask, 0, None, want_logits=False)[0][:, :-1].float() for item in (ids, changed)
        )
    if bool(states.isfinite().all()) and not torch.allclose(states, others, rtol=0, atol=1e-4):
        raise ValueError(
            f"{name} is not causal: its states depend on later tokens, as an encoder's do. GRACE needs a decoder-only "
            "causal LM"
        )


def load_tokenizer(name: str, hub: Mapping[str, Any], *, is_adapter: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a causal LM.

    Args:
        name: Folder or hub name.
        hub: Where and how to look: token, revision, cache_dir, ...
        is_adapter: Whether it is a PEFT adapter, for messages.

    Raises:
        ValueError: There is none, or it is empty.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **hub)
    except (OSError, ValueError) as error:
        hint = "save the base model's tokenizer with the adapter" if is_adapter else "save one with the model"
        raise ValueError(f"{name} has no tokenizer that can be loaded: {hint} ({error})") from error
    # Without its files transformers makes an empty one, in which every text is unknown.
    if len(tokenizer.get_vocab()) <= len(tokenizer.get_added_vocab()):
        raise ValueError(f"the tokenizer of {name} has no entries: are its files (tokenizer.json) complete?")
    return tokenizer


def _ensure_padding(tokenizer: PreTrainedTokenizerBase, pad_token: str | None) -> None:
    if pad_token is not None:
        _token_id(tokenizer, pad_token, "pad_token")
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        known = list(tokenizer.get_added_vocab())
        likely = [item for item in known if "pad" in item.lower()] or [tokenizer.eos_token or tokenizer.unk_token]
        hint = f", e.g. pad_token={likely[0]!r} (--pad-token {likely[0]!r})" if likely[0] else ""
        raise ValueError(f"the tokenizer has no padding token: name one{hint}")


def _eos_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    turn_end: str,
    eos_token: str | Sequence[str] | None,
) -> tuple[int, ...]:
    """The EOS set: as told, or all that generation config, tokenizer and the template's end of a turn name."""
    if eos_token is not None:
        tokens = [eos_token] if isinstance(eos_token, str) else list(eos_token)
        if not tokens:
            raise ValueError("eos_token is an empty list: name at least one token, or leave it out")
        return tuple(_token_id(tokenizer, item, "eos_token") for item in tokens)
    named: list[int | Sequence[int] | None] = [tokenizer.eos_token_id]
    for holder in (model.generation_config, model.config):
        named.append(None if holder is None else holder.to_dict().get("eos_token_id"))
    ids: set[int] = set()
    for item in named:
        ids.update([] if item is None else [item] if isinstance(item, int) else item)
    first = tokenizer(turn_end.lstrip(), add_special_tokens=False).input_ids[:1]
    if first and first[0] in set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids):
        ids.add(first[0])
    vocabulary_size = CausalForward(model, "mean", tokenizer.pad_token_id).vocabulary_size
    ids = {item for item in ids if 0 <= item < vocabulary_size}
    if not ids:
        raise ValueError(
            "neither the tokenizer, the generation config nor the chat template names an EOS token, so rationales "
            "could not end: name one with eos_token=... (--eos-token TOKEN)"
        )
    return tuple(sorted(ids))


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str, option: str) -> int:
    token_id = tokenizer.get_vocab().get(token)
    if token_id is None:
        raise ValueError(f"{option}={token!r} is not one token of the tokenizer's vocabulary")
    return int(token_id)


def _is_adapter(name: str, hub: Mapping[str, Any]) -> bool:
    options = {key: value for key, value in hub.items() if key != "trust_remote_code"}
    return find_adapter_config_file(name, **options) is not None


def _load_adapter_merged(name: str, model_kwargs: Mapping[str, Any], hub: Mapping[str, Any]) -> PreTrainedModel:
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ImportError(f"{name} is a PEFT adapter, which needs peft: pip install 'grace-st[peft]'") from error
    options = {key: value for key, value in hub.items() if key != "trust_remote_code"}
    base_name = PeftConfig.from_pretrained(name, **options).base_model_name_or_path
    if not base_name:
        raise ValueError(f"{name} does not say which model it adapts: set base_model_name_or_path in its config")
    # The base has a revision of its own, and may be on the hub where the adapter is a folder.
    elsewhere = {**hub, "revision": None, "local_files_only": Path(base_name).is_dir()}
    check_adapter(name, hub)
    base = load_causal_lm(base_name, model_kwargs, elsewhere)
    return PeftModel.from_pretrained(base, name, **options).merge_and_unload()


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, got {dtype!r}")
    return known[dtype]
