"""A set of runs: which are left, making them, and what is kept of each. Knows nothing about what a run does."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grace_train.files import write_atomically
from harness.jobs import Ended, Job, run_all

logger = logging.getLogger("experiment")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run.

    Attributes:
        name: Of its files.
        digest: Tells whether a file that is there is the result of this run: of all that its figures depend on.
        words: The command line, which writes the run's file.
        about: What the file of a failed run says beside its cause.
    """

    name: str
    digest: str
    words: tuple[str, ...]
    about: Mapping[str, Any]


class Experiment:
    """The runs of an experiment, and what is known of them.

    A run's file is JSON with ``status`` (``"done"``, or ``"failed"`` with a ``cause``) and ``digest``. Runs that were
    killed, by a signal or the limit, are made again; those that failed by themselves only on request.

    Args:
        output: The experiment's folder.
        runs: In the order in which they are made.
        told: Of a run's file, what is said when it is done.
    """

    def __init__(self, output: Path, runs: list[Planned], told: Callable[[Mapping[str, Any]], str]) -> None:
        self.output = output
        self.runs = runs
        (output / "runs").mkdir(parents=True, exist_ok=True)
        self._told = told

    def path(self, name: str) -> Path:
        """A run's file."""
        return result_path(self.output, name)

    def left(self, names: Collection[str] | None = None, *, retry_failed: bool) -> list[Planned]:
        """The runs that are still to be made: those without a file, or with the file of other settings.

        Args:
            names: Only of these; None is all.
            retry_failed: Those that failed as well.
        """
        wanted = [run for run in self.runs if names is None or run.name in names]
        return [run for run in wanted if not self._is_there(run, retry_failed=retry_failed)]

    def _is_there(self, run: Planned, *, retry_failed: bool) -> bool:
        if not self.path(run.name).is_file():
            return False
        content = json.loads(self.path(run.name).read_text(encoding="utf-8"))
        if content["digest"] != run.digest:
            return False
        return content["status"] == "done" or (content.get("is_final", True) and not retry_failed)

    def results(self) -> dict[str, dict[str, Any]]:
        """The files of all runs that ended, of these settings, by name, in the order of the runs."""
        paths = [(run, self.path(run.name)) for run in self.runs]
        read = [(run, json.loads(path.read_text(encoding="utf-8"))) for run, path in paths if path.is_file()]
        return {run.name: content for run, content in read if content["digest"] == run.digest}

    def note_failure(self, run: Planned, cause: str, *, is_final: bool = True) -> None:
        """Keep why a run failed."""
        content = {"status": "failed", "digest": run.digest, **run.about, "cause": cause, "is_final": is_final}
        write_text(self.path(run.name), json.dumps(content, indent=1) + "\n")

    def make(self, names: Collection[str] | None = None, *, jobs: int, limit: float, retry_failed: bool) -> int:
        """Make the runs that are left.

        Args:
            names: Only of these; None is all.
            jobs: How many side by side.
            limit: Seconds of one run.
            retry_failed: Make those that failed before as well.

        Returns:
            How many failed.
        """
        todo = self.left(names, retry_failed=retry_failed)
        by_name = {run.name: run for run in todo}
        total = len(self.runs) if names is None else len(names)
        logger.info("%d runs, %d of them done", total, total - len(todo))
        failed, seconds = 0, list[float]()
        commands = [Job(run.name, run.words, self.output / "logs" / f"{run.name}.txt") for run in todo]
        # One thread each: two such runs side by side do more than one with two threads.
        environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        for ended in run_all(commands, side_by_side=jobs, limit=limit, environment=environment):
            seconds.append(ended.seconds)
            run = by_name[ended.job.name]
            cause = ended.cause
            if cause is None and not self._is_there(run, retry_failed=True):
                cause = "it ended without a result of these settings"
            if cause is not None:
                failed += 1
                self.note_failure(run, cause, is_final=ended.is_final)
            self._tell(ended, cause, len(seconds), len(todo), statistics.fmean(seconds) / jobs)
        return failed

    def _tell(self, ended: Ended, cause: str | None, count: int, total: int, pace: float) -> None:
        minutes = (total - count) * pace / 60
        if cause is None:
            told = self._told(json.loads(self.path(ended.job.name).read_text(encoding="utf-8")))
        else:
            told = f"failed, {cause:.300}"
        logger.info(
            "%d/%d %s: %s; %.0f s, about %.0f min left", count, total, ended.job.name, told, ended.seconds, minutes
        )


def result_path(output: Path, name: str) -> Path:
    """A run's file in the folder of an experiment."""
    return output / "runs" / f"{name}.json"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
