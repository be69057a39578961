"""Real tokenizers: SentencePiece with a pretrained model (stories260K, Llama, no chat template), and Qwen2's."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

import grace_st
from grace_st.explain.spans import sentence_spans
from grace_st.prompt import RepresentationPrompt
from tests.llama2c import save_stories260k

pytestmark = pytest.mark.data

TEXTS = ("Lily went to the park. She saw a big dog! 🙂 日本", "  Tom had a red car.\n\nHe liked to play with it.")


def test_sentences_and_shares(data_dir: Path, tmp_path: Path) -> None:
    save_stories260k(data_dir / "stories260K", tmp_path / "source")
    limits = {"max_seq_length": 128, "max_new_tokens": 40}
    grace_st.convert(tmp_path / "source", tmp_path / "grace", system_prompt=None, pad_token="<unk>", **limits)
    model = grace_st.load(tmp_path / "grace", device="cpu")
    explanation = model.explain(*TEXTS)
    vectors = model.encode(list(TEXTS))
    assert explanation.cosine == pytest.approx(model.similarity(vectors[:1], vectors[1:]).item(), abs=1e-5)
    assert explanation.contributions.sum() == pytest.approx(explanation.cosine, abs=1e-6)
    for explained, sentences in (
        (explanation.a, ["Lily went to the park. ", "She saw a big dog! ", "🙂 日本"]),
        (explanation.b, ["  Tom had a red car.\n\n", "He liked to play with it."]),
    ):
        assert [span.content for span in explained.spans if span.part == "text"] == sentences
        rationale = [span.content for span in explained.spans if span.part == "rationale"]
        assert "".join(rationale) == explained.rationale
        assert len(rationale) > 1
    module = model[0]
    assert isinstance(module, grace_st.GenerateThenPool)
    (prompt,) = module.prompts_of(TEXTS[:1])
    tail = len(module.prompt.tail_ids)
    pieces = [TEXTS[0][start:end] for start, end in module.prompt.text_offsets(TEXTS[0])]
    spelled = model.tokenizer.convert_ids_to_tokens(list(prompt.ids[prompt.pool_start : len(prompt.ids) - tail]))
    for piece, token in zip(pieces, spelled, strict=True):
        assert token.startswith("<0x") or piece.strip() == token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip()


def test_a_tokenizer_that_composes_characters(data_dir: Path) -> None:
    """Qwen2's normalises to NFC: an e with an accent of its own becomes one character."""
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "qwen2_tokenizer")
    prompt = RepresentationPrompt(tokenizer, "<|im_start|>", "<|im_end|>", {tokenizer.eos_token_id})
    text = "Un cafe\N{COMBINING ACUTE ACCENT} noir. Oui! 🙂 日本"
    (tokens,) = prompt.tokenize([text], max_seq_length=100)
    ids = tokens.ids[tokens.pool_start : -len(prompt.tail_ids)]
    offsets = prompt.text_offsets(text)
    assert len(offsets) == len(ids)
    # tokenizers gives a composed character the range of its first one.
    assert {place for start, end in offsets for place in range(start, end)} == set(range(len(text))) - {7}
    spans = sentence_spans("text", text, offsets)
    assert [span.content for span in spans] == ["Un cafe\N{COMBINING ACUTE ACCENT} noir. ", "Oui! ", "🙂 日本"]
    assert spans[0].tokens == len(tokenizer("Un cafe\N{COMBINING ACUTE ACCENT} noir.").input_ids)
    assert spans[1].tokens == len(tokenizer(" Oui!").input_ids)
