"""What ``grace-st train`` shows at the end: held-out retrieval before and after, and where everything is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

METRICS = ("ndcg@10", "recall@1")


def show(console: Console, summary: Mapping[str, Any]) -> None:
    """Draw a run's summary."""
    console.print(escape(_headline(summary)), soft_wrap=True)
    rows = list(_rows(summary))
    if rows:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        for title in ("held-out", "", "before", "after"):
            table.add_column(title, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print()
        console.print(table)
        console.print("mean over queries, 95% bootstrap interval", style="dim")
    else:
        console.print("No held-out rows, so nothing was measured: set eval.dev, or data.holdout.")
    output = summary["output"]
    console.print()
    console.print(f"model      {escape(output)}", soft_wrap=True)
    names = ("metrics.jsonl", "curves.png", "rationales.md")
    there = [name for name in names if (Path(output) / "training" / name).is_file()]
    console.print(f"log        {escape(output)}/training/{', '.join(there)}", soft_wrap=True)


def _headline(summary: Mapping[str, Any]) -> str:
    ended = f": {summary['stopped']}" if summary["stopped"] else ""
    reward = summary["reward"]
    how = f"method {summary['method']}" if reward is None else f"{summary['mode']}, reward {reward}"
    kept = str(summary["kept_step"])
    if summary["steps"] and not summary["kept_step"]:
        kept += ", those it started from: on dev none after them was better (eval.keep=last takes the last)"
    done = f"{summary['steps']} of {summary['planned_steps']} steps"
    return f"Trained {done} ({how}){ended}. Kept the weights of step {kept}."


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for name, after in summary["after"].items():
        before = summary["before"].get(name)
        for metric in METRICS:
            title = f"{name}, {after['queries']} queries" if metric == METRICS[0] else ""
            yield title, metric, _interval(before, metric), _interval(after, metric)


def _interval(figures: Mapping[str, Any] | None, metric: str) -> str:
    if figures is None:
        return "-"
    value = figures[metric]
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
