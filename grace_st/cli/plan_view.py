"""What ``grace-st plan`` tells."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grace_st.cli.sizes import shown_size
from grace_st.cli.terminal import printable
from grace_st.scale.costs import Corpus, Costs, Range, Throughput


def show(console: Console, corpus: Corpus, measured: Throughput, costs: Costs, workers: int) -> None:
    """Print the table."""
    console.print(Text(f"{shown(corpus.texts)} texts, {workers} worker{'s' if workers > 1 else ''}\n", "bold"))
    stays, runs = bytes_shown(costs.store_bytes), bytes_shown(costs.running_store_bytes)
    flat, hnsw = bytes_shown(costs.flat_index_bytes), bytes_shown(costs.hnsw_index_bytes)
    kept = "ids, vectors, rationales" if corpus.keep_rationales else "ids, vectors"
    rows = {
        "texts": f"{shown(costs.text_tokens)} tokens, {corpus.text_tokens:g} each with the end of the template",
        "rationales": f"{shown(costs.rationale_tokens)} tokens, {corpus.rationale_tokens:g} each",
        "worker hours": _range(costs.worker_hours),
        "time": duration(costs.hours),
        "price": "" if costs.price is None else _range(costs.price),
        "vectors": f"{bytes_shown(costs.vector_bytes)}, {corpus.dimensions} dimensions, {corpus.dtype}",
        "output": f"{bytes_shown(costs.output_bytes)} of Parquet before compression ({kept}; float32)",
        "store": f"{stays} if it stays (--store), else at most {runs}",
        "index": f"{flat} of memory flat, {hnsw} as HNSW of float32",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console.print(table)
    rate = f"{measured.texts_per_second:.4g} texts/s"
    lengths = f"texts of {measured.text_tokens:g} tokens, rationales of {measured.rationale_tokens:g}"
    console.print(Text(f"\nMeasured: {rate} on {printable(measured.measured)} ({lengths}).", "dim"))
    if costs.hours.low != costs.hours.high:
        console.print(
            Text("The range holds whatever share of the time reading takes: lengths differ from those.", "dim")
        )


def as_json(corpus: Corpus, measured: Throughput, costs: Costs, workers: int) -> dict[str, Any]:
    """The figures for ``--json``; ranges have ``low`` and ``high``."""
    return {"corpus": asdict(corpus), "workers": workers, "throughput": asdict(measured), "costs": asdict(costs)}


def duration(hours: Range) -> str:
    """A time as people say it."""
    for limit, unit in ((2 * 8766, 8766.0), (48, 24.0), (2, 1.0)):
        if hours.high >= limit:
            name = {8766.0: "years", 24.0: "days", 1.0: "hours"}[unit]
            return f"{_range(hours.times(1 / unit))} {name}"
    return f"{_range(hours.times(60))} minutes"


def _range(range_: Range) -> str:
    low, high = shown(range_.low), shown(range_.high)
    return low if low == high else f"{low} to {high}"


def shown(number: float) -> str:
    """A number as people read it: three digits and a unit, or thousands set apart."""
    if number < 1000:
        return f"{number:.3g}"
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= limit:
            return f"{number / limit:,.3g} {unit}" if number / limit < 1000 else f"{number / limit:,.0f} {unit}"
    return f"{number:,.0f}"


def bytes_shown(count: float) -> str:
    """A number of bytes, with its unit."""
    return shown_size(count) if count < 1e15 else f"{count / 1e15:.1f} PB"
