"""Has scripts parse arguments, by their own parsers, and stops each right behind: one process for all.

Standard input is a JSON list of ``[script, word, ...]``, with ``-m NAME`` for a module; standard output is a mapping
from what was refused to why.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any


class Parsed(BaseException):
    """The arguments were taken, and the script goes no further."""


_PARSE = argparse.ArgumentParser.parse_args


def _parse_and_stop(self: argparse.ArgumentParser, *given: Any, **options: Any) -> None:
    _PARSE(self, *given, **options)
    raise Parsed


def refused(command: list[str]) -> str | None:
    """What a script says to arguments that it does not take."""
    said = io.StringIO()
    paths = list(sys.path)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            if command[0] == "-m":
                sys.argv = command[1:]
                runpy.run_module(command[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = command
                script = Path(command[0])
                sys.path.insert(0, str(script if script.is_dir() else script.parent))
                runpy.run_path(command[0], run_name="__main__")
    except Parsed:
        return None
    except SystemExit as stop:
        return None if stop.code in (0, None) else said.getvalue()[-500:]
    except OSError as error:
        return str(error)
    finally:
        sys.path[:] = paths
    return "it ended without parsing its arguments"


if __name__ == "__main__":
    argparse.ArgumentParser.parse_args = _parse_and_stop  # type: ignore[method-assign, assignment]
    answers = {" ".join(command): refused(command) for command in json.load(sys.stdin)}
    json.dump({command: answer for command, answer in answers.items() if answer is not None}, sys.stdout)
