"""Tables as Markdown, and blocks of Markdown that a program keeps up to date inside a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from grace_eval.files import write_whole
from grace_st.cards.blocks import with_block


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_block(path: Path, name: str, content: str) -> None:
    """Put a block into a page on disk, see `grace_st.cards.blocks.with_block`.

    Raises:
        ValueError: The markers are damaged; the page is named.
    """
    try:
        made = with_block(path.read_text(encoding="utf-8"), name, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    write_whole(path, made)
