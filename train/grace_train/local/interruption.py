"""SIGINT and SIGTERM ask a run to end after its step, or inside an evaluation; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run ended early because it was asked to; its notes say how to go on."""


class Interruption:
    """Catches the signals while it is entered.

    Only the main thread can: elsewhere signals do what they always do.

    Args:
        notify: Called with a line for the user when the first signal comes.
        leaves_evaluations: Whether evaluations are left between two texts, for that line.

    Attributes:
        requested: The name of the signal that came, or None.
    """

    def __init__(self, notify: Callable[[str], None], *, leaves_evaluations: bool = True) -> None:
        self.requested: str | None = None
        self._leaves_evaluations = leaves_evaluations
        self._notify = notify
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def check(self) -> None:
        """End here, where nothing is lost by it, if a signal came.

        Raises:
            Interrupted: One came.
        """
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        when = "after this step, or after this evaluation"
        if self._leaves_evaluations:
            when = "after this step, or now if it is an evaluation, which will be made again"
        self._notify(f"{self.requested}: ending with a checkpoint {when} (once more to stop at once)")
