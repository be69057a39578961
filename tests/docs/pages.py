"""What the pages promise: their code blocks, one by one.

The rule that makes them testable: **an indented block holds shell commands, one a line; all else is fenced and names
its language.**
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "benchmarks", "train", "evaluation")
SHELL = ("bash", "sh", "console", "shell")
OTHERS = ("text", "bibtex")  # not code

_FENCE = re.compile(r"^( *)(`{3,})(\w*)\n(.*?)^\1\2\n", flags=re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^(?: {4}|\t)(.*\S)", flags=re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=.*")


def pages() -> list[Path]:
    """Every page for readers. CHANGELOG.md is history, and tests/ecosystem/test_hub.py tests the cards of models."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder in FOLDERS:
        found += sorted(path for path in (ROOT / folder).rglob("*.md") if path.is_file())
    return found


def name_of(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    language: str
    code: str
    line: int


def fenced(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, found[3], found[4], text[: found.start()].count("\n") + 1) for found in _FENCE.finditer(text)]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[tuple[str, ...]]:
    """The commands of a page as words: no comments, no variables before them, ``a && b`` as two."""
    lines = _INDENTED.findall(prose(page))
    for block in fenced(page):
        if block.language in SHELL:
            lines += block.code.replace("\\\n", " ").splitlines()
    return [command for line in lines for command in _split(line)]


def all_commands() -> dict[tuple[str, ...], list[str]]:
    """Every command, with the pages that have it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for page in pages():
        for command in commands(page):
            found.setdefault(command, []).append(name_of(page))
    return found


def _split(line: str) -> Iterator[tuple[str, ...]]:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
            continue
        while words and _ASSIGNMENT.fullmatch(words[0]):
            del words[0]
        if words:
            yield tuple(words)
        words = []
