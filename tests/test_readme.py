"""The README keeps its word: its Python runs, and its commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import grace_st
from grace_st.cli import app, command, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(
    checkpoints: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    grace_st.convert(checkpoints(), "models/qwen-1.5b", max_seq_length=128, max_new_tokens=8)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)
    assert capsys.readouterr().out


def test_the_demo_of_the_readme_is_what_the_demo_shows(capsys: pytest.CaptureFixture[str]) -> None:
    excerpt = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)[0]
    assert main(["demo"]) == 0
    shown = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
    assert [line for line in excerpt.splitlines() if line not in shown] == []


def test_the_commands_of_the_readme_exist() -> None:
    lines = re.findall(r"^ {4}(grace-st .*)$", README, flags=re.MULTILINE)
    assert lines
    commands = command.available_commands()
    for line in lines:
        _, name, *words = shlex.split(line, comments=True)
        app.command_parser(name, commands[name]()).parse_args(words)


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
