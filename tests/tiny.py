"""Builders of tiny random causal LMs with real tokenizers and chat templates."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

TEXTS = [
    "The Eiffel Tower at night",
    "A walk through the gardens of Paris in early spring, past the river and the old book stalls.",
    "cats",
    "",
    "Quantum computers use qubits; they are not yet useful.",
    "Wie spät ist es? 日本語のテキスト 🙂",
    "line one\nline two\n\n    indented",
    "the the the the the the the the the the the the the the the the",
    "Which country is governed from Lisbon?",
    "x = [i ** 2 for i in range(10)]  # squares",
]

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Like Qwen3's: can switch thinking off in the generation prompt.
    "thinking": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    # Like Llama 3.2's: prints today's date, trims contents, has a BOS.
    "dated": (
        "{{- bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "<|im_start|>system\nToday Date: {{ date_string }}\n\n"
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}"
        "{% set messages = messages[1:] %}{% endif %}<|im_end|>\n"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Like Gemma's: refuses a system role.
    "no_system": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    # Drops the system message without a word.
    "drops_system": (
        "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    ),
    "none": None,
}

_CORPUS = [
    *TEXTS,
    "Read and analyze the following text, then you need to provide your reasoning within <think></think> tags. "
    "Finally, generate a comprehensive understanding of this text.",
    "system user assistant model covid19",
] * 3


@cache
def _backend(vocab_size: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    # Not special, like Qwen3's; and a word that a user has added.
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer.add_tokens([AddedToken("covid19", special=False)])
    return tokenizer.to_str()


def tokenizer(template: str = "chatml", **overrides: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template."""
    turn_end = "<end_of_turn>" if template == "no_system" else "<|im_end|>"
    options: dict[str, Any] = {
        "eos_token": turn_end,
        "pad_token": "<|endoftext|>",
        "bos_token": "<bos>" if template in ("dated", "no_system") else None,
        "model_max_length": 4096,
        **overrides,
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(400)),
        **{name: value for name, value in options.items() if value is not None},
    )
    made.chat_template = TEMPLATES[template]
    return made


_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}

_OPTIONS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "llama": {"tie_word_embeddings": False},
    # Windows shorter than the prompts, so that a wrong window shows.
    "mistral": {"sliding_window": 24},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 24, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "phi3": {"sliding_window": 24},
    # Half of the layers keep a convolution state instead of keys and values: cannot be re-packed.
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 64},
}

STANDARD = ("qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3_text", "phi3")


def model(architecture: str, vocab_size: int, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A tiny random causal LM in float32."""
    torch.manual_seed(seed)
    options = {**_SIZES, **_OPTIONS[architecture], "vocab_size": vocab_size, **overrides}
    options |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = CONFIG_MAPPING[architecture](**options)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            # Random norm weights, so that states before and after the final norm differ.
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def save_checkpoint(folder: Path, architecture: str = "qwen2", template: str = "chatml", **overrides: Any) -> None:
    """Save a tiny model and its tokenizer as a checkpoint folder."""
    made_tokenizer = tokenizer(template)
    made = model(architecture, len(made_tokenizer), **overrides)
    made.generation_config = GenerationConfig(eos_token_id=made_tokenizer.eos_token_id, do_sample=True, temperature=0.6)
    made.save_pretrained(folder)
    made_tokenizer.save_pretrained(folder)
