"""From the runs' files to the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.pages import figure, header, row
from harness.spread import Difference, Spread, difference, spread
from real_text.rows import Row, Settings

COLUMNS = {
    "dev/ndcg@10": "MedQuAD dev nDCG@10",
    "test/ndcg@10": "test nDCG@10",
    "snips": "SNIPS",
    "banking77": "Banking77",
    "stsb": "STSB",
    "test/unrelated_similarity": "similarity",
    "length": "length",
    "eos_rate": "EOS rate",
    "subject": "subject",
    "question": "question",
}
_NEWER = ("subject", "question")  # not in the first records
_NOTE = (
    "Mean and standard deviation over seeds. *Gain*: test nDCG@10 minus that of the untrained model read the same way "
    "(with its rationales of the same budget, or from the prompt alone); *in sd*: in standard deviations of that "
    "difference over seeds; *query se*: its standard error over queries. SNIPS and Banking77: accuracy of a logistic "
    "regression on a few texts of each class; STSB: Spearman's correlation; over texts their standard errors are about "
    ".02, .03 and .05. *Similarity*: mean cosine of unrelated texts. *Subject*, *question*: share of the documents' "
    "rationales that hold the right disease's name, and that say which question the document answers, of the first "
    "seed. *Perplexity*: of held-out text, change against the start model."
)


@dataclass
class Line:
    """A row with its figures.

    Attributes:
        name, label, planned: Of the row; how many seeds it asks for.
        figures: Spread over seeds, by name.
        gain: Of test nDCG@10; None for what it is measured from.
        perplexity_change: Relative to the start model's.
        failures: Causes, by seed.
    """

    name: str
    label: str
    planned: int
    figures: dict[str, Spread] = field(default_factory=dict)
    gain: Difference | None = None
    perplexity_change: float | None = None
    failures: dict[int, str] = field(default_factory=dict)


def lines_of(rows: Sequence[Row], contents: Sequence[Mapping[str, Any]]) -> list[Line]:
    """A line for each row that has a run."""
    done = {
        item.name: [one for one in contents if one["row"] == item.name and one["status"] == "done"] for item in rows
    }
    lines = []
    for item in rows:
        failures = {one["seed"]: one["cause"] for one in contents if one["row"] == item.name and "cause" in one}
        own = done[item.name]
        if not own and not failures:
            continue
        line = Line(item.name, item.label, item.seeds, _spreads(own), failures=failures)
        untrained = next((other for other in rows if other.changes is None and other.reading == item.reading), None)
        reference = done[untrained.name] if untrained is not None else []
        if own and reference:
            _compare(line, item, own, reference)
        lines.append(line)
    return lines


def _compare(line: Line, item: Row, own: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> None:
    start = _spreads(reference)
    line.perplexity_change = line.figures["perplexity"].mean / start["perplexity"].mean - 1
    if item.changes is not None:
        queries = [[one["figures"]["test"]["per_query"] for one in part] for part in (own, reference)]
        line.gain = difference(line.figures["test/ndcg@10"], start["test/ndcg@10"], *queries)


def _spreads(contents: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    every = [_figures(content["figures"]) for content in contents]
    names = dict.fromkeys(name for figures in every for name in figures)
    return {name: spread([figures[name] for figures in every if name in figures]) for name in names}


def _figures(figures: Mapping[str, Any]) -> dict[str, float]:
    found = {name: figures[name] for name in ("snips", "banking77", "stsb", "perplexity", "length", "eos_rate")}
    found |= {name: figures.get(name) for name in _NEWER}
    for split in ("dev", "test"):
        found |= {f"{split}/{name}": figures[split][name] for name in ("ndcg@10", "unrelated_similarity")}
    return {name: value for name, value in found.items() if value is not None}


def as_json(lines: Sequence[Line], settings: Settings, model: Mapping[str, Any]) -> dict[str, Any]:
    """What ``results.json`` holds."""
    return {"settings": asdict(settings), "model": dict(model), "rows": [asdict(line) for line in lines]}


def page(lines: Sequence[Line]) -> str:
    """The table as Markdown."""
    names = ("row", "seeds", *COLUMNS.values(), "perplexity", "gain", "in sd", "query se")
    rows = [_cells(line) for line in lines if line.figures]
    parts = [_NOTE, "\n".join([header(names), *rows])]
    failures = [f"- {line.name}, seed {seed}: {cause}" for line in lines for seed, cause in line.failures.items()]
    if failures:
        parts.append("Runs that failed:\n\n" + "\n".join(failures))
    return "\n\n".join(parts) + "\n"


def _cells(line: Line) -> str:
    gain = line.gain
    return row(
        line.label,
        f"{line.figures['test/ndcg@10'].n} of {line.planned}",
        *(figure(line.figures[name], 1 if name == "length" else 3) if name in line.figures else "" for name in COLUMNS),
        "" if line.perplexity_change is None else f"{line.perplexity_change:+.1%}",
        "" if gain is None else f"{gain.mean:+.3f}",
        "" if gain is None or gain.in_std is None else f"{gain.in_std:+.1f}",
        "" if gain is None else f"{gain.query_error:.3f}",
    )
