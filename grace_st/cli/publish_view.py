"""What ``grace-st publish`` shows: the checks, and the files with their sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grace_st.cli.sizes import shown_size
from grace_st.cli.terminal import printable

if TYPE_CHECKING:
    from grace_st.publish import Readiness


def show(console: Console, ready: Readiness) -> None:
    """Print what was checked and what would be uploaded.

    Args:
        console: Where to.
        ready: The checked folder.
    """
    console.print(Text.assemble((str(ready.folder), "bold"), " as ", (ready.repo_id, "bold"), "\n"), soft_wrap=True)
    checks = Table.grid(padding=(0, 2))
    checks.add_column(style="dim", no_wrap=True)
    checks.add_column(no_wrap=True)
    checks.add_column(overflow="fold")
    for check in ready.checks:
        state = Text("ok", style="green") if check.passed else Text("no", style="bold red")
        said = [*check.problems, *(f"note: {note}" for note in check.notes)]
        checks.add_row(check.name, state, Text(printable("\n".join(said))))
    console.print(checks)
    files = Table.grid(padding=(0, 2))
    files.add_column(no_wrap=True)
    files.add_column(justify="right", no_wrap=True)
    for name, size in sorted(ready.files.items()):
        files.add_row(Text(printable(name)), shown_size(size))
    total = shown_size(sum(ready.files.values()))
    console.print(f"\n{len(ready.files)} files, {total}:")
    console.print(files)
    if ready.left_out:
        console.print(Text(f"\nNot uploaded: {', '.join(ready.left_out)}", style="dim"))
