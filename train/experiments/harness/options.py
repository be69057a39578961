"""What the experiments' commands have in common: numbers that are checked, signals, one command at a time."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from grace_st.bulk.lock import FolderLock


def positive(text: str) -> int:
    """An integer from 1.

    Raises:
        argparse.ArgumentTypeError: It is less.
        ValueError: It is none.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def add_running(parser: argparse.ArgumentParser, output: str) -> None:
    """The options of runs side by side."""
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows to make (default: all)")
    parser.add_argument("--seeds", type=positive, metavar="N", help="at most N seeds of each row")
    parser.add_argument("--jobs", type=positive, default=2, help="runs side by side (default: %(default)s)")
    parser.add_argument("--output", type=Path, help=f"folder of everything (default: {output})")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds of one run (default: %(default)s)")
    parser.add_argument("--retry-failed", action="store_true", help="make runs that failed again")
    parser.add_argument("--smoke", action="store_true", help="a few tiny runs, to see that everything works")
    parser.add_argument("--table", action="store_true", help="make no runs, only the table of what is there")
    parser.add_argument(
        "--publish", action="store_true", help="put the table into this folder and the documentation, too"
    )
    for name in ("--one", "--settings", "--digest"):  # what a run's own process is told
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)


def interrupt_on_signals() -> None:
    """SIGTERM and a terminal that closes are interruptions: the runs would go on without the command."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)


def lock(output: Path) -> FolderLock:
    """One command at a time in a folder.

    Raises:
        grace_st.bulk.lock.LockedError: Another one is at work.
    """
    output.mkdir(parents=True, exist_ok=True)
    return FolderLock(output)
