"""The command as a program: help, exit codes, error lines, and commands of other packages."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, version
from pathlib import Path
from types import ModuleType

import pytest

from grace_st.cli import Command, app, command, main

BUILT_IN = ("demo", "encode", "explain", "serve", "convert", "card", "publish", "store", "plan")


def _command(run: Callable[[argparse.Namespace], int]) -> Command:
    return Command(
        summary="a command of another package",
        description="A command of another package.",
        examples=("grace-st other",),
        configure=lambda parser: None,
        run=run,
    )


def _install(monkeypatch: pytest.MonkeyPatch, name: str, loaded: object) -> None:
    """Make the package ``other_package`` declare a command."""
    module = ModuleType("other_package")
    module.COMMAND = loaded
    monkeypatch.setitem(sys.modules, "other_package", module)
    point = EntryPoint(name, "other_package:COMMAND", command.ENTRY_POINT_GROUP)
    monkeypatch.setattr(command, "entry_points", lambda group: [point])


def _raising(error: BaseException) -> Command:
    def run(arguments: argparse.Namespace) -> int:
        raise error

    return _command(run)


def test_help_lists_every_command_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in BUILT_IN:
        assert f"\n  {name} " in shown
    assert "grace-st demo" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"grace-st {version('grace-st')}\n"


@pytest.mark.parametrize("name", BUILT_IN)
def test_help_of_each_command_shows_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    loaded = command.available_commands()[name]()
    parser = app.command_parser(name, loaded)
    assert loaded.examples
    for example in loaded.examples:
        assert example in shown
        program, used, *words = shlex.split(example)
        assert (program, used) == ("grace-st", name)
        parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ([], "grace-st --help"),
        (["demos"], "grace-st demo"),
        (["no-such-command"], "grace-st --help"),
        (["--no-such-option"], "grace-st --help"),
        (["convert"], "SOURCE, DEST"),
        (["convert", "source"], "DEST"),
        (["convert", "a", "b", "--no-such-option"], "grace-st convert --help"),
        (["convert", "a", "b", "--pooling", "median"], "mean_penultimate"),
        (["convert", "a", "b", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["convert", "a", "b", "--system-prompt", "x", "--no-system-prompt"], "not allowed with"),
        (["convert", "a", "b", "--chat-template-kwargs", "[1]"], "JSON object"),
        (["convert", "a", "b", "--chat-template-kwargs", "{"], "not valid JSON"),
        (["demo", "--model", "no-such-folder"], "grace-st convert"),
    ],
)
def test_misuse_ends_with_2_and_one_line_that_says_what_to_do(
    words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("grace-st")
    assert remedy in output.err


@pytest.mark.parametrize("error", [ValueError("bad\nvalue: do this"), FileNotFoundError("bad\nvalue: do this")])
def test_an_error_of_the_library_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(monkeypatch, "other", _raising(error))
    assert main(["other"]) == 2
    assert capsys.readouterr().err == "grace-st: error: bad value: do this\n"


def test_an_unexpected_error_ends_with_1_and_names_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(monkeypatch, "other", _raising(RuntimeError("it broke")))
    assert main(["other"]) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "RuntimeError: it broke" in shown
    assert "grace-st other --debug" in shown


@pytest.mark.parametrize(("error", "code"), [(ValueError("bad"), 2), (RuntimeError("it broke"), 1)])
def test_debug_shows_the_traceback(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(monkeypatch, "other", _raising(error))
    assert main(["other", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_interruption_ends_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(monkeypatch, "other", _raising(KeyboardInterrupt()))
    assert main(["other"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_of_another_package_is_listed_and_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[argparse.Namespace] = []

    def run(arguments: argparse.Namespace) -> int:
        seen.append(arguments)
        return 0

    _install(monkeypatch, "other", _command(run))
    assert main(["--help"]) == 0
    assert "a command of another package" in capsys.readouterr().out
    assert main(["other", "--json"]) == 0
    assert seen[0].json is True


def test_a_broken_package_does_not_take_the_help_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("broken", "no_such_package:COMMAND", command.ENTRY_POINT_GROUP)
    monkeypatch.setattr(command, "entry_points", lambda group: [point])
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "no_such_package" in shown
    assert "see the bundled model" in shown


def test_an_entry_point_that_is_no_command_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install(monkeypatch, "other", main)
    assert main(["other"]) == 2
    assert "must be a grace_st.cli.Command, got function" in capsys.readouterr().err


def test_another_package_cannot_replace_a_built_in_command(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "demo", _raising(RuntimeError("replaced")))
    assert command.available_commands()["demo"]() is not sys.modules["other_package"].COMMAND


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from grace_st.cli import main; code = main(['--help']);"
        "main(['convert', '--help']); main(['encode', '--help']);"
        "heavy = {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "program", [[Path(sys.executable).with_name("grace-st")], [sys.executable, "-m", "grace_st"]], ids=["script", "-m"]
)
def test_the_installed_program_runs(program: list[str | Path]) -> None:
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"grace-st {version('grace-st')}\n")
    done = subprocess.run([*program, "demos"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "grace-st demo" in done.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    program = Path(sys.executable).with_name("grace-st")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [program, "demo", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
