"""What ``grace-st data check`` shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grace_st.cli.terminal import printable
from grace_train.data.check import Report, Spread


def show(console: Console, report: Report) -> None:
    """Print a report."""
    usable = report.rows - report.bad_rows
    verdict = "every row can be used" if not report.bad_rows else bad_rows(report.bad_rows)
    console.print(Text.assemble((printable(report.path), "bold"), f" for {report.mode} training: {verdict}\n"))
    facts = [("rows", f"{report.rows}, {usable} of them usable")]
    facts += [(f"{role} per row", _spread(spread)) for role, spread in report.texts_per_row.items()]
    if report.mode == "supervised" and usable:
        facts.append(("without negatives", f"{report.rows_without_negatives} rows"))
    facts += [(f"duplicate {_PLURAL[role]}", _times(number)) for role, number in report.duplicates.items()]
    for name, number in (
        ("query is positive", report.query_is_positive),
        ("false negatives", report.false_negatives),
        ("empty negatives", report.empty_negatives),
    ):
        if number:
            facts.append((name, f"{number} {_MEANING[name]}"))
    if report.unread_fields:
        facts.append(("fields not read", _unread(report)))
    console.print(_grid(facts))
    _show_lengths(console, report)
    _show_sources(console, report)
    _show_bad_rows(console, report)


_PLURAL = {"query": "queries", "positive": "positives", "text": "texts"}
_MEANING = {
    "query is positive": "rows whose query is one of their positives: nothing can be learnt from those",
    "false negatives": "negatives that are their row's query or positive: never used",
    "empty negatives": "negatives without a text: never used",
}


def _times(number: int) -> str:
    return f"{number}, never two of the same in a batch" if number else "none"


def _unread(report: Report) -> str:
    names = ", ".join(printable(name) for name in report.unread_fields)
    is_lacking = report.mode == "supervised" and "negative" not in report.lengths
    return names + "; if one holds negatives, name it: --negative-field ..." * is_lacking


def _spread(spread: Spread) -> str:
    return f"median {spread.median}, 95 % up to {spread.p95}, at most {spread.max}"


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _show_lengths(console: Console, report: Report) -> None:
    if not report.lengths:
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("length of", style="dim")
    for name in ("texts", "median", "95 %", "longest"):
        table.add_column(name, justify="right")
    cut = report.max_seq_length is not None
    if cut:
        table.add_column(f"over {report.max_seq_length}", justify="right")
    for role, lengths in report.lengths.items():
        spread, texts = lengths.characters, str(lengths.texts)
        table.add_row(
            f"{role}, characters", texts, str(spread.median), str(spread.p95), str(spread.max), *([""] if cut else [])
        )
        if lengths.tokens is not None:
            spread = lengths.tokens
            table.add_row(
                f"{role}, tokens", texts, str(spread.median), str(spread.p95), str(spread.max), str(lengths.too_long)
            )
    console.print()
    console.print(table)
    if cut:
        console.print(Text("Tokens are those of the whole prompt; what is over max_seq_length is cut.", style="dim"))


def _show_sources(console: Console, report: Report) -> None:
    if not report.sources:
        return
    console.print(Text("\nRows by their field source:"))
    console.print(_grid((printable(name), str(number)) for name, number in report.sources.items()))
    if report.source_count is not None and report.source_count > len(report.sources):
        console.print(Text(f"... and {report.source_count - len(report.sources)} others", style="dim"))


def bad_rows(number: int) -> str:
    """So many bad rows, in words."""
    return f"{number} bad row{'s' * (number != 1)}"


def _show_bad_rows(console: Console, report: Report) -> None:
    if not report.bad_rows:
        return
    console.print(Text("\nBad rows:"))
    # Most often one thing is wrong with all of them, such as the name of a field: it is said once.
    for problem, group in itertools.groupby(report.first_bad_rows, lambda row: row.problem):
        first, *others = group
        more = f" (the same in the next {bad_rows(len(others))})" if others else ""
        console.print(Text(f"  {first.place}: {printable(problem)}{more}"))
    if report.bad_rows > len(report.first_bad_rows):
        console.print(Text(f"  ... and {report.bad_rows - len(report.first_bad_rows)} more", style="dim"))
    if report.bad_rows < report.rows:
        remedy = "Correct them, or train without them: data.on_bad_row=skip"
    else:
        names = ("text",) if report.mode == "unsupervised" else ("query", "positive", "negative")
        options = ", ".join(f"--{name}-field" for name in names)
        remedy = f"No row can be used: correct them, or say what the fields are called ({options})"
    console.print(Text(remedy))
