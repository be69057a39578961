"""From the runs' files to the table: means, deviations, differences, the choice. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.spread import Difference, Spread, difference, spread
from reward_choice.rows import BUDGET, REFERENCE, Row

TERMS = ("positive", "negative", "consistency", "hard")
SIDES = ("reward", "query_reward")


# -------------------------------------------------------------------- one run


def figures_of(content: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a run's file by their names in the table; what it has not is left out."""
    figures, log = content["figures"], content["training"] or {}
    found: dict[str, float | None] = {
        "perplexity": figures["perplexity"],
        "distinct": figures.get("distinct"),
        "training seconds": content["seconds"]["training"],
        "measuring seconds": content["seconds"]["measuring"],
    }
    for split in ("dev", "test"):
        names = ("ndcg@10", "recall@1", "unrelated_similarity", "swapped_ndcg@10", "right_name")
        found |= {f"{split}/{name}": figures[split].get(name) for name in names}
        if "with_rationales" in figures:
            found[f"{split}/with_rationales"] = figures["with_rationales"][split]["ndcg@10"]
    told = figures["rationales"] or figures.get("with_rationales", {}).get("rationales") or {}
    found |= {name: told.get(name) for name in ("length", "eos_rate", "attributes", "repeated")}
    for side in SIDES:
        for term in (*TERMS, "total"):
            values = log.get(f"{side}/{term}_std")
            if values is not None:
                found |= {f"std/{side}/{term}/{when}": values[when] for when in ("first", "mean")}
    return {name: value for name, value in found.items() if value is not None}


# -------------------------------------------------------------------- the whole


@dataclass
class Line:
    """A row with its figures.

    Attributes:
        key, label, section, start, planned: Of the row; how many seeds it asks for.
        figures: Spread over seeds, by name.
        differences: From the untrained start model that is read the same way (span, budget), nDCG@10, by split.
        perplexity_change: Relative to the start model's; None where texts stand in another prompt.
        failures: Causes, by seed.
        candidate: ``"supervised"``, ``"unsupervised"`` or ``"baseline"`` where the best of these can be chosen.
    """

    key: str
    label: str
    section: str
    start: str
    planned: int
    figures: dict[str, Spread] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    perplexity_change: float | None = None
    failures: dict[int, str] = field(default_factory=dict)
    candidate: str | None = None


def lines_of(rows: Sequence[Row], contents: Sequence[Mapping[str, Any]]) -> list[Line]:
    """A line for each row that has a run, in the order of the rows."""
    done: dict[str, list[Mapping[str, Any]]] = {}
    failed: dict[str, dict[int, str]] = {}
    for content in contents:
        key = f"{content['start']}-{content['row']}"
        if content["status"] == "done":
            done.setdefault(key, []).append(content)
        else:
            failed.setdefault(key, {})[content["seed"]] = content["cause"]
    lines = []
    for row in rows:
        own = done.get(row.key, [])
        if not own and row.key not in failed:
            continue
        line = Line(row.key, row.label, row.section, row.start, row.seeds, failures=failed.get(row.key, {}))
        line.candidate = _candidate(row)
        if own:
            line.figures = _spreads(own)
            untrained = done.get(f"{row.start}-{REFERENCE}", [])
            if untrained and row.system_prompt:
                start = _spreads(untrained)["perplexity"].mean
                line.perplexity_change = line.figures["perplexity"].mean / start - 1
            same = [other.key for other in rows if not other.is_trained and other.reading == row.reading]
            if row.is_trained and same and same[0] in done:
                _compare(line, own, done[same[0]])
        lines.append(line)
    return lines


def _compare(line: Line, own: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> None:
    start = _spreads(reference)
    for split in ("dev", "test"):
        name = f"{split}/ndcg@10"
        queries = [[content["figures"][split]["per_query"] for content in part] for part in (own, reference)]
        line.differences[split] = difference(line.figures[name], start[name], *queries)


def _spreads(contents: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    every = [figures_of(content) for content in contents]
    names = dict.fromkeys(name for figures in every for name in figures)
    return {name: spread([figures[name] for figures in every if name in figures]) for name in names}


def _candidate(row: Row) -> str | None:
    """Rows of one span and budget are alternatives; what is not trained, or costs more, is not."""
    changes = row.changes or ()
    if not row.is_trained or not row.is_option or row.span != "text_and_rationale":
        return None
    if any(change.startswith("method=") for change in changes):
        return "baseline"
    if row.budget != BUDGET:
        return None
    return "unsupervised" if "mode=unsupervised" in changes else "supervised"


def choices(lines: Sequence[Line]) -> dict[str, str]:
    """The best row on dev, of those with all their seeds, by start model and mode: ``"vague supervised"``."""
    best: dict[str, Line] = {}
    for line in lines:
        score = line.figures.get("dev/ndcg@10")
        if line.candidate is None or score is None or score.n < line.planned:
            continue
        kind = f"{line.start} {line.candidate}"
        if kind not in best or score.mean > best[kind].figures["dev/ndcg@10"].mean:
            best[kind] = line
    return {kind: line.key for kind, line in best.items()}


def as_json(lines: Sequence[Line], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``results.json`` holds."""
    return {"settings": dict(settings), "rows": [asdict(line) for line in lines], "chosen_on_dev": choices(lines)}
