"""What ``grace-st encode`` tells at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grace_st.bulk.job import Outcome
from grace_st.cli.terminal import printable


def show(console: Console, output: str, outcome: Outcome) -> None:
    """Print the summary of a file that was written."""
    totals = outcome.totals
    if totals is None:
        console.print(
            Text(f"{printable(output)} is complete already: nothing to do (--overwrite would encode it afresh).")
        )
        return
    names = " and ".join(printable(path.name) for path in reversed(outcome.paths))
    console.print(Text.assemble((names, "bold"), f" in {printable(str(outcome.paths[-1].parent))}\n"))
    resumed = f", {outcome.resumed_rows} of them by an earlier run" if outcome.resumed_rows else ""
    rows = {
        "rows": f"{totals.rows}{resumed}",
        "vectors": f"{totals.dimension} dimensions, float32",
        "rationales": f"{totals.tokens / totals.rows:.1f} tokens on average, {_share(outcome)} ended by the model",
        "truncated": f"{totals.truncated} of the texts, which are longer than the prompt has room for",
        "bad rows": f"{outcome.bad_rows}, left out",
        "time": f"{outcome.seconds:.1f} s",
    }
    if not totals.truncated:
        del rows["truncated"]
    if not outcome.bad_rows:
        del rows["bad rows"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def line(outcome: Outcome) -> str:
    """The summary in one line."""
    totals = outcome.totals
    assert totals is not None
    return (
        f"{totals.rows} rows in {outcome.seconds:.1f} s; rationales of {totals.tokens / totals.rows:.1f} tokens, "
        f"{_share(outcome)} ended by the model; {totals.truncated} texts truncated; "
        f"{outcome.bad_rows} bad row{'' if outcome.bad_rows == 1 else 's'} left out"
    )


def _share(outcome: Outcome) -> str:
    totals = outcome.totals
    assert totals is not None
    return f"{100 * totals.finished / totals.rows:.1f} %"


def as_json(output: str, outcome: Outcome) -> dict[str, Any]:
    """The summary for ``--json``."""
    written: dict[str, Any] = {"output": output, "files": [str(Path(path)) for path in reversed(outcome.paths)]}
    totals = outcome.totals
    if totals is None:
        return {**written, "status": "already complete"}
    return {
        **written,
        "status": "written",
        "rows": totals.rows,
        "rows_resumed": outcome.resumed_rows,
        "bad_rows": outcome.bad_rows,
        "embedding_dimension": totals.dimension,
        "mean_rationale_tokens": totals.tokens / totals.rows,
        "finished_share": totals.finished / totals.rows,
        "truncated_texts": totals.truncated,
        "seconds": round(outcome.seconds, 3),
    }
