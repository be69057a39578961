"""What the benchmarks measure with: timers of calls, peaks of memory, the machine, and results written whole."""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

import grace_st


class CallTimer:
    """Time spent in some functions, outermost calls only: the whole model calls its decoder."""

    def __init__(self, targets: Sequence[tuple[Any, str]], on_cuda: bool) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._on_cuda = on_cuda
        self._patches = [mock.patch.object(owner, name, self._timed(getattr(owner, name))) for owner, name in targets]

    def __enter__(self) -> CallTimer:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()

    def _timed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)  # its signature is looked at
        def call(*args: Any, **options: Any) -> Any:
            started = self._now()
            self._depth += 1
            try:
                return forward(*args, **options)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += self._now() - started

        return call

    def _now(self) -> float:
        if self._on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


class CudaMemory:
    """The most that torch's allocator holds while it is entered, beyond what it held before."""

    peak: int | None = None

    def __enter__(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()

    def __exit__(self, *_: object) -> None:
        self.peak = torch.cuda.max_memory_allocated() - self._before


class ProcessMemory:
    """Samples what the process occupies beyond what it did before, on Linux; None elsewhere."""

    peak: int | None = None

    def __enter__(self) -> None:
        if not _STATM.exists():
            return
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self._before = _resident()
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak or 0, _resident() - self._before)

    def __exit__(self, *_: object) -> None:
        if self.peak is not None:
            self._done.set()
            self._thread.join()


_STATM = Path("/proc/self/statm")


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else None,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "grace-st": grace_st.__version__,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def write(path: Path | None, result: dict[str, Any]) -> None:
    """The result as JSON, whole or not at all."""
    if path is not None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


def tell(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
