"""Every command of README.md and of the pages exists, with the options and settings that it is shown with."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grace_st.cli import app, command
from tests.docs.pages import ROOT, all_commands, commands, name_of, pages, prose
from tests.docs.programs import PROGRAMS, UnknownCommandError

PYTHON = re.compile(r"python3?")


def _is_script(words: tuple[str, ...]) -> bool:
    return PYTHON.fullmatch(Path(words[0]).name) is not None


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_the_commands_exist(page: Path) -> None:
    for words in commands(page):
        program = words[0].rpartition("/")[2]
        if _is_script(words):
            continue
        assert program in PROGRAMS, f"{name_of(page)}: tests/docs/programs.py does not know `{' '.join(words)}`"
        PROGRAMS[program](words[1:])


WRONG = (("benchmarks/encode.py", "--no-such-option"), ("benchmarks/no_such_script.py",))


def test_the_scripts_take_their_options() -> None:
    scripts = [words[1:] for words in all_commands() if _is_script(words) and words[1:3] != ("-m", "venv")]
    assert len(scripts) > 10
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("parse_scripts.py"))],
        input=json.dumps([*scripts, *WRONG]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    refused = json.loads(done.stdout)
    assert all(refused.pop(" ".join(words), None) for words in WRONG)
    assert refused == {}


def test_the_examples_of_each_help_exist() -> None:
    for name, load in command.available_commands().items():
        examples = load().examples
        assert examples, name
        for example in examples:
            program, *words = shlex.split(example)
            assert (program, words[0]) == ("grace-st", name)
            PROGRAMS["grace-st"](words)


def test_commands_in_the_text_exist() -> None:
    known = {name: _options(app.command_parser(name, load())) for name, load in command.available_commands().items()}
    seen = 0
    for page in pages():
        for said in re.findall(r"`grace-st ([^`\n]+)`", prose(page)):
            name, *words = shlex.split(said)
            if name == "COMMAND" or name.startswith("-"):
                continue
            assert name in known, f"{name_of(page)}: grace-st {said}"
            unknown = {word for word in words if word.startswith("--")} - known[name]
            assert not unknown, f"{name_of(page)}: grace-st {said}"
            seen += 1
    assert seen > 10


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return set(_walked(parser))


def _walked(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from _walked(part)


@pytest.mark.parametrize(
    "wrong",
    [
        "grace-st dance",
        "grace-st encode a.txt b.npy --model grace-nano --no-such-option",
        "grace-st convert --pooling softmax a b",
        "grace-st eval mteb --model grace-nano --no-such-option",
        "pip install -e .[no-such-extra]",
        "pip install grace-st[serve]",
        "make no-such-target",
        "docker build -f deploy/NoSuchFile .",
    ],
)
def test_a_wrong_command_is_noticed(wrong: str) -> None:
    program, *words = wrong.split()
    with pytest.raises(UnknownCommandError):
        PROGRAMS[program](words)


@pytest.mark.parametrize(
    "wrong",
    [
        "no-such-configuration",
        "nano no.such.key=1",
        "nano reward.variant=best",
        "verl-lora output=o data.train=d rollout.slots=4",
    ],
)
def test_a_wrong_setting_is_noticed(wrong: str) -> None:
    with pytest.raises(ValueError):
        PROGRAMS["grace-st"](["train", *wrong.split()])
