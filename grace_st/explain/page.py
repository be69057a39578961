"""HTML pages of explanations: one document each, which loads nothing and runs no script but its own.

What is shown goes through a template that escapes everything. The page's policy (CSP) lets nothing be loaded and only
the script with the right hash run, so that a text could not do anything even if it got through as markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from grace_st import __version__
from grace_st.explain.explanation import ExplainedText, Explanation
from grace_st.explain.ranking import RankingExplanation
from grace_st.explain.spans import Part
from grace_st.surrogates import encodable

PART_TITLES: Mapping[Part, str] = {
    "text": "Text",
    "template": "Template between text and rationale",
    "rationale": "Rationale, written by the model",
}
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127) if chr(code) not in "\t\n\r"}


def explanation_page(explanation: Explanation) -> str:
    """The page of two texts."""
    return _render("explanation.html.jinja", pair=_pair(explanation, "p", ("Text A", "A"), ("Text B", "B")))


def ranking_page(ranking: RankingExplanation) -> str:
    """The page of a query and the documents that come first."""
    shares = ranking.query_shares()
    largest = _largest(shares)
    documents = []
    for document, row in zip(ranking.documents, shares, strict=True):
        pair = _pair(document.explanation, f"d{document.rank}", ("Query", "Q"), (f"Document {document.rank}", "D"))
        documents.append(
            {
                "rank": document.rank,
                "prompt_rank": document.prompt_rank,
                "id": encodable(str(document.id)),
                "text": document.explanation.b.text,
                "cosine": document.explanation.cosine,
                "cells": [_cell(value, largest) for value in row],
                "pair": pair,
            }
        )
    differences = shares[:1] - shares[1:]
    leads = [
        {
            "rank": rank,
            "total": float(row.sum()),
            "cells": [_cell(value, _largest(differences)) for value in row],
        }
        for rank, row in enumerate(differences, start=2)
    ]
    query: dict[str, Any] = _side(ranking.query, shares[0], "Query", "Q")
    best = int(differences[0].argmax()) if len(leads) else 0
    return _render(
        "ranking.html.jinja",
        query=query,
        documents=documents,
        leads=leads,
        best={"span": query["spans"][best], "value": float(differences[0, best]) if leads else 0.0},
        count=ranking.count,
    )


def _pair(explanation: Explanation, prefix: str, a: tuple[str, str], b: tuple[str, str]) -> dict[str, Any]:
    sides = [_side(explanation.a, explanation.shares_a, *a), _side(explanation.b, explanation.shares_b, *b)]
    strengths, contributions = explanation.strengths, explanation.contributions
    largest = _largest(contributions)
    cosines = {
        "with the rationales": explanation.cosine,
        "without them": explanation.prompt_cosine,
        "the rationales alone": explanation.rationale_cosine,
    }
    composition: list[dict[str, Any]] = [
        {"name": name, "bar": _bar(value, _largest(list(explanation.composition().values())))}
        for name, value in explanation.composition().items()
    ]
    return {
        "prefix": prefix,
        "sides": sides,
        "cosine": explanation.cosine,
        "change": explanation.cosine - explanation.prompt_cosine,
        "cosines": [{"name": name, "bar": _bar(value, 1.0)} for name, value in cosines.items()],
        "composition": composition,
        "largest_part": max(composition, key=lambda row: row["bar"]["value"] * np.sign(explanation.cosine)),
        "has_rationales": bool(explanation.a.rationale_tokens or explanation.b.rationale_tokens),
        "matrix": [
            [
                {**_cell(value, largest), "strength": float(strength)}
                for value, strength in zip(values, strengths_of_row, strict=True)
            ]
            for values, strengths_of_row in zip(contributions, strengths, strict=True)
        ],
        "strongest": [
            {
                "a": sides[0]["spans"][pair.a],
                "b": sides[1]["spans"][pair.b],
                "strength": pair.strength,
                **_cell(pair.contribution, largest),
            }
            for pair in explanation.strongest()
        ],
        "pooling": explanation.pooling,
        "pooling_span": explanation.pooling_span,
    }


def _side(text: ExplainedText, shares: np.ndarray, title: str, letter: str) -> dict[str, Any]:
    largest = _largest(shares)
    pooled = sum(text.tokens)
    spans = [
        {
            "index": index,
            "name": f"{letter}{index + 1}",
            "part": span.part,
            "content": _shown(span.content),
            "tokens": span.tokens,
            "strength": float(share) * pooled / span.tokens,
            **_cell(float(share), largest),
        }
        for index, (span, share) in enumerate(zip(text.spans, shares, strict=True))
    ]
    return {
        "title": title,
        "letter": letter,
        "spans": spans,
        "groups": [
            {"part": part, "title": part_title, "spans": [span for span in spans if span["part"] == part]}
            for part, part_title in PART_TITLES.items()
        ],
        "text": text.text,
        "rationale_end": text.rationale_end,
        "rationale_tokens": text.rationale_tokens,
        "unread": text.text[text.characters_read :],
    }


def _shown(content: str) -> str:
    return content.strip() or ("(white space)" if content else "(control tokens)")


def _cell(value: float, largest: float) -> dict[str, Any]:
    """A value and how strongly it is coloured, from 0 to 1."""
    return {"value": float(value), "weight": abs(float(value)) / largest}


def _bar(value: float, largest: float) -> dict[str, Any]:
    return {"value": value, "weight": min(abs(value) / largest, 1.0)}


def _largest(values: np.ndarray | Sequence[float]) -> float:
    """The largest size, as a divisor."""
    return float(np.abs(np.asarray(values)).max(initial=0)) or 1.0


# ------------------------------------------------------------------ rendering


def _render(template: str, **values: Any) -> str:
    script = _read("explain.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            style=_read("explain.css"),
            script=script,
            script_hash=f"sha256-{digest}",
            version=__version__,
            **values,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["signed"] = _signed
    environment.filters["clean"] = _clean
    return environment


@cache
def _read(name: str) -> str:
    return files("grace_st").joinpath("templates", "explain", name).read_text(encoding="utf-8")


def _number(value: float) -> str:
    """Three decimals, with a real minus sign, and no minus before zero."""
    return f"{value:.3f}".replace("-0.000", "0.000").replace("-", "\N{MINUS SIGN}")


def _signed(value: float) -> str:
    text = _number(value)
    return text if text.startswith("\N{MINUS SIGN}") or text == "0.000" else f"+{text}"


def _clean(text: str) -> str:
    """Text as HTML can hold it: control characters are shown as U+FFFD."""
    return text.translate(_CONTROL)
