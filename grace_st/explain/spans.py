"""Spans: the pieces of a prompt and its rationale that shares are told of, and the tokens that each is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from grace_st.explain.sentences import Range, sentences

Part = Literal["text", "template", "rationale"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class Span:
    """A piece of what a vector is pooled from.

    Attributes:
        part: Where it is: in the text, in the template between text and rationale, or in the rationale.
        content: Its characters. Empty where none of its tokens is shown (control tokens in a rationale).
        start: Its first character in the text or the rationale; 0 in the template.
        end: Its last character, exclusive.
        tokens: How many pooled tokens it has; at least one.
    """

    part: Part
    content: str
    start: int
    end: int
    tokens: int


def sentence_spans(part: Part, string: str, offsets: Sequence[Range]) -> list[Span]:
    """The sentences of a string with the number of tokens in each.

    Args:
        part: The part that the string is.
        string: The text, as far as tokens cover it, or the rationale.
        offsets: The character range of each token, in order; empty ranges are legal.

    Returns:
        Spans that follow one another, cover the string, and hold all tokens in their order; none where there are no
        tokens. A token that reaches over the end of a sentence belongs to the one that its first visible character is
        in, and a sentence that is left without a token joins the one before it.
    """
    if not offsets:
        return []
    ranges = sentences(string)
    counts = [0] * len(ranges)
    current = 0
    for offset in offsets:
        place = _first_visible(string, offset)
        # Never back: tokens stay in order whatever a tokenizer's normalisation does to offsets.
        while current + 1 < len(ranges) and place >= ranges[current][1]:
            current += 1
        counts[current] += 1
    spans: list[Span] = []
    start = 0
    for index, ((_, end), count) in enumerate(zip(ranges, counts, strict=True)):
        if count == 0 and spans:
            last = spans.pop()
            spans.append(Span(part, string[last.start : end], last.start, end, last.tokens))
        elif count > 0:
            spans.append(Span(part, string[start:end], start, end, count))
        elif index + 1 < len(ranges):
            continue  # joins the one behind it, as there is none before
        start = end
    return spans


def _first_visible(string: str, offset: Range) -> int:
    start, end = offset
    blank = len(string[start:end]) - len(string[start:end].lstrip())
    return start + blank if start + blank < end else start
