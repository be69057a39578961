"""The tokenizer of a causal LM, and which of its tokens pad and end a rationale. Nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from grace_st.engines.forward import CausalForward


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


def ensure_padding(tokenizer: PreTrainedTokenizerBase, pad_token: str | None) -> None:
    """Give a tokenizer the padding token that is asked for, or see that it has one.

    Args:
        tokenizer: Changed in place.
        pad_token: The token, or None for the tokenizer's own.

    Raises:
        ValueError: It has none, or the one that is asked for is not one token.
    """
    if pad_token is not None:
        _token_id(tokenizer, pad_token, "pad_token")
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        known = list(tokenizer.get_added_vocab())
        likely = [item for item in known if "pad" in item.lower()] or [tokenizer.eos_token or tokenizer.unk_token]
        hint = f", e.g. pad_token={likely[0]!r} (--pad-token {likely[0]!r})" if likely[0] else ""
        raise ValueError(f"the tokenizer has no padding token: name one{hint}")


def eos_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    turn_end: str,
    eos_token: str | Sequence[str] | None,
) -> tuple[int, ...]:
    """The EOS set: as told, or all that generation config, tokenizer and the template's end of a turn name.

    Args:
        tokenizer: The tokenizer.
        model: The causal LM, whose vocabulary bounds the ids.
        turn_end: What the chat template writes behind an answer; may be empty.
        eos_token: The tokens that are asked for; None is all that are named.

    Returns:
        Token ids, ascending where they were not asked for.

    Raises:
        ValueError: One that is asked for is not one token, or none is known.
    """
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
