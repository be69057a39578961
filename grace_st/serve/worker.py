"""The one thread that uses the engine: loads the model, computes batches, and loads it again when it breaks down."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from grace_st.engines.base import NonFiniteVectorError
from grace_st.serve.backend import Answer, Backend, ChangedModelError
from grace_st.serve.batcher import Batcher, Work
from grace_st.serve.errors import ApiError, BrokenModelError, UnavailableError
from grace_st.serve.limits import Limits
from grace_st.serve.metrics import Metrics

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "restarting", "failed", "stopped"]

_LONGEST_PAUSE = 60.0


class Worker:
    """Takes batches from the queue until it is told to stop.

    Args:
        load: Loads the model.
        queue: Where texts wait.
        limits: Size of batches, and how often the model is loaded again.
        metrics: Where batches are counted.
        on_ready: Called in the worker's thread whenever the model has been loaded.
        on_failure: Called in the worker's thread when it gives up; `error` says why.

    Attributes:
        state: ``"loading"`` at first, ``"restarting"`` after a breakdown, ``"failed"`` when it has given up.
        backend: The model, where there is one.
        error: Why it has given up.
    """

    def __init__(
        self,
        load: Callable[[], Backend],
        queue: Batcher[Answer],
        limits: Limits,
        metrics: Metrics,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.state: State = "loading"
        self.backend: Backend | None = None
        self.error: Exception | None = None
        self._load = load
        self._queue = queue
        self._limits = limits
        self._metrics = metrics
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._breakdowns = 0  # in a row
        self._busy_since: float | None = None
        # A daemon: an engine that does not return must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="grace-st-engine", daemon=True)

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    def stop(self, error: ApiError) -> None:
        """Take nothing more; what waits gets the error."""
        self._stop.set()
        self._queue.close(error)

    def join(self, seconds: float) -> bool:
        """Wait for the thread's end, and tell whether it came."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def busy_seconds(self) -> float:
        """For how long the engine has been at work on the present batch; 0 when it is idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def _run(self) -> None:
        try:
            backend = self._first()
            while backend is not None:
                self.backend = backend
                self.state = "ready"
                self._on_ready()
                broke_down = self._serve(backend)
                self.backend = backend = None
                if broke_down:
                    gc.collect()  # two models at once may not fit
                    backend = self._again()
        finally:
            if self._stop.is_set():
                self.state = "stopped"
            else:
                self.state = "failed"
                self._queue.close(UnavailableError("the engine has failed for good: the server ends"))
                self._on_failure()

    def _first(self) -> Backend | None:
        try:
            return self._load()
        except Exception as error:  # handed to whoever started the server
            self.error = error
            return None

    def _serve(self, backend: Backend) -> bool:
        """Compute until there is nothing more to do (False) or the engine has broken down (True)."""
        limits = self._limits
        while (works := self._queue.take(limits.max_batch_texts, linger=limits.linger_seconds)) is not None:
            if not self._compute(backend, works):
                return True
            works = []  # while it waits for the next
        return False

    def _compute(self, backend: Backend, works: list[Work[Answer]]) -> bool:
        self._metrics.batch_texts.observe(len(works))
        started = self._busy_since = time.monotonic()
        left = dict.fromkeys(works)  # without an answer so far
        try:
            while left:
                batch = list(left)

                def hand_over(place: int, answer: Answer, batch: Sequence[Work[Answer]] = batch) -> None:
                    # As soon as it is there: a short rationale does not wait for a long one of another request.
                    self._queue.finish(batch[place], answer)
                    left.pop(batch[place], None)

                try:
                    backend.compute([work.prompt for work in batch], batch[0].sampling, hand_over)
                except NonFiniteVectorError as error:
                    # This text's fault, not its neighbours'.
                    logger.error("a text gave non-finite %s", error.what)
                    broken = BrokenModelError(
                        f"the model gave non-finite {error.what} for a text: its weights or their precision are broken"
                    )
                    left.pop(batch[error.index], None)
                    self._queue.fail([batch[error.index]], broken)
                    continue
                if left:
                    raise RuntimeError(f"{len(left)} of {len(batch)} texts got no answer")
        except Exception as error:
            # The boundary: an engine may raise anything when it breaks down, and none of it may end this thread.
            logger.exception("the engine broke down on a batch of %d texts", len(works))
            self.error = error.with_traceback(None)  # whose frames hold the model
            self._breakdowns += 1
            self._metrics.failures.inc()
            self.state = "restarting"
            self._queue.fail(
                list(left), UnavailableError("the engine broke down on this request: try again", retry_after=5)
            )
            return False
        finally:
            self._busy_since = None
        seconds = time.monotonic() - started
        self._metrics.batch_seconds.observe(seconds)
        self._queue.took(len(works), seconds)
        self._breakdowns = 0
        return True

    def _again(self) -> Backend | None:
        """The model, loaded again after a pause; None when it has been tried often enough."""
        while self._breakdowns <= self._limits.max_restarts:
            pause = min(_LONGEST_PAUSE, self._limits.restart_seconds * 2 ** min(self._breakdowns - 1, 30))
            logger.warning(
                "loading the model again in %.1f s (%d of %d)", pause, self._breakdowns, self._limits.max_restarts
            )
            if self._stop.wait(pause):
                return None
            try:
                return self._load()
            except ChangedModelError as error:
                logger.error("%s", error)
                self.error = error
                return None
            except Exception as error:  # the boundary again: tried as often as the engine is
                logger.exception("the model could not be loaded again")
                self.error = error.with_traceback(None)
                self._breakdowns += 1
                gc.collect()
        return None
