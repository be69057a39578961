"""How a command of the pages is checked without being run: each program by what decides about its arguments."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from grace_st.cli import app, command
from tests.docs.pages import ROOT

Check = Callable[[Sequence[str]], None]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


class UnknownCommandError(AssertionError):
    """A page shows something that does not exist."""


def grace_st(words: Sequence[str]) -> None:
    """The real parser; the settings of a training by the real configuration, verl's by what verl would get."""
    name, *rest = words
    loaders = command.available_commands()
    if name not in loaders:
        raise UnknownCommandError(f"grace-st has no command {name!r}")
    loaded = loaders[name]()
    parser = app.command_parser(name, loaded)
    try:
        given = parser.parse_intermixed_args(rest) if loaded.intermixed else parser.parse_args(rest)
    except SystemExit as error:
        raise UnknownCommandError(f"grace-st {' '.join(words)}: refused by its parser, see stderr") from error
    if name == "train":
        _training(given)


def _training(given: argparse.Namespace) -> None:
    from grace_train.config_files import documented, load_config
    from grace_train.verl_engine import settings

    if given.show_config is not None:
        documented(given.show_config)
        return
    if Path(given.config).suffix == ".yaml":
        return  # the reader's own file: test_running.py has one of this name
    config = load_config(given.config, given.changes)
    if config.engine == "verl":
        settings(config)


def pip(words: Sequence[str]) -> None:
    """Extras and files exist. What is on PyPI is not asked."""
    assert words[0] == "install", words
    for index, word in enumerate(words):
        if word in ("-r", "-c") and not (ROOT / words[index + 1]).is_file():
            raise UnknownCommandError(f"pip {' '.join(words)}: there is no {words[index + 1]}")
        for extras in re.findall(r"^(?:\.|grace-st)\[(.*)\]$", word):
            unknown = set(extras.split(",")) - set(PROJECT["optional-dependencies"])
            if unknown:
                raise UnknownCommandError(f"pip {' '.join(words)}: pyproject.toml has no extra {unknown}")
        if re.match(r"grace-st\b", word):
            raise UnknownCommandError(f"pip {' '.join(words)}: the package is not on PyPI: write `-e .`")


def make(words: Sequence[str]) -> None:
    """The target exists, and so does each variable."""
    for word in words:
        name, _, value = word.partition("=")
        pattern = rf"^{name} *\?=" if value else rf"^{re.escape(name)}:"
        if not re.search(pattern, MAKEFILE, flags=re.MULTILINE):
            raise UnknownCommandError(f"make {' '.join(words)}: the Makefile has no {name}")


def docker(words: Sequence[str]) -> None:
    """Its files exist; tests/serve/test_deploy.py reads them."""
    for index, word in enumerate(words):
        if word == "-f" and not (ROOT / words[index + 1]).is_file():
            raise UnknownCommandError(f"docker {' '.join(words)}: there is no {words[index + 1]}")


def nothing(words: Sequence[str]) -> None:
    """Not ours, and not here: its arguments are its own documentation's business."""


PROGRAMS: dict[str, Check] = {
    "grace-st": grace_st,
    "pip": pip,
    "make": make,
    "docker": docker,
    "cd": nothing,
    ".": nothing,
    "git": nothing,  # clones a repository whose address is the reader's
    "hf": nothing,  # a hub's download
    "ray": nothing,  # starts a cluster of several machines
    "curl": nothing,  # tests/ecosystem/test_openai_clients.py runs them against a server
}
"""Programs but Python, whose scripts test_commands.py checks all at once."""
