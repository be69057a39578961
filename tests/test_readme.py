"""The README keeps its word: the demo shows what it says. Its commands and snippets are tested in tests/docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grace_st.cards import CITATION
from grace_st.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRONT = (ROOT / "docs/index.md").read_text(encoding="utf-8")


def test_the_demo_of_the_readme_and_the_site_is_what_the_demo_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    shown = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
    for page in (README, FRONT):
        excerpt = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)[0]
        assert len(excerpt.splitlines()) > 10
        assert [line for line in excerpt.splitlines() if line not in shown] == []


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_cards_cite_as_the_readme_does() -> None:
    assert CITATION in README
