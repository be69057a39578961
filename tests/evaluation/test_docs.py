"""The page about evaluation keeps its word: its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("mteb", reason='mteb is not installed: pip install "grace-st[mteb]"')

from mteb.models.model_implementations import MODEL_REGISTRY

from grace_st.cli import app, command
from tests.evaluation.conftest import ROOT

PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, object] = {}
    try:
        for block in blocks:
            exec(block, scope)
    finally:
        MODEL_REGISTRY.pop("my-org/nano", None)
    parameters, revision = capsys.readouterr().out.split()
    assert int(parameters) > 10**6 and len(revision) == 40
    assert scope["vectors"].shape[0] == 2  # type: ignore[attr-defined]


def test_the_examples_of_the_command_parse() -> None:
    loaded = command.available_commands()["eval"]()
    for example in loaded.examples:
        app.command_parser("eval", loaded).parse_args(shlex.split(example)[2:])
