"""Models as the command line names them: a folder, or the bundled one."""

from __future__ import annotations

from pathlib import Path

from grace_st.cli.command import CommandError
from grace_st.config import CONFIG_NAME
from grace_st.model_files import MODULES_NAME

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
    if not (folder / CONFIG_NAME).is_file() or not (folder / MODULES_NAME).is_file():
        raise CommandError(
            f"{name} is not a GRACE model folder (it needs {CONFIG_NAME} and {MODULES_NAME}): make one with "
            f"`grace-st convert {name} FOLDER`"
        )
    return folder
