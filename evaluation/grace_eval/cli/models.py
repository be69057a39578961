"""What the actions of ``grace-st eval`` have in common: the model, and options that stand behind an action."""

from __future__ import annotations

import argparse
from pathlib import Path

from grace_st.cli import models


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
    folder = models.model_folder(name)
    if folder is not None:
        return folder
    import grace_st

    return grace_st.nano_path()


def is_bundled(folder: Path) -> bool:
    """Whether a folder is the bundled model's."""
    import grace_st

    return folder.resolve() == grace_st.nano_path().resolve()
