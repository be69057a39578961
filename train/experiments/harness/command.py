"""What the experiments' commands have in common: options, errors in one line, interruption, one at a time."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from grace_st.bulk.lock import FolderLock, LockedError
from harness.experiment import Experiment

logger = logging.getLogger("experiment")


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


def run(name: str, work: Callable[[], int]) -> int:
    """Do a command's work; errors of its user are one line.

    Args:
        name: Of the command.
        work: Returns the exit code.

    Returns:
        The exit code: 2 for a wrong command, 130 for one that was interrupted.
    """
    try:
        return work()
    except (ValueError, LockedError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except KeyboardInterrupt:
        logger.info("interrupted: the same command goes on")
        return 130


def make_runs(
    experiment: Experiment, names: Sequence[str], options: argparse.Namespace, write_table: Callable[[bool], None]
) -> int:
    """Make the runs that are left, and the table.

    Args:
        experiment: All runs.
        names: Those that are wanted.
        options: Of `add_running`.
        write_table: Writes the table, and publishes it if it is told to: not after an interruption.

    Returns:
        The exit code: 1 if a run failed.
    """
    failed = 0
    try:
        if not options.table:
            failed = experiment.make(names, jobs=options.jobs, limit=options.limit, retry_failed=options.retry_failed)
    except KeyboardInterrupt:
        write_table(False)
        raise
    write_table(options.publish)
    return 1 if failed else 0


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
