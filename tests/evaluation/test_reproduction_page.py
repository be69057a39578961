"""docs/reproduction.md and docs/faithfulness.md keep their word: commands parse, counts and quotations are right."""

from __future__ import annotations

import re
import shlex

import pytest

from grace_eval.reproduce.output import paper_table
from grace_eval.reproduce.studies import STUDIES, study
from grace_st.cards.blocks import with_block
from grace_st.cards.paper import ALGORITHMS, GENERAL, SUPERVISED, UNSUPERVISED
from grace_st.cli import app, command
from tests.evaluation.conftest import ROOT

PAGE = ROOT / "docs/reproduction.md"


@pytest.mark.parametrize("name", ["reproduction", "faithfulness"])
def test_the_commands_exist(name: str) -> None:
    lines = re.findall(r"^ {4}(grace-st .*)$", (ROOT / f"docs/{name}.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) >= 3
    commands = command.available_commands()
    for line in lines:
        _, verb, *words = shlex.split(line)
        app.command_parser(verb, commands[verb]()).parse_args(words)


def test_the_counts_are_those_of_the_studies() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for kind, numbers in STUDIES.items():
        for number in numbers:
            counts = []
            for smoke in (False, True):
                made, _ = study(kind, number, smoke=smoke, engine="verl")
                trainings = {cell.model for cell in made.cells if cell.model.training is not None}
                counts.append((len(made.cells), len(trainings)))
            (cells, trainings_), (small, few) = counts
            row = next(line for line in page.splitlines() if line.startswith(f"| {kind} {number} |"))
            assert row.endswith(f"| {cells} | {trainings_} | {small}, {few} |"), row


def test_the_papers_figures_are_quoted() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = {"1": SUPERVISED, "2": UNSUPERVISED, "4": ALGORITHMS, "5": GENERAL}
    for table, own in rows.items():
        assert with_block(page, f"paper-table-{table}", paper_table(own)) == page
