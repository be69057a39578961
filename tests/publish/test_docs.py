"""docs/publishing.md keeps its word: its table of names is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from grace_st.cards import MODELS
from grace_st.cli import app, command

PAGE = (Path(__file__).parent.parent.parent / "docs/publishing.md").read_text(encoding="utf-8")


def test_its_names_are_those_that_there_are() -> None:
    rows = re.findall(r"^\| `(grace-[\w.-]+)` \| (\S+) \| `(.+)` \|$", PAGE, flags=re.MULTILINE)
    supervised = {name: model for name, model in MODELS.items() if model.mode == "supervised"}
    assert {name for name, _, _ in rows} == set(supervised)
    for name, backbone, line in rows:
        assert (backbone, line) == (supervised[name].backbone.title, supervised[name].command)


def test_its_options_are_those_that_there_are() -> None:
    parser = app.command_parser("publish", command.available_commands()["publish"]())
    known = {option for action in parser._actions for option in action.option_strings}
    told = set(re.findall(r"`(--[\w-]+)", PAGE.partition("## Publish")[2]))
    assert told <= known and {"--dry-run", "--private", "--branch", "--create-pr", "--commit-message"} <= told
