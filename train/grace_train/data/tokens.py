"""How long texts are in the tokens of a model: of the whole prompt, as training would make it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grace_st
from grace_st.config import CONFIG_NAME, DEFAULT_SYSTEM_PROMPT
from grace_st.conversion import DEFAULT_MAX_SEQ_LENGTH
from grace_st.hub import find_grace_config
from grace_st.paths import local_or_hub
from grace_st.prompt import RepresentationPrompt
from grace_st.special_tokens import load_tokenizer
from grace_st.template import render_template
from grace_train.data.check import TokenLimit


def token_limit(model: str, max_seq_length: int | None = None) -> TokenLimit:
    """Measures texts as prompts of a model. Of the model, the tokenizer alone is read.

    Whether prompt and rationale fit a causal LM's context is for training to say, which knows both limits.

    Args:
        model: A GRACE model folder, or a causal language model, which has the prompt that converting it would give:
            a folder or a name on the hub.
        max_seq_length: Longest prompt in tokens; None is the model folder's, or the default of `grace_st.convert`.

    Raises:
        OSError: There is no such model.
        ValueError: It has no tokenizer that can be used, or a template that drops the system message.
    """
    name = local_or_hub(model)
    is_local = Path(name).is_dir()
    if is_local and not any((Path(name) / file).is_file() for file in (CONFIG_NAME, "config.json")):
        raise FileNotFoundError(
            f"{model} is not a GRACE model folder (it needs {CONFIG_NAME}), and no language model (config.json)"
        )
    found = find_grace_config(name)
    tokenizer = load_tokenizer(name, {"local_files_only": is_local})
    if found is not None:
        config = grace_st.GraceConfig.from_file(found)
        prompt = RepresentationPrompt(tokenizer, config.head, config.tail, config.eos_token_ids)
        most = config.max_seq_length
    else:
        template = render_template(tokenizer, DEFAULT_SYSTEM_PROMPT)
        eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        prompt = RepresentationPrompt(tokenizer, template.head, template.tail, eos)
        most = DEFAULT_MAX_SEQ_LENGTH

    def count(texts: Sequence[str]) -> list[int]:
        return [len(tokens.ids) for tokens in prompt.tokenize(texts, max_seq_length=2**31)]

    return TokenLimit(count=count, most=max_seq_length or most)
