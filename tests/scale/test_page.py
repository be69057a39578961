"""docs/scale.md keeps its word."""

from __future__ import annotations

import re

from grace_st.cli.app import command_parser
from grace_st.cli.command import available_commands
from tests.scale.table import ROOT, rows

_OPTION = r"(?<!-)--[a-z][a-z-]+"

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_table_is_what_the_formula_gives() -> None:
    assert [line for line in PAGE.splitlines() if line.startswith("| 10^")] == rows()


def test_the_options_are_there() -> None:
    commands = available_commands()
    helps = "".join(command_parser(name, commands[name]()).format_help() for name in ("encode", "plan"))
    known = set(re.findall(_OPTION, helps))
    assert len(set(re.findall(_OPTION, PAGE))) > 20
    assert set(re.findall(_OPTION, PAGE)) <= known
