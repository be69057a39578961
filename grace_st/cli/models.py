"""Models as the command line names them: a folder, or the bundled one."""

from __future__ import annotations

from pathlib import Path

from grace_st.cli.command import CommandError
from grace_st.model_files import MODULES_NAME, check_model_folder

BUNDLED = "grace-nano"


def model_folder(name: str, option: str = "--model") -> Path | None:
    """The folder of the model, or None for the bundled one.

    Args:
        name: As it was given.
        option: What it was given with, for messages.

    Raises:
        CommandError: There is no such folder, or it is no model folder.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name == BUNDLED:
            return None
        raise CommandError(
            f"{name} is not a folder; make one with `grace-st convert SOURCE {name}`, or try {option} {BUNDLED}"
        )
    try:
        return check_model_folder(folder, MODULES_NAME)
    except FileNotFoundError as error:
        raise CommandError(str(error)) from error
