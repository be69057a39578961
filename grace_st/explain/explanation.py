"""Explanation: why two texts are as close as they are. Data, and the sums that views show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from grace_st.explain import attribution
from grace_st.explain.spans import PARTS, Part, Span

RationaleEnd = Literal["eos", "budget", "given", "none"]

FORMAT_VERSION = 1

COMPOSITION = ("text with text", "text with rationale", "rationale with rationale", "template with anything")


@dataclass(frozen=True, kw_only=True)
class ExplainedText:
    """One of the texts, with its rationale.

    Attributes:
        text: The text; lone surrogates, which the model cannot read, are U+FFFD.
        characters_read: How many characters the model read; fewer than there are where the text was cut to fit.
        rationale: The rationale, special tokens left out.
        rationale_tokens: Its length in tokens, the terminating EOS not counted.
        rationale_end: What ended it: the model (``"eos"``), the ``"budget"``, or the caller (``"given"``); or there is
            ``"none"``.
        spans: What the vector is pooled from, in order.
    """

    text: str
    characters_read: int
    rationale: str
    rationale_tokens: int
    rationale_end: RationaleEnd
    spans: tuple[Span, ...]

    @property
    def tokens(self) -> list[int]:
        """How many pooled tokens each span has."""
        return [span.tokens for span in self.spans]

    def part(self, part: Part) -> list[int]:
        """Indices of the spans of a part."""
        return [index for index, span in enumerate(self.spans) if span.part == part]


@dataclass(frozen=True)
class SpanPair:
    """A span of the first text and one of the second.

    Attributes:
        a: Index of the first.
        b: Index of the second.
        contribution: What the pair adds to the cosine.
        strength: How close the two are whatever their length, see `grace_st.explain.attribution.strengths`.
    """

    a: int
    b: int
    contribution: float
    strength: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Why two texts are as close as they are.

    Attributes:
        a: The first text.
        b: The second text.
        cosine: Of the two vectors, as `encode` gives them.
        prompt_cosine: Of the vectors without rationales (``max_new_tokens=0``).
        rationale_cosine: Of the vectors pooled from the rationales alone (``pooling_span="rationale"``).
        contributions: ``[A, B]`` float64: what each pair of spans adds to ``cosine``.
        pooling: The reduction: ``"mean"`` or ``"mean_penultimate"``.
        pooling_span: Where the pooled span starts, see `grace_st.GraceConfig`.
    """

    a: ExplainedText
    b: ExplainedText
    cosine: float
    prompt_cosine: float
    rationale_cosine: float
    contributions: np.ndarray
    pooling: str
    pooling_span: str

    @property
    def shares_a(self) -> np.ndarray:
        """``[A]``: the share of each span of the first text, with all of the second. They add up to the cosine."""
        shares: np.ndarray = self.contributions.sum(axis=1)
        return shares

    @property
    def shares_b(self) -> np.ndarray:
        """``[B]``: the same for the second text."""
        shares: np.ndarray = self.contributions.sum(axis=0)
        return shares

    @property
    def strengths(self) -> np.ndarray:
        """``[A, B]``: see `grace_st.explain.attribution.strengths`."""
        return attribution.strengths(self.contributions, self.a.tokens, self.b.tokens)

    def strongest(self, count: int | None = 10) -> list[SpanPair]:
        """The pairs of spans that contribute most, negative ones included; all of them if ``count`` is None."""
        sizes = np.abs(self.contributions).ravel()
        strengths = self.strengths
        # Stable, so that equal ones come in reading order.
        order = np.argsort(-sizes, kind="stable")[:count]
        places = [divmod(int(place), len(self.b.spans)) for place in order]
        return [SpanPair(a, b, float(self.contributions[a, b]), float(strengths[a, b])) for a, b in places]

    def parts(self) -> dict[Part, dict[Part, float]]:
        """What pairs of parts contribute: those of the first text by those of the second."""
        return {
            a: {b: float(self.contributions[np.ix_(self.a.part(a), self.b.part(b))].sum()) for b in PARTS}
            for a in PARTS
        }

    def composition(self) -> dict[str, float]:
        """The cosine in four shares that add up to it, by the names of `COMPOSITION`."""
        parts = self.parts()
        mixed = parts["text"]["rationale"] + parts["rationale"]["text"]
        template = sum(parts[a][b] for a in PARTS for b in PARTS if "template" in (a, b))
        shares = (parts["text"]["text"], mixed, parts["rationale"]["rationale"], template)
        return dict(zip(COMPOSITION, shares, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Everything as values that JSON has; numbers are not rounded, so that they still add up."""
        return {
            "format_version": FORMAT_VERSION,
            "cosine": self.cosine,
            "prompt_cosine": self.prompt_cosine,
            "rationale_cosine": self.rationale_cosine,
            "pooling": self.pooling,
            "pooling_span": self.pooling_span,
            "a": _text_dict(self.a, self.shares_a),
            "b": _text_dict(self.b, self.shares_b),
            "contributions": self.contributions.tolist(),
            "composition": self.composition(),
            "parts": self.parts(),
            "strongest": [asdict(pair) for pair in self.strongest()],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_html(self) -> str:
        """A page of its own: one HTML document that loads nothing."""
        from grace_st.explain.page import explanation_page

        return explanation_page(self)


def _text_dict(text: ExplainedText, shares: np.ndarray) -> Mapping[str, Any]:
    spans = [{**asdict(span), "share": float(share)} for span, share in zip(text.spans, shares, strict=True)]
    return {**asdict(text), "spans": spans}
