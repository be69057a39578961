"""Runs: tasks one after the other, each from where an earlier run left it.

A finished split and subset, whose result is there (`grace_eval.mteb.results`), is not evaluated again. Texts inside one
are kept by the encoder's store.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mteb
from mteb.abstasks import AbsTask

from grace_eval.mteb.data import datasets_cache, local_copies, parts
from grace_eval.mteb.results import Results
from grace_eval.mteb.scores import TaskScore
from grace_st.mteb import GraceEncoder
from grace_st.store import StoreError, StoreFileError

logger = logging.getLogger(__name__)

Status = Literal["waiting", "running", "done", "kept", "failed"]

MOST_SLOTS = 4096
"""mteb's own default of 32 texts would leave slots idle; the engine knows better how many fit."""


@dataclass(kw_only=True)
class TaskState:
    """How far a task is.

    Attributes:
        task: The task.
        status: ``"kept"`` is done by an earlier run.
        expected: About how many texts it has; None where mteb does not say.
        finished: Texts encoded in this run.
        seconds: Of this run.
        score: Of a task that is done.
        error: Why it failed.
        data_root: Holds the local copies that it reads; None for the hub.
        prepared: Where `datasets` prepares those.
    """

    task: AbsTask
    status: Status = "waiting"
    expected: int | None = None
    finished: int = 0
    seconds: float = 0.0
    score: TaskScore | None = None
    error: str | None = None
    data_root: Path | None = None
    prepared: Path | None = None


@dataclass(kw_only=True)
class RunState:
    """How far a run is.

    Attributes:
        tasks: In the order in which they run.
        started: When, by `time.monotonic`; None before.
    """

    tasks: list[TaskState]
    started: float | None = None
    current: TaskState | None = field(default=None, repr=False)

    def advance(self, count: int) -> None:
        """Count texts that have just been finished, for the task that runs."""
        if self.current is not None:
            self.current.finished += count

    def seconds_left(self) -> float | None:
        """About how long it goes on, by the rate so far and mteb's counts of texts; None while that is not known."""
        if self.started is None:
            return None
        finished = sum(state.finished for state in self.tasks)
        elapsed = time.monotonic() - self.started
        open_ = [state for state in self.tasks if state.status in ("waiting", "running")]
        if not finished or elapsed < 1 or any(state.expected is None for state in open_):
            return None
        left = sum(max(0, (state.expected or 0) - state.finished) for state in open_)
        return left * elapsed / finished


def expected_texts(task: AbsTask) -> int | None:
    """About how many texts a task encodes, by mteb's own statistics; None without them."""
    total = 0
    for part in parts(task):
        samples = part.metadata.n_samples
        if samples is None or any(split not in samples for split in part.eval_splits):
            return None
        pairs = 2 if part.metadata.type in ("STS", "PairClassification") else 1
        total += pairs * sum(samples[split] for split in part.eval_splits)
    return total


def plan(tasks: Sequence[AbsTask], results: Results, *, overwrite: bool = False) -> RunState:
    """What there is to do.

    Args:
        tasks: The tasks.
        results: Of earlier runs.
        overwrite: Evaluate again what is done.
    """
    states = []
    for task in tasks:
        state = TaskState(task=task, expected=expected_texts(task))
        score = None if overwrite else results.score(task)
        for part in parts(task) if score is None and not overwrite else ():
            results.score(part)  # sets damaged and outdated files of parts aside
        if score is not None:
            state.status, state.score = "kept", score
        states.append(state)
    return RunState(tasks=states)


def use_local_data(state: RunState, root: Path, cache: Path) -> None:
    """Have the tasks that wait read local copies instead of the hub.

    Args:
        state: Made by `plan`.
        root: The local copies, see `grace_eval.mteb.data.with_local_data`.
        cache: Where `datasets` prepares them.

    Raises:
        grace_eval.mteb.data.MissingDataError: Some are missing.
    """
    waiting = [task for task in state.tasks if task.status == "waiting"]
    for task, (copied, prepared) in zip(
        waiting, local_copies([task.task for task in waiting], root, cache), strict=True
    ):
        task.task, task.data_root, task.prepared = copied, root, prepared


def run(
    state: RunState,
    load: Callable[[], GraceEncoder],
    results: Results,
    *,
    overwrite: bool = False,
    keep_going: bool = False,
    on_task: Callable[[TaskState], None] = lambda state: None,
) -> None:
    """Run what is waiting. The model is loaded for the first task of it.

    Args:
        state: Made by `plan`; kept up to date.
        load: Loads the model.
        results: Where results are kept.
        overwrite: Evaluate again what is done.
        keep_going: Go on with the next task when one fails.
        on_task: Called when a task begins and when it ends.

    Raises:
        Exception: That of a task, with a note on what is kept; with ``keep_going`` only one that all others would
            have as well (the store, a full disk, memory).
    """
    waiting = [task for task in state.tasks if task.status == "waiting"]
    if not waiting:
        return
    encoder: GraceEncoder | None = None
    try:
        encoder = load()
        state.started = time.monotonic()
        for task in waiting:
            state.current = task
            _run_task(task, encoder, results, overwrite=overwrite, keep_going=keep_going, on_task=on_task)
    except BaseException as error:
        if state.started is not None:
            done = sum(task.status in ("done", "kept") for task in state.tasks)
            has_texts = state.current is not None and encoder is not None and encoder.store is not None
            kept = ", and the texts encoded so far," if has_texts else ""
            error.add_note(f"({done} of {len(state.tasks)} tasks{kept} are kept: run the same again to go on)")
        raise
    finally:
        state.current = None


def _run_task(
    state: TaskState,
    encoder: GraceEncoder,
    results: Results,
    *,
    overwrite: bool,
    keep_going: bool,
    on_task: Callable[[TaskState], None],
) -> None:
    state.status = "running"
    on_task(state)
    started = time.monotonic()
    try:
        results.note_source(state.task, state.data_root, overwrite=overwrite)
        with datasets_cache(state.prepared):
            mteb.evaluate(
                encoder,
                state.task,
                cache=results.cache,
                co2_tracker=False,
                encode_kwargs={"batch_size": MOST_SLOTS, "show_progress_bar": False},
                overwrite_strategy="always" if overwrite else "only-missing",
                show_progress_bar=False,
            )
        state.score = results.score(state.task)
        if state.score is None:
            raise RuntimeError(
                f"mteb has evaluated {state.task.metadata.name}, but {results.folder} has no complete result of it"
            )
        state.status = "done"
    except Exception as error:
        state.status, state.error = "failed", _one_line(error)
        if not keep_going or _is_everybodys(error):
            error.add_note(f"(in the task {state.task.metadata.name})")
            raise
        logger.warning("%s has failed: %s", state.task.metadata.name, state.error)
        logger.debug("the traceback", exc_info=True)
    finally:
        state.seconds = time.monotonic() - started
        if state.status == "running":
            state.status = "waiting"  # interrupted
        on_task(state)


def _is_everybodys(error: Exception) -> bool:
    """Whether all other tasks would fail with it as well. Data that are not there are one task's own trouble."""
    if isinstance(error, (StoreError, StoreFileError, MemoryError)):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
