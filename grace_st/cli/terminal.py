"""The terminal: one console for every command, JSON output, and silence from the libraries underneath."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from typing import Any

from rich.console import Console

MAX_WIDTH = 120
"""Lines longer than this are hard to read, however wide the terminal is."""


def open_console() -> Console:
    """A console on stdout: at most ``MAX_WIDTH`` columns, no colour in a pipe or where NO_COLOR is set."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An ASCII-only terminal shows "?" where it would otherwise stop us.
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False)
    if console.width > MAX_WIDTH:
        console.width = MAX_WIDTH
    return console


def has_colour(console: Console) -> bool:
    """Whether colours can be told apart."""
    return console.color_system is not None and not console.no_color


def has_unicode(console: Console) -> bool:
    """Whether block characters and marks can be shown."""
    return console.encoding.startswith("utf")


def write_json(value: Any) -> None:
    """Write one JSON value to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def quiet_libraries() -> None:
    """Keep progress bars and notices of the model libraries out of a command's own output. Errors stay."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    downloads_are_shown = not are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if downloads_are_shown:  # transformers switches them off as well, but a download of gigabytes must show
        enable_progress_bars()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def count(number: int) -> str:
    """A number of parameters as people write it: 950, 3.4 M, 1.5 B."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return str(number)


def printable(text: str) -> str:
    """Text with its control characters replaced, so that no text and no model can drive the terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) == "Cc" and letter not in "\n\t" else letter
        for letter in text
    )
