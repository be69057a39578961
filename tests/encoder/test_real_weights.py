"""A real pretrained model (stories260K, Llama architecture, no chat template) on real sentences (STS benchmark)."""

from __future__ import annotations

import csv
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast

import grace_st
from tests.encoder import oracle

pytestmark = pytest.mark.data


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


@pytest.fixture(scope="module")
def source(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories260K")
    read_llama2c(data_dir / "stories260K" / "stories260K.bin").save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes((data_dir / "stories260K" / "tok512.model").read_bytes())
    tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True)
    assert isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.is_fast
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentences(data_dir: Path) -> list[str]:
    with (data_dir / "stsb" / "stsb-en-test.csv").open(encoding="utf-8", newline="") as lines:
        return [row[0] for row in csv.reader(lines)][:40]


def test_it_speaks(source: Path) -> None:
    """The weights are read rightly: the model tells a story rather than noise."""
    model = LlamaForCausalLM.from_pretrained(source)
    tokenizer = LlamaTokenizer.from_pretrained(source)
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    out = tokenizer.decode(model.generate(ids, max_new_tokens=40, do_sample=False)[0], skip_special_tokens=True)
    assert out.startswith("Once upon a time, there was a little girl")


def test_convert_and_encode(source: Path, sentences: list[str], tmp_path: Path) -> None:
    result = grace_st.convert(
        source, tmp_path / "stories", system_prompt=None, pad_token="<unk>", max_seq_length=128, max_new_tokens=32
    )
    assert result.config.template == "plain"
    assert result.config.head == "<s>"
    model = grace_st.load(result.path, device="cpu")
    encodings = model.encode_with_rationales(sentences)
    module = model[0]
    prompts = module.prompts_of(sentences)
    expected = oracle.greedy(module.model, prompts, 32, result.config.eos_token_ids)
    for prompt, encoding, (ids, _) in zip(prompts, encodings, expected, strict=True):
        assert encoding.rationale_ids == ids
        reference = oracle.vector(module.model, [*prompt.ids, *ids], prompt.pool_start, "mean")
        np.testing.assert_allclose(encoding.embedding, reference.numpy(), atol=1e-5)
    words = " ".join(encoding.rationale for encoding in encodings).split()
    assert {"the", "was", "to", "and"} <= set(words)  # English, from real weights
