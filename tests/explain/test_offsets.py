"""Which characters a token is: of texts, and of rationales that are decoded."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import grace_st
from grace_st.prompt import RepresentationPrompt
from grace_st.surrogates import encodable
from tests import tiny

TEXT = st.text(max_size=20) | st.lists(st.sampled_from(["<|im_end|>", "<think>", "🙂", " é", "日本"]), max_size=8).map(
    "".join
)


@cache
def _prompt() -> RepresentationPrompt:
    tokenizer = tiny.tokenizer()
    return RepresentationPrompt(tokenizer, "<|im_start|>user\n", "<|im_end|>\n", {tokenizer.eos_token_id})


@settings(max_examples=100, deadline=None)
@given(TEXT)
def test_offsets_of_a_text_belong_to_its_tokens(text: str) -> None:
    prompt = _prompt()
    (tokens,) = prompt.tokenize([text], max_seq_length=1000)
    ids = tokens.ids[tokens.pool_start : -len(prompt.tail_ids)]
    offsets = prompt.text_offsets(text)
    shown = encodable(text)
    assert len(offsets) == len(ids)
    assert offsets == sorted(offsets)
    for token_id, (start, end) in zip(ids, offsets, strict=True):
        decoded = prompt.tokenizer.decode([token_id], skip_special_tokens=False)
        # A part of a character does not decode; the character is its range.
        assert decoded == shown[start:end] or "\N{REPLACEMENT CHARACTER}" in decoded
    assert {place for start, end in offsets for place in range(start, end)} == set(range(len(shown)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=25))
def test_offsets_of_any_rationale_cover_what_is_shown(ids: list[int]) -> None:
    prompt = _prompt()
    offsets = prompt.rationale_offsets(ids)
    assert len(offsets) == len(ids)
    place = 0
    for start, end in offsets:
        assert start == place <= end
        place = end
    assert place == (len(prompt.decode(ids)) if ids else 0)


def test_characters_of_several_tokens_come_with_their_last_one() -> None:
    prompt = _prompt()
    ids = prompt.rationale_ids("a🙂b")
    assert len(ids) == 6
    assert prompt.rationale_offsets(ids) == [(0, 1), (1, 1), (1, 1), (1, 1), (1, 2), (2, 3)]
    (end,) = prompt.tokenizer.convert_tokens_to_ids(["<|im_start|>"])
    assert prompt.rationale_offsets([*ids[:1], end, *ids[-1:]]) == [(0, 1), (1, 1), (1, 2)]


def test_a_text_that_is_tokenised_in_parts() -> None:
    """A vocabulary can build "<s>" from "<s" and ">": such a text is cut."""
    vocabulary = {token: place for place, token in enumerate(["<", "s", ">", "a", "<s", "<s>", "</s>", "<pad>"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("<", "s"), ("<s", ">")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    prompt = RepresentationPrompt(tokenizer, "a", "a", {tokenizer.eos_token_id})
    (tokens,) = prompt.tokenize(["a<s>a<s>"], max_seq_length=100)
    offsets = prompt.text_offsets("a<s>a<s>")
    spelled = tokenizer.convert_ids_to_tokens(list(tokens.ids[1:-1]))
    assert ["a<s>a<s>"[start:end] for start, end in offsets] == spelled
    assert len(spelled) > 4


@pytest.mark.parametrize("text", ["This points to Norway.", "日本 🙂", " two  spaces\n\n and a break"])
def test_the_bundled_model_s_tokens_spell_the_text(text: str) -> None:
    module = grace_st.load(grace_st.nano_path())[0]
    assert isinstance(module, grace_st.GenerateThenPool)
    ids = module.prompt.rationale_ids(text)
    pieces = [text[start:end] for start, end in module.prompt.rationale_offsets(ids)]
    assert "".join(pieces) == text
    for token_id, piece in zip(ids, pieces, strict=True):
        assert piece in ("", module.prompt.decode([token_id])) or not piece.isascii()
