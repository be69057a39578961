"""The running line of a training run on stderr: live on a terminal, one line each few steps elsewhere."""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

TERMS = ("positive", "negative", "consistency", "hard")
ZERO = 1e-7
"""Deviations below this are shown as 0."""

_SEPARATOR = "  "
_RECENT_STEPS = 30
_LONGEST = 10.0  # An evaluation may take as long as some steps and belongs to the average; an hour's pause does not.


class LiveView:
    """Shows where a run is. It writes to stderr only, so that stdout is free for ``--json``.

    Args:
        total: Steps of the whole run.
        every: Steps between two lines where the output is no terminal. The first and the last step are
            always shown.
        quiet: Show nothing.
        stream: Where to write; stderr if None.
        clock: Seconds, from any start.
    """

    def __init__(
        self,
        total: int,
        *,
        every: int = 1,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._every = every
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._last: tuple[int, float] | None = None
        self._shown: dict[str, float] = {}
        self._redirected: list[logging.StreamHandler[Any]] = []
        self._live = self._start_live() if not quiet and self._stream.isatty() else None

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show a finished step. Call it for each one: time left is measured between the calls.

        A second call for a step adds to what the line shows, and is a line of its own where there is no terminal: an
        evaluation. Its results stay in the live line.
        """
        known = self._last[0] if self._last is not None else None
        self._measure(step)
        if self._quiet:
            return
        left = self._seconds_left(step)
        if self._live is not None:
            kept = {name: value for name, value in self._shown.items() if step == known or name.startswith("eval/")}
            self._shown = {**kept, **values}
            lines = _packed(_parts(step, self._total, self._shown, left), self._live.console.width)
            self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
        elif known in (None, step) or step % self._every == 0 or step == self._total:
            self._write(format_line(step, self._total, values, left))

    def message(self, text: str) -> None:
        """Show a line above the running one."""
        if self._live is not None:
            self._live.console.print(Text(text))
        elif not self._quiet:
            self._write(text)

    def close(self) -> None:
        """Leave the last line where it is and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            for handler in self._redirected:
                handler.setStream(self._stream)
            self._live = None
            self._quiet = True

    def _start_live(self) -> Live | None:
        own = self._stream is not sys.stderr
        console = Console(file=self._stream, force_terminal=True) if own else Console(stderr=True, force_terminal=True)
        if console.is_dumb_terminal:  # it cannot move its cursor
            return None
        # stdout stays what it is: rich would send it to this console, which is stderr.
        live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=not own)
        live.start()
        if not own:
            self._redirect_logging()
        return live

    def _redirect_logging(self) -> None:
        """Let log records appear above the running line: their handlers hold the stderr of before."""
        known = [logging.root, *logging.root.manager.loggerDict.values()]
        loggers = [logger for logger in known if isinstance(logger, logging.Logger)]
        for handler in {handler for logger in loggers for handler in logger.handlers}:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream:
                handler.setStream(sys.stderr)
                self._redirected.append(handler)

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _measure(self, step: int) -> None:
        now = self._clock()
        if self._last is not None and step > self._last[0]:
            self._seconds.append((now - self._last[1]) / (step - self._last[0]))
        if self._last is None or step > self._last[0]:
            self._last = (step, now)

    def _seconds_left(self, step: int) -> float | None:
        if not self._seconds:
            return None
        limit = _LONGEST * statistics.median(self._seconds)
        return (self._total - step) * statistics.fmean(min(seconds, limit) for seconds in self._seconds)


def format_line(step: int, total: int, values: Mapping[str, float], seconds_left: float | None) -> str:
    """A step as one line, the most important first; what is missing in the values is left out.

    ``step 12/100  3:05 left  reward 6.83 (0.410)  positive 0.812 (0.031)  length 34  EOS 98%  1240 tokens/s``: in
    brackets is the mean standard deviation within groups. A reward term that has 0 there trains nothing.

    Args:
        step: The step that is finished, from 1.
        total: Steps of the whole run.
        values: The step's values by name.
        seconds_left: None if not known yet.
    """
    return _SEPARATOR.join(_parts(step, total, values, seconds_left))


def _parts(step: int, total: int, values: Mapping[str, float], seconds_left: float | None) -> list[str]:
    parts = [f"step {step}/{total}"]
    if seconds_left is not None and step < total:
        parts.append(f"{_duration(seconds_left)} left")
    parts += _reward("reward", "reward/total", values)
    parts += _reward("query reward", "query_reward/total", values)
    for term in TERMS:
        parts += _reward(term, f"reward/{term}", values)
    for label, name, form in (
        ("loss", "loss/contrastive", "{label} {value:.3f}"),
        ("length", "rollout/length", "{label} {value:.0f}"),
        ("EOS", "rollout/eos_rate", "{label} {value:.0%}"),
        ("tokens/s", "rollout/tokens_per_second", "{value:.0f} {label}"),
        ("nDCG@10", "eval/ndcg@10", "{label} {value:.3f}"),
    ):
        if name in values:
            parts.append(form.format(label=label, value=values[name]))
    return parts


def _reward(label: str, name: str, values: Mapping[str, float]) -> list[str]:
    if name not in values:
        return []
    deviation = values.get(f"{name}_std")
    return [f"{label} {_number(values[name])}" + ("" if deviation is None else f" ({_number(deviation)})")]


def _number(value: float) -> str:
    if abs(value) < ZERO:
        return "0"
    if abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _packed(parts: list[str], width: int) -> list[str]:
    """The parts on as many lines as they need, none cut unless it is wider than the terminal by itself."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}{_SEPARATOR}{part}"
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines
