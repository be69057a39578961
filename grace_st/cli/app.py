"""Parsing and dispatch of ``grace-st``, its exit codes and its error lines."""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from grace_st.cli.command import Command, CommandError, available_commands
from grace_st.engines.vllm.errors import VllmError

PROGRAM = "grace-st"

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_MISUSE = 2
EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that says what to do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_MISUSE, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


class _ProgramParser(_Parser):
    """The options of ``grace-st`` itself, and the list of its commands."""

    def __init__(self, commands: dict[str, Callable[[], Command]]) -> None:
        super().__init__(
            prog=PROGRAM,
            usage=f"{PROGRAM} COMMAND [options]",
            description="Text embeddings from language models that write a rationale before they embed.",
        )
        self.add_argument("--version", action="version", version=f"{PROGRAM} {version('grace-st')}")
        self._commands = commands

    def format_help(self) -> str:
        # Here and not in __init__: only --help has to load every command, for its summary.
        width = max(len(name) for name in self._commands)
        lines = [f"  {name:<{width}}  {_summary(load)}" for name, load in self._commands.items()]
        self.epilog = "\n".join(
            [
                "commands:",
                *lines,
                "",
                "example:",
                f"  {PROGRAM} demo",
                "",
                f"`{PROGRAM} COMMAND --help` describes a command and shows an example.",
            ]
        )
        return super().format_help()


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``grace-st`` and return its exit code.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Returns:
        0 on success, 1 after an unexpected error, 2 on misuse (after one line that says what to do) and 130
        after an interruption.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interruption:
        # A command may have noted what is kept and how to go on.
        sys.stderr.write(" ".join([f"{PROGRAM}: interrupted", *_notes(interruption)]) + "\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`grace-st demo | head`). Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNEXPECTED


def _dispatch(words: list[str]) -> int:
    # The options of the program itself take no value, so its command is the first word that is not an option.
    split = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))
    commands = available_commands()
    try:
        _ProgramParser(commands).parse_args(words[:split])
    except SystemExit as stop:
        return _code(stop)
    if split == len(words):
        return _misuse(f"no command given; `{PROGRAM} --help` lists them and `{PROGRAM} demo` is a good first one")
    name, rest = words[split], words[split + 1 :]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean `{PROGRAM} {near[0]}`?" if near else f"`{PROGRAM} --help` lists the commands"
        return _misuse(f"unknown command {name!r}; {hint}")
    return _run(name, commands[name], rest)


def _run(name: str, load: Callable[[], Command], words: list[str]) -> int:
    debug = "--debug" in words
    try:
        command = load()
        parser = command_parser(name, command)
        parse = parser.parse_intermixed_args if command.intermixed else parser.parse_args
        return command.run(parse(words))
    except SystemExit as stop:
        return _code(stop)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        if debug:
            traceback.print_exc()
        return _misuse(_one_line(error))
    except (ArithmeticError, VllmError) as error:
        # Weights that give no finite vectors, or a vLLM that died: nobody's misuse, and the message says what to do.
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"{PROGRAM}: error: {_one_line(error)}\n")
        return EXIT_UNEXPECTED
    except Exception as error:
        # The outermost boundary: whatever it is, the user gets a line and an exit code.
        if debug:
            traceback.print_exc()
        hint = "" if debug else f" (`{PROGRAM} {name} --debug` shows where)"
        sys.stderr.write(f"{PROGRAM}: unexpected error: {type(error).__name__}: {_one_line(error)}{hint}\n")
        return EXIT_UNEXPECTED


def _code(stop: SystemExit) -> int:
    # argparse ends this way after --help, --version and its own errors.
    return stop.code if isinstance(stop.code, int) else EXIT_OK


def _misuse(message: str) -> int:
    sys.stderr.write(f"{PROGRAM}: error: {message}\n")
    return EXIT_MISUSE


def _one_line(error: BaseException) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return " ".join([said, *_notes(error)])


def _notes(error: BaseException) -> list[str]:
    notes: list[str] = getattr(error, "__notes__", [])
    return [" ".join(note.split()) for note in notes]


def _summary(load: Callable[[], Command]) -> str:
    try:
        return load().summary
    except (ImportError, AttributeError, CommandError) as error:
        # A broken package beside this one must not take the help of all other commands away.
        return f"(cannot be loaded: {_one_line(error)})"


def command_parser(name: str, command: Command) -> argparse.ArgumentParser:
    """The parser of a command, with the options that all commands share."""
    examples = "\n".join(f"  {example}" for example in command.examples)
    parser = _Parser(
        prog=f"{PROGRAM} {name}",
        description=textwrap.fill(command.description, min(shutil.get_terminal_size().columns, 100) - 2),
        epilog=f"example:\n{examples}" if len(command.examples) == 1 else f"examples:\n{examples}",
    )
    command.configure(parser)
    parser.add_argument("--json", action="store_true", help="write the result as JSON, and nothing else, to stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
