"""The live table of a run: tasks with their state, and the time left."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grace_eval.mteb.benchmarks import category
from grace_eval.mteb.run import RunState, TaskState

_SHOWN_WAITING = 5
_SHOWN_DONE = 12


class LiveTable:
    """Draws a run as it is at the moment; for `rich.live.Live`.

    Args:
        state: The run.
    """

    def __init__(self, state: RunState) -> None:
        self._state = state

    def __rich__(self) -> RenderableType:
        """The table and a line below it."""
        table = Table(box=None, pad_edge=False)
        table.add_column("Task", no_wrap=True)
        table.add_column("Category")
        table.add_column("State")
        table.add_column("Texts", justify="right")
        table.add_column("Score", justify="right")
        done = [task for task in self._state.tasks if task.status in ("done", "kept", "failed")]
        waiting = [task for task in self._state.tasks if task.status == "waiting"]
        running = [task for task in self._state.tasks if task.status == "running"]
        # A benchmark is longer than a screen: the end of what is done, and the beginning of what waits.
        for task in [*done[-_SHOWN_DONE:], *running, *waiting[:_SHOWN_WAITING]]:
            table.add_row(
                Text(task.task.metadata.name), category(task.task), _state(task), _texts(task), shown_score(task)
            )
        return Group(table, Text(self._summary(len(done))))

    def _summary(self, done: int) -> str:
        left = self._state.seconds_left()
        words = [f"{done} of {len(self._state.tasks)} tasks done"]
        if self._state.started is not None:
            words.append(f"{duration(time.monotonic() - self._state.started)} so far")
        if left is not None:
            words.append(f"about {duration(left)} left")
        return ", ".join(words)


def _state(task: TaskState) -> str:
    return "done before" if task.status == "kept" else task.status


def _texts(task: TaskState) -> str:
    if not task.finished:
        return ""
    of = f" of about {task.expected}" if task.status == "running" and task.expected is not None else ""
    return f"{task.finished}{of}"


def shown_score(task: TaskState) -> str:
    """A task's score in percent, or nothing."""
    return "" if task.score is None else f"{100 * task.score.value:.2f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
