"""A real pretrained model (stories260K, Llama architecture, no chat template) on real sentences (STS benchmark)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM, LlamaTokenizer

import grace_st
from tests.encoder import oracle
from tests.llama2c import save_stories260k

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def source(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories260K")
    save_stories260k(data_dir / "stories260K", folder)
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
