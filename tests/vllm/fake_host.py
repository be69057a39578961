"""A process that speaks as the one that runs vLLM, without vLLM: a "model" whose states are known by formula.

What it does besides is in the environment variable ``FAKE_VLLM``: ``die=7`` ends it after so many results, and so on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from grace_st.engines.vllm import host
from grace_st.engines.vllm.messages import Batch, Ready, Result, Results, Start

DIMENSION = 5
VOCABULARY = 4096
TOKENS = 50  # those that it writes


def states(ids: tuple[int, ...]) -> np.ndarray:
    """``[T, d]``: depend on all tokens up to their own."""
    table = np.sin(np.outer(np.arange(1, VOCABULARY + 1), np.arange(1, DIMENSION + 1)))
    return np.cumsum(table[list(ids)], axis=0).astype(np.float32)


def next_id(ids: tuple[int, ...], seed: int | None) -> int:
    """The token that follows."""
    return (sum(ids) * 7 + len(ids) + (seed or 0) % 1000) % TOKENS


class FakeHost:
    """Stands for `grace_st.engines.vllm.host.Host`."""

    def __init__(self, start: Start, send: Any) -> None:
        self.send, self.start = send, start
        self.does = dict(part.partition("=")[::2] for part in os.environ.get("FAKE_VLLM", "").split(",") if part)
        self.left = int(self.does.get("die", -1))
        if "refuse" in self.does:
            raise ValueError("Model architectures ['OddModel'] are not supported for now.")
        if "never" in self.does:
            time.sleep(1000)
        if "children" in self.does:
            # One that vLLM would have started; it is asked to be found again by its arguments.
            subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(1000)  # {self.does['children']}"])
        if "worker" in self.does:
            # As vLLM's own: started with multiprocessing, and waited for without a limit.
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
            worker.start()
            self.worker = worker.pid
        cause = "it keeps other books" if "books" in self.does else None
        self.ready = Ready(
            version="0.0", device="cpu", dtype="float32", dimension=DIMENSION, architecture="Fake", cause=cause
        )

    def run(self, batch: Batch) -> None:
        for job in batch.jobs:
            if self.does.get("hang") == job.name and len(batch.jobs) > 6:
                time.sleep(1000)
            stops = batch.sampling.get("stop_token_ids", [])
            generated: list[int] = []
            while len(generated) < job.max_tokens and not (generated and generated[-1] in stops):
                generated.append(next_id(job.ids + tuple(generated), job.seed))
            fed = states(job.ids + tuple(generated[:-1]))[job.start :]
            if self.start.pooling == "mean":
                vector = fed.sum(axis=0)
            else:
                vector = fed.max(axis=0) if self.start.pooling == "max" else fed[-1]
            if "wrong" in self.does and batch.pooled == "requests":
                vector = vector * 1.1
            if "nan" in self.does and len(batch.jobs) > 6:
                vector = vector * np.nan
            ended = generated[-1] in stops
            result = Result(
                name=job.name,
                ids=tuple(generated),
                stop_id=generated[-1] if ended else None,
                logprobs=tuple(-float(token) for token in generated) if "logprobs" in batch.sampling else None,
                vector=vector.astype(np.float32).tobytes() if batch.pooled else b"",
                count=len(fed) if batch.pooled else 0,
            )
            self.send(Results([result]))
            if len(batch.jobs) > 6:  # not the check at the start
                self.left -= 1
                if self.left == 0:
                    if "worker" in self.does:
                        os.kill(self.worker, signal.SIGKILL)
                        time.sleep(1000)
                    if "said" in self.does:
                        sys.stderr.write("RuntimeError: the disk has left\n")
                        sys.stderr.flush()
                        os._exit(3)
                    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    host.Host = FakeHost  # type: ignore[misc,assignment]
    host.main(int(sys.argv[1]))
