"""VllmSession: vLLM running for one engine: started, asked, ended when a call ends early, and started again.

Knows requests and results, not what is pooled or why.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grace_st.engines.vllm.cause import of_exit, of_message
from grace_st.engines.vllm.errors import VllmDiedError, VllmError, VllmSilentError, VllmStartError
from grace_st.engines.vllm.host import ENVIRONMENT
from grace_st.engines.vllm.messages import Batch, Beat, End, Failed, Job, Pooled, Ready, Result, Results, Start
from grace_st.engines.vllm.options import VllmOptions
from grace_st.engines.vllm.process import HostProcess
from grace_st.engines.vllm.versions import require_vllm

HOST = (sys.executable, "-P", "-m", "grace_st.engines.vllm.host")  # -P: imports are those of this process

ONE_PROCESS = (
    "a model with engine='vllm' cannot be copied to other processes, so encode(..., device=[...]) and pools do not go "
    "with it: several GPUs are the engine option tensor_parallel_size, or one process for each"
)

OnResult = Callable[[int, Result], None]
"""Called with the number that is a request's name, and its result."""


class VllmSession:
    """At most one process that runs vLLM, used by one thread at a time.

    Args:
        folder: The model folder, for messages.
        start: What is started.
        options: Limits of waiting, and the size of the cache on a CPU.
        check: Called when vLLM has started, before it is used, with what was started and `run`. What it raises ends it.

    Attributes:
        process: The process; None where none is running.
    """

    def __init__(
        self,
        folder: Path,
        start: Start,
        options: VllmOptions,
        check: Callable[[Ready, Callable[..., None]], None],
    ) -> None:
        self.process: HostProcess | None = None
        self._folder = folder
        self._start_message = start
        self._options = options
        self._check = check
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._ready: Ready | None = None

    @property
    def ready(self) -> Ready:
        """What was started, also when it has ended since. Starts it, if it never was."""
        if self._ready is None:
            self.start()
        assert self._ready is not None
        return self._ready

    def start(self) -> None:
        """Start vLLM, unless it is running.

        Raises:
            VllmMissingError: vLLM is not installed, or in an unsupported version; an `ImportError`.
            VllmStartError: vLLM cannot be started; the message has the cause.
            VllmMismatchError: It has not passed the check.
            ValueError: This process is a fork of the one that made the session.
        """
        if os.getpid() != self._owner:
            raise ValueError(ONE_PROCESS)
        with self._lock:
            if self.process is None or not self.process.is_running:
                self.close()
                require_vllm()
                self._start()

    def close(self) -> None:
        """End vLLM. The next call starts it again."""
        with self._lock:
            if self.process is not None:
                self.process.end()
            self.process = None

    @contextmanager
    def call(self, count: int, done: Sized) -> Iterator[None]:
        """One call at a time, with vLLM running; whatever ends it early ends vLLM, which is busy with its requests.

        Args:
            count: Rationales that the call asks for.
            done: What is finished of them, for messages.

        Raises:
            VllmDiedError: vLLM ended; the message has the cause.
            VllmSilentError: It has made no step for longer than ``step_limit``.
        """
        with self._lock:
            self.start()
            try:
                yield
            except VllmSilentError as error:
                self.close()
                raise VllmSilentError(
                    f"vLLM has made no step for {self._options.step_limit:.0f} seconds (engine option step_limit) and "
                    f"was ended; {len(done)} of {count} rationales were finished"
                ) from error
            except VllmDiedError as error:
                self.close()
                raise VllmDiedError(
                    f"vLLM died with {len(done)} of {count} rationales finished: {error}. With a store they are kept, "
                    "and the same call goes on from there"
                ) from error
            except BaseException:
                self.close()
                raise

    def run(self, jobs: list[Job], sampling: dict[str, Any], pooled: Pooled | None, finish: OnResult) -> None:
        """Do requests whose names are numbers, inside `call`.

        Args:
            jobs: The requests.
            sampling: See `Batch`.
            pooled: See `Batch`.
            finish: Called with each result as it is finished, in any order.

        Raises:
            VllmDiedError: vLLM ended.
            VllmSilentError: It has made no step for longer than ``step_limit``.
        """
        if not jobs:
            return
        process = self.process
        assert process is not None
        process.send(Batch(jobs=jobs, sampling=sampling, pooled=pooled))
        first = int(jobs[0].name)
        left = len(jobs)
        while True:
            message = process.receive(self._options.step_limit)
            if isinstance(message, Results):
                for result in message.results:
                    finish(int(result.name), result)
                left -= len(message.results)
            elif isinstance(message, Failed):
                raise VllmDiedError(_cause(message, process))
            elif isinstance(message, End):
                if left:
                    raise VllmError(f"vLLM left {left} requests from {first} on undone")
                return
            else:
                assert isinstance(message, Beat)

    def _start(self) -> None:
        gib, limit = self._options.cpu_cache_gib, self._options.start_limit
        cache = {} if gib is None else {"VLLM_CPU_KVCACHE_SPACE": str(gib)}
        process = self.process = HostProcess(HOST, ENVIRONMENT, overruled=cache)
        try:
            process.send(self._start_message)
            ready = process.receive(limit)
            if isinstance(ready, Failed):
                raise VllmDiedError(_cause(ready, process))
            self._ready = ready
            self._check(ready, self.run)
        except VllmSilentError as error:
            self.close()
            raise VllmStartError(
                f"vLLM has not started within start_limit={limit:.0f} seconds: raise this engine option "
                "if the model is large and its disk slow"
            ) from error
        except VllmDiedError as error:
            self.close()
            raise VllmStartError(f"vLLM cannot be started with {self._folder}: {error}") from error
        except BaseException:
            self.close()
            raise


def _cause(failed: Failed, process: HostProcess) -> str:
    if failed.exit_code is not None:
        return of_exit(failed.exit_code, process.written())
    return of_message(failed.cause, process.written())
