"""grace-nano's prompt: ChatML with the system message of GRACE, as ``grace_st`` renders it.

Head, user text and tail are tokenised separately and concatenated. Those ids are the definition, in training
as in encoding.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from grace_st import DEFAULT_SYSTEM_PROMPT

HEAD = f"<|im_start|>system\n{DEFAULT_SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def template_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids of the template before and after the user's text; special tokens in it are special."""
    head: list[int] = tokenizer(HEAD, add_special_tokens=False)["input_ids"]
    tail: list[int] = tokenizer(TAIL, add_special_tokens=False)["input_ids"]
    return head, tail


def text_ids(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of texts or rationales; special tokens in them are split into ordinary ones."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids
