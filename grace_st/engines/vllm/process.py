"""A child process that is spoken to through a pipe, watched, and ended with everything that it has started.

Knows nothing of vLLM: a command, messages, and two limits of waiting.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from grace_st.engines.vllm.cause import of_exit
from grace_st.engines.vllm.errors import VllmDiedError, VllmSilentError

_LOOK_SECONDS = 0.5
_CLOSE_SECONDS = 10.0
_LOG_BYTES = 1_000_000


class HostProcess:
    """A running child in a session of its own: Ctrl-C in a terminal does not reach it, and its children are its group.

    It ends when this process does, however that ends, since its end of the pipe is closed then.

    Args:
        command: The program and its arguments; the descriptor of its end of the pipe is appended.
        environment: Added to this process' environment, where a name is not set.
        overruled: Set there in any case.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, overruled: Mapping[str, str] | None = None
    ) -> None:
        own, other = socket.socketpair()
        handle, log = tempfile.mkstemp(prefix="grace-st-vllm-", suffix=".log")
        self.log = Path(log)
        values = {**environment, **os.environ, **(overruled or {}), "PYTHONPATH": _import_path()}
        try:
            self._child = subprocess.Popen(
                [*command, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=values,
                pass_fds=[other.fileno()],
                start_new_session=True,
            )
        except BaseException:
            own.close()
            self.log.unlink(missing_ok=True)
            raise
        finally:
            other.close()
            os.close(handle)
        self.connection = Connection(own.detach())
        self._finalizer = weakref.finalize(self, _end, self._child, self.connection, self.log, os.getpid())

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, nor been ended."""
        return self._finalizer.alive and self._child.poll() is None

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            VllmDiedError: The process has ended.
        """
        try:
            self.connection.send(message)
        except OSError as error:
            raise self._died() from error

    def receive(self, seconds: float) -> Any:
        """The next message.

        Args:
            seconds: How long to wait for it.

        Raises:
            VllmDiedError: The process has ended; the message tells why, as far as it is known.
            VllmSilentError: There was none in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.connection.poll(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))):
                    return self.connection.recv()
            except (EOFError, OSError) as error:
                raise self._died() from error
            if self._child.poll() is not None and not self.connection.poll(0):
                raise self._died()
            if time.monotonic() > deadline:
                raise VllmSilentError(f"no sign of life for {seconds:.0f} seconds")

    def written(self) -> str:
        """The end of what it and its children have written."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - _LOG_BYTES))
            return stream.read().decode("utf-8", errors="replace")

    def _died(self) -> VllmDiedError:
        try:
            code = self._child.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return VllmDiedError("it has closed its end of the pipe")
        return VllmDiedError(of_exit(code, self.written()))

    def end(self) -> None:
        """End it and all that it has started: at once, and for sure."""
        self._finalizer()


def _end(child: subprocess.Popen[bytes], connection: Connection, log: Path, owner: int) -> None:
    if os.getpid() != owner:
        return  # a copy of this object after a fork
    # It kills its group itself when it sees the closed pipe, and this makes sure.
    connection.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_CLOSE_SECONDS)
    log.unlink(missing_ok=True)


def _import_path() -> str:
    """What this process imports from, also where it was told so after it had started."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if Path(entry or ".").is_dir())
