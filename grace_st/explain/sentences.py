"""Sentences of a text, as character ranges that cover it. Knows nothing about tokens.

Where a sentence ends only decides how shares are grouped: they add up wherever it is. So these are a few rules in the
spirit of Unicode's UAX #29, and no dependency on a segmenter with lists of abbreviations.
"""

from __future__ import annotations

import re
from itertools import pairwise

Range = tuple[int, int]
"""First and last character (exclusive)."""

# Full stop, exclamation and question marks, ellipsis, Arabic question mark, danda.
_MARKS = ".!?\N{HORIZONTAL ELLIPSIS}\N{ARABIC QUESTION MARK}\N{DEVANAGARI DANDA}"
_CLOSERS = "\"'\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}»)\\]"
# Those of Chinese and Japanese, which no white space follows.
_WIDE_MARKS = "\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH EXCLAMATION MARK}\N{FULLWIDTH QUESTION MARK}"
_WIDE_CLOSERS = _CLOSERS + "\N{RIGHT CORNER BRACKET}\N{RIGHT WHITE CORNER BRACKET}\N{FULLWIDTH RIGHT PARENTHESIS}"

# A line break ends a sentence, and so do marks with what closes quotes and brackets behind them. Possessive, and only
# from the first mark of a run, so that long runs of marks take linear time.
_END = re.compile(
    rf"\n\s*+|(?<![{_MARKS}])[{_MARKS}]++[{_CLOSERS}]*+\s++|(?<![{_WIDE_MARKS}])[{_WIDE_MARKS}]++[{_WIDE_CLOSERS}]*+\s*+"
)
_WORD = re.compile(r"\w")


def sentences(text: str) -> list[Range]:
    """Split a text.

    A full stop ends nothing before a small letter, after a single letter ("e.g. this", "J. Smith") and after the number
    of a list item; pieces without a letter or digit belong to the sentence before them, white space to the one that it
    follows.

    Args:
        text: Any string.

    Returns:
        Ranges that follow one another and together cover the text; one empty range for an empty text.
    """
    ends = [match.end() for match in _END.finditer(text) if _ends_here(text, match)]
    ranges = [(start, end) for start, end in pairwise([0, *ends, len(text)]) if start < end]
    kept: list[Range] = []
    for start, end in ranges:
        if kept and not _WORD.search(text, start, end):
            kept[-1] = (kept[-1][0], end)
        else:
            kept.append((start, end))
    if len(kept) > 1 and not _WORD.search(text, *kept[0]):
        kept[:2] = [(0, kept[1][1])]
    return kept or [(0, 0)]


def _ends_here(text: str, match: re.Match[str]) -> bool:
    mark = match.group()
    if not mark.startswith(".") or "\n" in mark:
        return True
    before = text[max(0, match.start() - 2) : match.start()]
    is_initial = before[-1:].isalpha() and not before[:-1].isalnum()
    is_list_number = text[text.rfind("\n", 0, match.start()) + 1 : match.start()].strip().isdigit()
    is_inside = text[match.end() : match.end() + 1].islower()
    return not (is_initial or is_list_number or is_inside)
