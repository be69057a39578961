"""stories260K as a checkpoint folder: a real pretrained model of 260 K parameters, Llama without a chat template."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast


def read_llama2c(path: Path) -> LlamaForCausalLM:
    """A llama2.c checkpoint (version 0: seven int32, then float32 weights) as a transformers model."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("7i", raw[:28])
    config = LlamaConfig(
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=abs(vocab),
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=vocab > 0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    weights = torch.frombuffer(bytearray(raw[28:]), dtype=torch.float32)
    taken = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal taken
        size = int(np.prod(shape))
        taken += size
        return weights[taken - size : taken].view(*shape)

    def rotary(matrix: torch.Tensor, count: int) -> torch.Tensor:
        # llama2.c rotates neighbouring pairs, transformers halves.
        return matrix.view(count, -1, 2, dim).transpose(1, 2).reshape(matrix.shape)

    kv_dim = dim // heads * kv_heads
    state = {"model.embed_tokens.weight": take(abs(vocab), dim)}
    parts = {
        "input_layernorm.weight": (dim,),
        "self_attn.q_proj.weight": (dim, dim),
        "self_attn.k_proj.weight": (kv_dim, dim),
        "self_attn.v_proj.weight": (kv_dim, dim),
        "self_attn.o_proj.weight": (dim, dim),
        "post_attention_layernorm.weight": (dim,),
        "mlp.gate_proj.weight": (hidden, dim),
        "mlp.down_proj.weight": (dim, hidden),
        "mlp.up_proj.weight": (hidden, dim),
    }
    for name, shape in parts.items():
        for layer, matrix in enumerate(take(layers, *shape)):
            if "q_proj" in name:
                matrix = rotary(matrix, heads)
            if "k_proj" in name:
                matrix = rotary(matrix, kv_heads)
            state[f"model.layers.{layer}.{name}"] = matrix
    state["model.norm.weight"] = take(dim)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


def save_stories260k(source: Path, folder: Path) -> None:
    """Save the model and its tokenizer; ``source`` holds ``stories260K.bin`` and ``tok512.model``."""
    read_llama2c(source / "stories260K.bin").save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes((source / "tok512.model").read_bytes())
    tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True)
    assert isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.is_fast
    tokenizer.save_pretrained(folder)
