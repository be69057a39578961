"""Tables as Markdown, and where they go in a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grace_train.files import write_atomically
from harness.spread import Spread


def figure(value: Spread, digits: int = 3) -> str:
    """Mean, and standard deviation where there is one."""
    return f"{value.mean:.{digits}f}" + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def header(names: Sequence[str]) -> str:
    """The head of a table whose first column is text and whose others are numbers."""
    return f"{row(*names)}\n|---|{'---:|' * (len(names) - 1)}"


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def fill(path: Path, blocks: dict[str, str]) -> None:
    """Replace what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Args:
        path: The page.
        blocks: Markdown by name.

    Raises:
        ValueError: The page has not both markers of a block, once each.
    """
    text = path.read_text(encoding="utf-8")
    for name, content in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"{path} needs {begin} and {end} once each, in this order")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{content.strip()}\n{end}{rest.partition(end)[2]}"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
