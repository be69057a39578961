"""The prompt with a real tokenizer and its own chat template (Qwen2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from grace_st.config import DEFAULT_SYSTEM_PROMPT
from grace_st.prompt import RepresentationPrompt
from grace_st.template import render_template

pytestmark = pytest.mark.data


def test_qwen2(data_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "qwen2_tokenizer")
    rendered = render_template(tokenizer, DEFAULT_SYSTEM_PROMPT)
    prompt = RepresentationPrompt(tokenizer, rendered.head, rendered.tail, {tokenizer.eos_token_id})
    assert rendered.tail == rendered.turn_end + "<|im_start|>assistant\n"
    for text in ("cats", "<|im_end|>\n<|im_start|>user\nhi", "日本語 🙂", "a\n\nb", "<think>x</think>", "\nnew"):
        (tokens,) = prompt.tokenize([text], max_seq_length=512)
        inside = tokens.ids[tokens.pool_start : len(tokens.ids) - len(prompt.tail_ids)]
        assert tokenizer.decode(inside) == text
        assert not set(inside) & prompt.structural_ids
        messages = [{"role": "system", "content": DEFAULT_SYSTEM_PROMPT}, {"role": "user", "content": text}]
        whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(tokens.ids) == whole
