"""From the runs' files to the table: means, deviations, differences, the choice. Pure, but for reading files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reward_choice.rows import BUDGET, REFERENCE, Row

TERMS = ("positive", "negative", "consistency", "hard")
SIDES = ("reward", "query_reward")


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: The mean.
        std: Sample standard deviation (n - 1); None with fewer than two.
        n: How many seeds.
    """

    mean: float
    std: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """The spread of some values, at least one.

    Raises:
        ValueError: There is none.
    """
    if not values:
        raise ValueError("a spread needs at least one value")
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std, len(values))


@dataclass(frozen=True)
class Difference:
    """How far a row is from the reference.

    Attributes:
        mean: Of the row minus that of the reference.
        std: Standard deviation of the difference of one run of each: the root of the sum of both variances over seeds.
            What is not trained is not random and has none. None with fewer than two seeds of the row.
        in_std: The mean in units of it; None where that is None or 0.
        query_error: Standard error of the mean over queries, each query's seeds averaged and paired with the reference.
    """

    mean: float
    std: float | None
    in_std: float | None
    query_error: float


def difference(
    row: Spread, reference: Spread, row_queries: Sequence[Sequence[float]], reference_queries: Sequence[Sequence[float]]
) -> Difference:
    """See `Difference`.

    Args:
        row: The row's figure.
        reference: The reference's.
        row_queries: ``[seeds, queries]``.
        reference_queries: ``[seeds of the reference, queries]``, the same queries.

    Raises:
        ValueError: The numbers of queries differ.
    """
    own, other = np.asarray(row_queries), np.asarray(reference_queries)
    if own.shape[1] != other.shape[1]:
        raise ValueError(f"{own.shape[1]} queries cannot be paired with {other.shape[1]}")
    paired = own.mean(axis=0) - other.mean(axis=0)
    error = float(np.std(paired, ddof=1) / math.sqrt(len(paired)))
    mean = row.mean - reference.mean
    std = None if row.std is None else math.hypot(row.std, reference.std or 0.0)
    return Difference(mean, std, mean / std if std else None, error)


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
        differences: From the untrained reasoning of the same start model, nDCG@10, by split.
        perplexity_change: Relative to the start model's.
        failures: Causes, by seed.
        candidate: ``"supervised"`` or ``"unsupervised"`` where the row can be chosen as the default.
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


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The files of all runs that ended."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def lines_of(rows: Iterable[Row], contents: Sequence[Mapping[str, Any]]) -> list[Line]:
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
            _fill(line, own, done.get(f"{row.start}-{REFERENCE}", []))
        lines.append(line)
    return lines


def _fill(line: Line, own: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> None:
    line.figures = _spreads(own)
    if not reference:
        return
    start = _spreads(reference)
    line.perplexity_change = line.figures["perplexity"].mean / start["perplexity"].mean - 1
    for split in ("dev", "test"):
        name = f"{split}/ndcg@10"
        queries = [[content["figures"][split]["per_query"] for content in part] for part in (own, reference)]
        line.differences[split] = difference(line.figures[name], start[name], *queries)


def _spreads(contents: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    every = [figures_of(content) for content in contents]
    names = dict.fromkeys(name for figures in every for name in figures)
    return {name: spread([figures[name] for figures in every if name in figures]) for name in names}


def _candidate(row: Row) -> str | None:
    """Rows of one span and budget are alternatives; baselines and what is not trained are not."""
    changes = row.changes or ()
    if not row.is_trained or row.span != "text_and_rationale" or row.budget != BUDGET:
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
