"""Blocks of a Markdown page that a program, or a person, keeps: ``<!-- NAME: begin -->`` to ``<!-- NAME: end -->``."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"<!-- ([a-z][a-z0-9-]*): begin -->\n?(.*?)\n?<!-- \1: end -->", flags=re.DOTALL)
_MARKER = re.compile(r"<!-- ([a-z][a-z0-9-]*): (begin|end) -->")


def as_block(name: str, content: str) -> str:
    """A block with its markers."""
    content = content.strip()
    return f"<!-- {name}: begin -->\n{content}\n<!-- {name}: end -->" if content else _empty(name)


def _empty(name: str) -> str:
    return f"<!-- {name}: begin -->\n<!-- {name}: end -->"


def with_block(page: str, name: str, content: str) -> str:
    """A page with what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` replaced.

    A page without the two markers gets them, with the block, at its end.

    Raises:
        ValueError: One of the markers is there alone, or more than once.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    block = as_block(name, content)
    if begin not in page and end not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"{begin} and {end} must be there once each, in this order, or not at all")
    return page.partition(begin)[0] + block + page.partition(end)[2]


def blocks_of(page: str) -> dict[str, str]:
    """What stands in the blocks of a page, by name.

    Raises:
        ValueError: A marker is there alone or twice, or blocks are inside each other.
    """
    found = _BLOCK.findall(page)
    names = [name for name, _ in found]
    markers = _MARKER.findall(page)
    if len(markers) != 2 * len(found) or len(set(names)) != len(names):
        odd = next(name for name, _ in markers if names.count(name) != 1 or markers.count((name, "begin")) != 1)
        raise ValueError(
            f"<!-- {odd}: begin --> and <!-- {odd}: end --> must be there once each, in this order, with no other "
            "marker between them"
        )
    return {name: content.strip() for name, content in found}


def without_blocks(page: str) -> str:
    """A page without its blocks and their markers."""
    return _BLOCK.sub("", page)
