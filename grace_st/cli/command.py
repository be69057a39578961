"""What a sub-command is, and where sub-commands come from."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points

ENTRY_POINT_GROUP = "grace_st.commands"

BUILT_IN: Mapping[str, str] = {
    "demo": "grace_st.cli.demo:COMMAND",
    "encode": "grace_st.cli.encode:COMMAND",
    "explain": "grace_st.cli.explain:COMMAND",
    "serve": "grace_st.cli.serve:COMMAND",
    "convert": "grace_st.cli.convert:COMMAND",
    "card": "grace_st.cli.card:COMMAND",
    "publish": "grace_st.cli.publish:COMMAND",
    "store": "grace_st.cli.store:COMMAND",
    "plan": "grace_st.cli.plan:COMMAND",
}


class CommandError(ValueError):
    """A command that was used wrongly, or that another package declares wrongly."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A sub-command of ``grace-st``.

    The module that defines one must be cheap to import: ``grace-st --help`` imports all of them.

    Attributes:
        summary: One line for the list of commands.
        description: What the command does, one paragraph, shown by its ``--help``.
        examples: Command lines, shown by its ``--help``; each starts with ``grace-st``.
        configure: Adds the command's arguments to its parser. ``--json`` and ``--debug`` are there already.
        run: Does the work with the parsed arguments and returns the exit code. Errors are raised: a
            ``ValueError`` or ``OSError`` is shown as one line and ends the program with exit code 2.
        intermixed: Whether options may stand between the command's arguments.
    """

    summary: str
    description: str
    examples: tuple[str, ...]
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    intermixed: bool = False


def available_commands() -> dict[str, Callable[[], Command]]:
    """Every command by name, each with the function that loads it. A built-in one wins over a clash."""
    loaders: dict[str, Callable[[], Command]] = {
        name: partial(_load_built_in, target) for name, target in BUILT_IN.items()
    }
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        loaders.setdefault(point.name, partial(_load_entry_point, point))
    return loaders


def _load_built_in(target: str) -> Command:
    module, attribute = target.split(":")
    return _checked(target, getattr(importlib.import_module(module), attribute))


def _load_entry_point(point: EntryPoint) -> Command:
    return _checked(point.name, point.load())


def _checked(name: str, loaded: object) -> Command:
    if not isinstance(loaded, Command):
        raise CommandError(
            f"the entry point {name!r} of the group {ENTRY_POINT_GROUP} must be a grace_st.cli.Command, "
            f"got {type(loaded).__name__}; update or uninstall the package that declares it"
        )
    return loaded
