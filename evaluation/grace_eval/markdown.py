"""Tables as Markdown, and blocks of Markdown that a program keeps up to date inside a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from grace_eval.mteb.files import write_whole


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_block(page: str, name: str, content: str) -> str:
    """A page with what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` replaced.

    A page without the two markers gets them, with the block, at its end.

    Raises:
        ValueError: One of the markers is there alone, or more than once.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    block = f"{begin}\n{content.strip()}\n{end}"
    if begin not in page and end not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"{begin} and {end} must be there once each, in this order, or not at all")
    return page.partition(begin)[0] + block + page.partition(end)[2]


def write_block(path: Path, name: str, content: str) -> None:
    """Put a block into a page on disk, see `with_block`.

    Raises:
        ValueError: The markers are damaged; the page is named.
    """
    try:
        made = with_block(path.read_text(encoding="utf-8"), name, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    write_whole(path, made)
