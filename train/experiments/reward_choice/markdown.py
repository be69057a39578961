"""The table as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.pages import figure, header, row
from reward_choice.rows import HEADLINE, SECTIONS
from reward_choice.table import TERMS, Line, choices

STARTS = {"vague": "start model with vague rationales in its corpus", "plain": "start model without"}
_NOTE = (
    "Mean and standard deviation over seeds; dev chooses, test reports. *Gain*: test nDCG@10 minus that of the "
    "untrained model read the same way (prompt alone, rationale alone, budget); *in sd*: in standard deviations of "
    "that difference over seeds; *query se*: its standard error over queries. *Swapped*: nDCG@10 with another query's "
    "rationales. *Similarity*: mean cosine of unrelated texts."
)
_BEHAVIOUR_NOTE = (
    "Greedy rationales of the held-out texts. *Distinct*: share of different ones among 8 that are sampled. *Name*: "
    "share of test queries whose rationale holds the right name; *attributes*: right ones in a rationale; *repeated*: "
    "share of rationales that state one twice. *Perplexity*: of plain text, change against the start model. Baselines "
    "that pool the prompt have nDCG@10 *with rationales* as well."
)


def page(lines: Sequence[Line]) -> str:
    """All tables."""
    parts = [_choice(lines), "### Retrieval", _NOTE, *_tables(lines, _retrieval_header(), _retrieval)]
    parts += ["### Rationales and the backbone", _BEHAVIOUR_NOTE, *_tables(lines, _behaviour_header(), _behaviour)]
    failures = [f"- {line.key}, seed {seed}: {cause}" for line in lines for seed, cause in line.failures.items()]
    if failures:
        parts += ["### Runs that failed", "\n".join(failures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _choice(lines: Sequence[Line]) -> str:
    by_key = {line.key: line for line in lines}
    told = []
    for kind, key in choices(lines).items():
        line = by_key[key]
        gain = line.differences.get("test")
        far = "" if gain is None else f", {gain.mean:+.3f} against the untrained model"
        if gain is not None and gain.in_std is not None:
            far += f" ({gain.in_std:+.1f} sd)"
        test = figure(line.figures["test/ndcg@10"])
        told.append(f"- {kind}: {line.label}, test nDCG@10 {test}{far}")
    return "Best on dev:\n\n" + "\n".join(told) if told else ""


def _tables(lines: Sequence[Line], header: str, show: Callable[[Line], str]) -> list[str]:
    tables = []
    for section in SECTIONS:
        for start, meaning in STARTS.items():
            chosen = [line for line in lines if (line.section, line.start) == (section, start) and line.figures]
            if chosen:
                rows = [show(line) for line in chosen]
                tables.append(f"**{section}**, {meaning}:\n\n{header}\n" + "\n".join(rows))
    return tables


def _retrieval_header() -> str:
    names = ("row", "seeds", "dev nDCG@10", "test nDCG@10", "gain", "in sd", "query se")
    return header((*names, "test recall@1", "swapped", "similarity"))


def _retrieval(line: Line) -> str:
    gain = line.differences.get("test")
    return row(
        line.label,
        f"{line.figures['test/ndcg@10'].n} of {line.planned}",
        _cell(line, "dev/ndcg@10"),
        _cell(line, "test/ndcg@10"),
        "" if gain is None else f"{gain.mean:+.3f}",
        "" if gain is None or gain.in_std is None else f"{gain.in_std:+.1f}",
        "" if gain is None else f"{gain.query_error:.3f}",
        _cell(line, "test/recall@1"),
        _cell(line, "test/swapped_ndcg@10"),
        _cell(line, "test/unrelated_similarity"),
    )


def _behaviour_header() -> str:
    names = ("row", "length", "EOS rate", "distinct", "name", "attributes", "repeated", "with rationales")
    return header((*names, "perplexity", "CPU s"))


def _behaviour(line: Line) -> str:
    change = line.perplexity_change
    seconds = sum(line.figures[f"{part} seconds"].mean for part in ("training", "measuring"))
    return row(
        line.label,
        _cell(line, "length", 1),
        _cell(line, "eos_rate"),
        _cell(line, "distinct", 2),
        _cell(line, "test/right_name"),
        _cell(line, "attributes", 2),
        _cell(line, "repeated"),
        _cell(line, "test/with_rationales"),
        "" if change is None else f"{change:+.1%}",
        f"{seconds:.0f}",
    )


def deviations(lines: Sequence[Line]) -> str:
    """Mean standard deviation within groups of each term of the headline rows, unscaled and unweighted."""
    names = ("row", "rollouts of", *(f"{term}, {when}" for term in TERMS for when in ("first", "mean")))
    rows = []
    for line in (line for line in lines if line.section == HEADLINE):
        for side, what in (("reward", "positives"), ("query_reward", "queries")):
            if f"std/{side}/positive/mean" in line.figures:
                label = what if "unsupervised" not in line.key else "texts"
                cells = [
                    f"{line.figures[name].mean:.4f}" if name in line.figures else ""
                    for term in TERMS
                    for name in (f"std/{side}/{term}/first", f"std/{side}/{term}/mean")
                ]
                rows.append(row(f"{line.label} ({line.start})", label, *cells))
    return "\n".join([header(names), *rows]) + "\n" if rows else ""


def _cell(line: Line, name: str, digits: int = 3) -> str:
    return figure(line.figures[name], digits) if name in line.figures else ""
