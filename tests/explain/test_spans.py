"""Sentences, and the tokens that are in them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_st.explain.sentences import sentences
from grace_st.explain.spans import sentence_spans

WIDE_MARK = "\N{FULLWIDTH EXCLAMATION MARK}"
PIECES = st.lists(
    st.sampled_from([*"ab .!?\n\t'\")1é日。🙂", WIDE_MARK, "e.g. ", "...", "</think>", "\r\n"]), max_size=40
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("   ", ["   "]),
        ("one", ["one"]),
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ('He said "no." Then he left.', ['He said "no." ', "Then he left."]),
        ("It has 3.5 m, e.g. this one. J. Smith said so.", ["It has 3.5 m, e.g. this one. ", "J. Smith said so."]),
        ("1. The tower\n2. The river", ["1. The tower\n", "2. The river"]),
        ("東京は首都です。富士山があります。", ["東京は首都です。", "富士山があります。"]),
        ("line one\n\n  line two", ["line one\n\n  ", "line two"]),
        ("<think>It is so.</think>\nAbout France.", ["<think>It is so.</think>\n", "About France."]),
        ("Well ... !!! \n ---\nso", ["Well ... !!! \n ---\n", "so"]),
        ("---\nso", ["---\nso"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@pytest.mark.parametrize("run", [" ", ".", "\n", '."', "。", "a. "])
def test_long_runs_take_no_time(run: str) -> None:
    started = time.perf_counter()
    sentences(run * 50_000)
    assert time.perf_counter() - started < 5  # quadratic time would be minutes


@settings(max_examples=200, deadline=None)
@given(PIECES, st.data())
def test_spans_cover_the_text_and_hold_every_token(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    offsets = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
    spans = sentence_spans("text", text, offsets)
    assert "".join(span.content for span in spans) == text
    assert [span.content for span in spans] == [text[span.start : span.end] for span in spans]
    assert sum(span.tokens for span in spans) == len(offsets)
    assert all(span.tokens >= 1 for span in spans)


def test_a_token_that_begins_with_white_space_belongs_to_the_word_behind_it() -> None:
    text = "One. Two."
    (one, two) = sentence_spans("text", text, [(0, 3), (3, 4), (4, 8), (8, 9)])
    assert (one.content, one.tokens, two.content, two.tokens) == ("One. ", 2, "Two.", 2)


def test_a_sentence_without_a_token_of_its_own_joins_its_neighbour() -> None:
    (both,) = sentence_spans("rationale", "A1. B2.", [(0, 7)])
    assert (both.content, both.tokens, both.start, both.end) == ("A1. B2.", 1, 0, 7)
    (behind,) = sentence_spans("rationale", "A1. B2.", [(4, 7)])
    assert (behind.content, behind.start) == ("A1. B2.", 0)


def test_no_tokens_no_spans_and_tokens_that_are_not_shown() -> None:
    assert sentence_spans("text", "", []) == []
    (hidden,) = sentence_spans("rationale", "", [(0, 0), (0, 0)])
    assert (hidden.content, hidden.tokens) == ("", 2)
