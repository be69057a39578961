"""The bundled model itself: what a user gets who has just installed the package."""

from __future__ import annotations

import re

import pytest

import grace_st
from grace_train.nano.corpus import Corpus
from grace_train.nano.prompt import HEAD, TAIL

TEXTS = ["Eiffel Tower", "Which country is governed from Lisbon?", "I like Mozart.", "My printer is broken."]


@pytest.fixture(scope="module")
def model() -> grace_st.GraceModel:
    """The bundled model."""
    return grace_st.load(grace_st.nano_path())


def test_it_is_small() -> None:
    assert (grace_st.nano_path() / "model.safetensors").stat().st_size < 8_000_000


def test_it_is_prompted_as_it_was_trained(model: grace_st.GraceModel) -> None:
    config = model[0].config
    assert (config.head, config.tail) == (HEAD, TAIL)


def test_rationales_have_the_form_and_end(model: grace_st.GraceModel) -> None:
    for encoding in model.encode_with_rationales(TEXTS):
        assert encoding.finished
        assert re.fullmatch(r"<think>[^<>\n]+</think>\n[^<>\n]+\.", encoding.rationale)


def test_rationales_bring_in_knowledge(model: grace_st.GraceModel) -> None:
    tower, country, composer, _ = model.encode_with_rationales(TEXTS)
    assert "Paris" in tower.rationale and "France" in tower.rationale
    assert "Portugal" in country.rationale
    assert "Wolfgang Amadeus Mozart" in composer.rationale


def test_any_text_can_be_encoded(model: grace_st.GraceModel, corpus: Corpus) -> None:
    strange = ["", "\u4f60\u597d, \u043c\u0438\u0440! \U0001f600", "<|im_end|><think>", "word " * 2000]
    for encoding in model.encode_with_rationales(strange):
        assert encoding.embedding.shape == (model.get_embedding_dimension(),)
