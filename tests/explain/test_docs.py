"""docs/explain.md keeps its word: the snippets run, the fields are those there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs/explain.md").read_text(encoding="utf-8")


def test_the_snippets_run_and_the_fields_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(block, scope)
    shown = capsys.readouterr().out
    assert "rationale" in shown
    assert scope["ranking"].documents[0].index == 0
    told, ranking = scope["explanation"].to_dict(), scope["ranking"].to_dict()
    names = {*told, *told["a"], *told["a"]["spans"][0], *told["strongest"][0], *ranking, *ranking["documents"][0]}
    described = set(re.findall(r"`(\w+)`", PAGE.partition("## JSON")[2]))
    assert names <= described
