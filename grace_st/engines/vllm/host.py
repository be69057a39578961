"""The process that runs vLLM: takes batches of requests from a pipe, and gives back what is finished as it finishes.

``python -m grace_st.engines.vllm.host DESCRIPTOR``, with the descriptor of one end of a pipe; `process.py` starts it.
In a process of its own vLLM can be ended whatever it does, and what it needs of the environment touches nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from grace_st.engines.vllm.messages import Batch, Beat, End, Failed, Job, Ready, Result, Results, Start

ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the one whose books the worker reads
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one more than the context, for the last token, which is sampled but not fed
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "4",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as many as OMP_NUM_THREADS says
}
"""What vLLM reads from the environment; what is set there already stays."""

EXTENSION = "grace_st.engines.vllm.worker.PoolingWorker"
_BEAT_SECONDS = 1.0
_TAKE_EVERY = 64  # finished requests, or seconds:
_TAKE_SECONDS = 1.0
_ADD_EVERY = 512
_GRACE_SECONDS = 5.0


def main(descriptor: int) -> None:
    """Serve until the other end of the pipe is closed, and then end all processes of this group."""
    connection = Connection(descriptor)
    os.set_inheritable(descriptor, False)
    commands: queue.Queue[Start | Batch] = queue.Queue()

    def listen() -> None:
        # In a thread, so that the end of the other process is noticed whatever vLLM is doing.
        try:
            while True:
                commands.put(connection.recv())
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)

    sending = threading.Lock()

    def send(message: Any) -> None:
        with sending:
            connection.send(message)

    def watch() -> None:
        # vLLM waits for ever for a process of its own that was killed.
        code = _wait_for_an_end(multiprocessing.active_children())
        send(Failed("a process of vLLM's ended", code))
        time.sleep(_GRACE_SECONDS)  # until the other end has read it
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()
    serve(commands.get, send, threading.Thread(target=watch, daemon=True).start)


def _wait_for_an_end(children: Sequence[BaseProcess]) -> int | None:
    """The exit code of the first child that ends."""
    if not children:
        threading.Event().wait()
    ended = wait([child.sentinel for child in children])
    child = next(child for child in children if child.sentinel in ended)
    child.join()
    return child.exitcode


def serve(receive: Callable[[], Start | Batch], send: Callable[[Any], None], when_started: Callable[[], None]) -> None:
    """Start vLLM, and do batches of requests until one fails."""
    try:
        start = receive()
        assert isinstance(start, Start)
        host = Host(start, send)
        when_started()
        send(host.ready)
        while True:
            batch = receive()
            assert isinstance(batch, Batch)
            host.run(batch)
            send(End())
    except Exception as error:
        # What other processes of vLLM wrote about it is in the log, which the reader of this message has.
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        send(Failed(f"{type(error).__name__}: {error}"))


class Host:
    """vLLM, started.

    Args:
        start: What to start.
        send: Takes `Beat` and `Results`.

    Attributes:
        ready: What was started.
    """

    def __init__(self, start: Start, send: Callable[[Any], None]) -> None:
        import vllm
        from vllm.platforms import current_platform

        self.send = send
        on_cpu = current_platform.is_cpu()
        arguments = dict(start.arguments)
        arguments["dtype"] = start.dtype or ("float32" if on_cpu else "auto")
        chunked = start.chunked_prefill
        if chunked is None and on_cpu:
            chunked = False  # so that seeds work
        if chunked is not None:
            arguments["enable_chunked_prefill"] = chunked
        if chunked is False:
            budget, longest = arguments.get("max_num_batched_tokens"), arguments["max_model_len"]
            arguments["max_num_batched_tokens"] = max(budget or 8192, longest)
        self.llm = vllm.LLM(worker_extension_cls=EXTENSION, **arguments)
        self.engine = self.llm.llm_engine
        installed = self.llm.collective_rpc("grace_install", args=(start.pooling,))[0]
        model = self.engine.model_config
        self.ready = Ready(
            version=vllm.__version__,
            device=str(current_platform.device_type),
            dtype=str(model.dtype).removeprefix("torch."),
            # The generator of a seeded request whose prompt is read in pieces is refused by PyTorch on a CPU.
            seeds=not (on_cpu and chunked),
            **installed,
        )
        self.last_beat = time.monotonic()

    def beat(self) -> None:
        """Tell that something goes on, once a second."""
        if time.monotonic() - self.last_beat > _BEAT_SECONDS:
            self.send(Beat())
            self.last_beat = time.monotonic()

    def run(self, batch: Batch) -> None:
        """Do some requests."""
        jobs = {job.name: job for job in batch.jobs}
        self.llm.collective_rpc("grace_begin", args=(batch.pooled,))
        self.add(batch)
        finished: list[tuple[Job, Any]] = []
        taken = time.monotonic()
        while self.engine.has_unfinished_requests():
            outputs = self.engine.step()
            finished += [(jobs[output.request_id], output.outputs[0]) for output in outputs if output.finished]
            now = time.monotonic()
            if len(finished) >= _TAKE_EVERY or (finished and now - taken > _TAKE_SECONDS):
                self.give(finished, batch)
                finished, taken = [], now
            self.beat()
        self.give(finished, batch)

    def add(self, batch: Batch) -> None:
        """Hand all requests to vLLM, which begins with the first meanwhile."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for first in range(0, len(batch.jobs), _ADD_EVERY):
            part = batch.jobs[first : first + _ADD_EVERY]
            if batch.pooled is not None:
                # Ids are looked at where whole sequences are told apart, and would be a burden elsewhere.
                ids = [list(job.ids) if batch.pooled == "sequences" else [] for job in part]
                names, starts = [job.name for job in part], [job.start for job in part]
                self.llm.collective_rpc("grace_expect", args=(names, ids, starts))
            for job in part:
                params = SamplingParams(
                    **batch.sampling,
                    max_tokens=job.max_tokens,
                    seed=job.seed,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                self.engine.add_request(job.name, {"type": "token", "prompt_token_ids": list(job.ids)}, params)
            self.beat()

    def give(self, finished: list[tuple[Job, Any]], batch: Batch) -> None:
        """Send finished requests with their vectors."""
        if not finished:
            return
        # The last generated token is never fed: an EOS is not pooled, and at the budget there is one too many.
        expected = [len(job.ids) - job.start + len(output.token_ids) - 1 for job, output in finished]
        vectors, counts = b"", [0] * len(finished)
        if batch.pooled is not None:
            names = [job.name for job, _ in finished]
            vectors, counts = self.llm.collective_rpc("grace_take", args=(names, expected))[0]
        width = len(vectors) // len(finished)
        results = []
        for index, (job, output) in enumerate(finished):
            ids = tuple(output.token_ids)
            result = Result(
                name=job.name,
                ids=ids,
                stop_id=_stop_id(output),
                logprobs=_logprobs(output),
                vector=vectors[index * width : (index + 1) * width],
                count=counts[index],
            )
            results.append(result)
        self.send(Results(results))
        self.last_beat = time.monotonic()


def _stop_id(output: Any) -> int | None:
    if output.finish_reason == "stop":
        return int(output.token_ids[-1])
    if output.finish_reason == "length":
        return None
    raise RuntimeError(f"vLLM ended a request with {output.finish_reason!r}")


def _logprobs(output: Any) -> tuple[float, ...] | None:
    if output.logprobs is None:
        return None
    return tuple(float(entry[token].logprob) for token, entry in zip(output.token_ids, output.logprobs, strict=True))


if __name__ == "__main__":
    main(int(sys.argv[1]))
