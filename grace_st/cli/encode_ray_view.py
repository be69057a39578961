"""What ``grace-st encode --ray`` tells at the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grace_st.cli.terminal import printable
from grace_st.scale.job import CorpusOutcome
from grace_st.scale.sizing import Sizes


def show(console: Console, output: str, outcome: CorpusOutcome, sizes: Sizes | None) -> None:
    """Print the summary."""
    manifest = outcome.manifest
    name = printable(output)
    if manifest is None:
        console.print(Text(f"{name} is complete already: nothing to do (--overwrite would encode it afresh)."))
        return
    console.print(Text.assemble((name, "bold"), "\n"))
    rows = manifest["rows"]
    resumed = f", {outcome.resumed_rows} of them by an earlier run" if outcome.resumed_rows else ""
    found = f", {manifest['from_store']} found in the store" if manifest["from_store"] else ""
    finished = f"{100 * manifest['finished'] / rows:.1f} % ended by the model"
    lines = {
        "rows": f"{rows}{resumed}, in {len(manifest['shards'])} files",
        "rationales": f"{manifest['tokens'] / rows:.1f} tokens on average, {finished}{found}",
    }
    if manifest["truncated"]:
        lines["truncated"] = f"{manifest['truncated']} of the texts, which are longer than the prompt has room for"
    if manifest["bad_rows"]:
        lines["bad rows"] = f"{manifest['bad_rows']}, left out"
    if outcome.others:
        lines["other files"] = f"{len(outcome.others)}, left out ({printable(outcome.others[0])}, ...)"
    workers = "" if sizes is None else f", {sizes.workers} workers of {sizes.cpus:g} CPU and {sizes.gpus:g} GPU"
    lines["time"] = f"{outcome.seconds:.1f} s{workers}"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for title, value in lines.items():
        table.add_row(title, value)
    console.print(table)


def as_json(output: str, outcome: CorpusOutcome, sizes: Sizes | None) -> dict[str, Any]:
    """The summary for ``--json``."""
    manifest = outcome.manifest
    if manifest is None:
        return {"output": output, "status": "already complete"}
    rows = manifest["rows"]
    return {
        "output": output,
        "status": "written",
        "rows": rows,
        "shards": len(manifest["shards"]),
        "rows_resumed": outcome.resumed_rows,
        "shards_resumed": outcome.resumed_shards,
        "rows_from_store": manifest["from_store"],
        "bad_rows": manifest["bad_rows"],
        "files_left_out": list(outcome.others),
        "mean_rationale_tokens": manifest["tokens"] / rows,
        "finished_share": manifest["finished"] / rows,
        "truncated_texts": manifest["truncated"],
        "worker_seconds": manifest["worker_seconds"],
        "workers": None if sizes is None else sizes.workers,
        "seconds": round(outcome.seconds, 3),
    }
