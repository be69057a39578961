"""From the first request to the last: signals, and a shutdown that finishes what is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from grace_st.serve.app import create_app
from grace_st.serve.errors import ShuttingDownError
from grace_st.serve.service import Service

logger = logging.getLogger(__name__)

_TICK = 0.05
_FLUSH_SECONDS = 5  # for responses that are on their way to slow clients


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to.

    Args:
        host: Address or name of this machine.
        port: Port; 0 takes a free one.

    Raises:
        OSError: It cannot be had; the message says what to do.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        # Python adds the address, which we name as well.
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise OSError(f"cannot listen on {host}, port {port} ({reason}): choose another --host or --port") from error


class _Server(uvicorn.Server):
    """uvicorn, whose signals are ours: it would stop listening at once, and clients would see no answer at all."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


class Lifecycle:
    """One run of a server.

    Args:
        service: What is served.
        listening: Where.

    Attributes:
        has_cut_off: Whether requests were left without an answer at the end.
        url: Where it listens.
    """

    def __init__(self, service: Service, listening: socket.socket) -> None:
        self.service = service
        self.has_cut_off = False
        host, port = listening.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._socket = listening
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server = _Server(
            uvicorn.Config(
                create_app(service),
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="on",
                timeout_keep_alive=75,  # longer than load balancers keep theirs
                timeout_graceful_shutdown=_FLUSH_SECONDS,
            )
        )

    def run(self) -> None:
        """Serve until a signal, `end`, or the engine's failure ends it."""
        asyncio.run(self._run())

    def end(self) -> None:
        """End it as a signal would; from any thread. The second time what is in flight is not waited for."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._end)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.service.on_failure = self.end
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.add_signal_handler(number, self._end)
        await self._server.serve(sockets=[self._socket])
        if self._ending is not None:
            await self._ending

    def _end(self) -> None:
        if self._ending is None:
            self.service.draining = True
            logger.info("shutting down: %d requests are being answered", self.service.held)
            self._ending = asyncio.ensure_future(self._drain())
        else:
            self._cut_off()

    async def _drain(self) -> None:
        """Refuse what is new, finish what is in flight, and only then stop listening."""
        deadline = time.monotonic() + self.service.limits.grace_seconds
        while self.service.held and time.monotonic() < deadline and not self.has_cut_off:
            await asyncio.sleep(_TICK)
        if self.service.held:
            self._cut_off()
            while self.service.held and time.monotonic() < deadline + _FLUSH_SECONDS:
                await asyncio.sleep(_TICK)  # their errors are on the way
        self._server.should_exit = True

    def _cut_off(self) -> None:
        if self.service.held and not self.has_cut_off:
            self.has_cut_off = True
            logger.warning("%d requests were not finished in time", self.service.held)
            self.service.worker.stop(ShuttingDownError("the server was shut down before this was finished"))


@dataclass(frozen=True)
class Ending:
    """How a server ended.

    Attributes:
        is_clean: All that was in flight was finished, and the engine had not failed.
        is_stuck: The engine's thread is still at work: only ``os._exit`` ends the process at once.
    """

    is_clean: bool
    is_stuck: bool


def serve(service: Service, listening: socket.socket, *, on_ready: Callable[[str], None] = lambda url: None) -> Ending:
    """Serve until the process is told to end.

    Args:
        service: What is served.
        listening: Where.
        on_ready: Called with the URL when the model has been loaded, in another thread.

    Raises:
        Exception: Why the model could not be loaded.
    """
    lifecycle = Lifecycle(service, listening)
    has_been_ready = False

    def ready() -> None:
        nonlocal has_been_ready
        if not has_been_ready:
            has_been_ready = True
            on_ready(lifecycle.url)

    service.on_ready = ready
    lifecycle.run()
    worker = service.worker
    has_failed = worker.state == "failed"
    if has_failed and not has_been_ready and worker.error is not None:
        raise worker.error
    return Ending(is_clean=not (has_failed or lifecycle.has_cut_off), is_stuck=not worker.join(0))
