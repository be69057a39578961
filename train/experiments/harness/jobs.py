"""Runs side by side, each a process with one thread and a time limit. Knows nothing about what a run does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_POLL = 0.2
_TAIL = 600  # characters of a cause


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        name: For messages.
        words: The command line.
        log: File of its output.
    """

    name: str
    words: Sequence[str]
    log: Path


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    began: float
    output: IO[bytes]


@dataclass(frozen=True)
class Ended:
    """A command that ended.

    Attributes:
        job: Which.
        cause: Why it failed; None where it did not.
        seconds: How long it took.
        is_final: Whether it would fail again: it ended by itself, and neither the limit nor a signal ended it.
    """

    job: Job
    cause: str | None
    seconds: float
    is_final: bool = True


def run_all(
    jobs: Sequence[Job],
    *,
    side_by_side: int,
    limit: float,
    environment: Mapping[str, str],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Ended]:
    """Run commands, and yield each as it ends. A failure stops none of the others; whoever leaves early kills them.

    Args:
        jobs: In the order in which they start.
        side_by_side: At most so many at once.
        limit: Seconds after which a command is killed.
        environment: Variables beside those of this process.
        clock: Seconds, from any start.
    """
    waiting = list(jobs)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                running.append(_start(waiting.pop(0), environment, clock()))
            time.sleep(_POLL)
            for item in list(running):
                seconds = clock() - item.began
                code = item.process.poll()
                late = code is None and seconds > limit
                if code is None and not late:
                    continue
                running.remove(item)
                _kill(item)
                is_final = code is not None and code >= 0
                yield Ended(item.job, _cause(item, limit if late else None), seconds, is_final)
    finally:
        for item in running:
            _kill(item)


def _start(job: Job, environment: Mapping[str, str], now: float) -> _Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    output = job.log.open("wb")
    process = subprocess.Popen(
        list(job.words),
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,  # so that what it starts is killed with it, and Ctrl-C is ours to handle
    )
    return _Running(job, process, now, output)


def _kill(item: _Running) -> None:
    if item.process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(item.process.pid, signal.SIGKILL)
        item.process.wait()
    item.output.close()


def _cause(item: _Running, limit: float | None) -> str | None:
    if limit is not None:
        return f"stopped after the limit of {limit:.0f} s"
    code = item.process.returncode
    if code == 0:
        return None
    said = " ".join(item.job.log.read_text(encoding="utf-8", errors="replace").split())
    ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{ending}: {said[-_TAIL:]}"
