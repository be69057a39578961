"""What the actions of ``grace-st eval`` have in common: the model, and options that stand behind an action."""

from __future__ import annotations

import argparse
from pathlib import Path

from grace_st.cli.command import CommandError

BUNDLED = "grace-nano"


def add_common(parser: argparse.ArgumentParser) -> None:
    """``--json`` and ``--debug`` again, so that they may stand behind the action; what stands before it is kept."""
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="write the result as JSON")
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )


def model_folder(name: str) -> Path:
    """A model folder by its path, or the bundled one by its name.

    Raises:
        CommandError: There is none.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name == BUNDLED:
        import grace_st

        return grace_st.nano_path()
    raise CommandError(
        f"{name} is not a folder; make one with `grace-st convert SOURCE {name}`, or try --model {BUNDLED}"
    )


def is_bundled(folder: Path) -> bool:
    """Whether a folder is the bundled model's."""
    import grace_st

    return folder.resolve() == grace_st.nano_path().resolve()
