"""The queue of texts: those of all requests become batches for one engine.

Requests take turns, a text each, so that a request of one text does not wait for one of thousands. Equal texts that are
waited for at the same time are computed once. Knows neither HTTP nor models.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from grace_st.engines.base import PromptTokens, Sampling
from grace_st.serve.errors import ApiError, BusyError

Answer = TypeVar("Answer")

_LONGEST_PAUSE = 60
_SMOOTHING = 0.3  # of the newest batch in the mean of texts a second


@dataclass(eq=False)
class Work(Generic[Answer]):
    """One text that is waited for.

    Attributes:
        prompt: Its prompt.
        sampling: How its rationale is written.
        tickets: The requests that wait for it, each with the places where it stands in them.
        line: The line it stands in, or None once it is being computed.
    """

    prompt: PromptTokens
    sampling: Sampling
    tickets: dict[Ticket[Answer], list[int]] = field(default_factory=dict)
    line: _Line[Answer] | None = None

    @property
    def key(self) -> tuple[PromptTokens, Sampling]:
        """What its answer depends on."""
        return self.prompt, self.sampling


@dataclass(eq=False)
class _Line(Generic[Answer]):
    """Texts that one request brought, in order (a dictionary, so that any of them leaves at once)."""

    sampling: Sampling
    works: dict[Work[Answer], None] = field(default_factory=dict)


class Ticket(Generic[Answer]):
    """The answers that one request waits for.

    Args:
        loop: The event loop that waits.
        count: Number of texts.

    Attributes:
        shared: How many of the texts another request was waiting for already.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.shared = 0
        self.works: list[Work[Answer]] = []
        self._loop = loop
        self._answers: dict[int, Answer] = {}
        self._missing = count
        self._done: asyncio.Future[None] = loop.create_future()
        if not count:
            self._done.set_result(None)

    async def wait(self) -> list[Answer]:
        """The answers in the order of the texts.

        Raises:
            ApiError: There is none for one of them.
        """
        await self._done
        return [self._answers[place] for place in range(len(self._answers))]

    def put(self, places: Sequence[int], answer: Answer) -> None:
        """One text's answer; from any thread."""
        self._answers |= dict.fromkeys(places, answer)
        self._missing -= len(places)
        if self._missing == 0:
            self._settle(None)

    def fail(self, error: ApiError) -> None:
        """There will be no answer; from any thread."""
        self._settle(error)

    def _settle(self, error: ApiError | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, error)

    def _set(self, error: ApiError | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
            self._done.exception()  # a request that has gone does not ask for it, which asyncio would log


class Batcher(Generic[Answer]):
    """The queue.

    Args:
        most_waiting: Texts that may wait.
    """

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self._condition = threading.Condition()
        self._lines: OrderedDict[_Line[Answer], None] = OrderedDict()
        self._works: dict[tuple[PromptTokens, Sampling], Work[Answer]] = {}
        self._waiting = 0
        self._closed: ApiError | None = None
        self._texts_per_second: float | None = None

    @property
    def waiting(self) -> int:
        """Texts that wait for the engine."""
        return self._waiting

    def submit(self, prompts: Sequence[PromptTokens], sampling: Sampling) -> Ticket[Answer]:
        """Line some texts up. To be called in the event loop that waits for them.

        Raises:
            BusyError: They do not fit.
            ApiError: The queue is closed.
        """
        ticket: Ticket[Answer] = Ticket(asyncio.get_running_loop(), len(prompts))
        places: dict[PromptTokens, list[int]] = {}
        for place, prompt in enumerate(prompts):
            places.setdefault(prompt, []).append(place)
        with self._condition:
            if self._closed is not None:
                raise self._closed.with_traceback(None)  # it is raised again and again
            new = [prompt for prompt in places if (prompt, sampling) not in self._works]
            if self._waiting + len(new) > self.most_waiting:
                raise BusyError(
                    f"{self._waiting} texts are waiting, and {len(new)} more exceed the limit of {self.most_waiting}: "
                    "try again later",
                    retry_after=self._seconds_until_free(),
                )
            line: _Line[Answer] = _Line(sampling)
            for prompt, at in places.items():
                work = self._works.get((prompt, sampling))
                if work is None:
                    work = Work(prompt, sampling, line=line)
                    self._works[work.key] = work
                    line.works[work] = None
                else:
                    ticket.shared += len(at)
                work.tickets[ticket] = at
                ticket.works.append(work)
            if line.works:
                self._lines[line] = None
                self._waiting += len(line.works)
                self._condition.notify_all()
        return ticket

    def cancel(self, ticket: Ticket[Answer]) -> int:
        """Forget a request. Texts that wait for nobody else leave the queue; returned is their number."""
        dropped = 0
        with self._condition:
            for work in ticket.works:
                work.tickets.pop(ticket, None)
                if not work.tickets and work.line is not None:
                    self._leave(work)
                    del self._works[work.key]
                    dropped += 1
        return dropped

    def take(self, most: int, *, linger: float = 0.0) -> list[Work[Answer]] | None:
        """The next batch: a text of each request in turn, as long as they are sampled alike.

        Args:
            most: Texts in it.
            linger: Seconds to wait for more, where there are fewer.

        Returns:
            At least one text; None when the queue is closed.
        """
        with self._condition:
            while True:
                while not self._lines:
                    if self._closed is not None:
                        return None
                    self._condition.wait()
                deadline = time.monotonic() + linger
                while self._waiting < most and self._closed is None:
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._condition.wait(left):
                        break
                if batch := self._next(most):
                    return batch  # otherwise all were cancelled meanwhile

    def finish(self, work: Work[Answer], answer: Answer) -> None:
        """Hand an answer to all that wait for it."""
        for ticket, places in self._tickets_of(work):
            ticket.put(places, answer)

    def fail(self, works: Sequence[Work[Answer]], error: ApiError) -> None:
        """Tell all that wait for some texts that there is no answer."""
        for work in works:
            for ticket, _ in self._tickets_of(work):
                ticket.fail(error)

    def took(self, texts: int, seconds: float) -> None:
        """Note how long a batch took: whoever is refused is told when to come back."""
        rate = texts / max(seconds, 1e-3)
        known = self._texts_per_second
        self._texts_per_second = rate if known is None else known + _SMOOTHING * (rate - known)

    def close(self, error: ApiError) -> None:
        """Accept nothing any more, and end all waiting with an error."""
        with self._condition:
            self._closed = error
            works = list(self._works.values())
            self._lines.clear()
            self._waiting = 0
            for work in works:
                work.line = None
            self._condition.notify_all()
        self.fail(works, error)

    def _next(self, most: int) -> list[Work[Answer]]:
        batch: list[Work[Answer]] = []
        sampling = next(iter(self._lines)).sampling if self._lines else None
        while len(batch) < most and (alike := [line for line in self._lines if line.sampling == sampling]):
            for line in alike[: most - len(batch)]:
                work = next(iter(line.works))
                self._lines.move_to_end(line)
                self._leave(work)
                batch.append(work)
        return batch

    def _tickets_of(self, work: Work[Answer]) -> list[tuple[Ticket[Answer], list[int]]]:
        with self._condition:
            if self._works.get(work.key) is work:
                del self._works[work.key]
            return list(work.tickets.items())

    def _leave(self, work: Work[Answer]) -> None:
        line = work.line
        assert line is not None
        work.line = None
        del line.works[work]
        self._waiting -= 1
        if not line.works:
            del self._lines[line]

    def _seconds_until_free(self) -> int:
        if not self._texts_per_second:
            return 1
        return min(_LONGEST_PAUSE, max(1, math.ceil(self._waiting / self._texts_per_second)))
