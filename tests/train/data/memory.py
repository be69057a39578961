"""A process of its own that prepares a file and draws batches, and tells how much memory that took.

``python -m tests.train.data.memory ROWS FOLDER CHARACTERS`` writes a file of that many rows first, with
documents of about that many characters. Sizes are MiB.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path

from grace_train.data.batches import BatchSampler
from grace_train.data.config import DataConfig
from grace_train.data.loading import load_training_data

BATCHES = 200


def write_rows(path: Path, rows: int, characters: int) -> None:
    """Rows of the shape of public retrieval data: a short query, a positive and a negative of some length."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 11))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as stream:
        for row in range(rows):
            query, positive, negative = (" ".join(rng.choices(words, k=count)) for count in (8, *[characters // 7] * 2))
            line = {"query": f"{query} {row}", "positive": positive, "negative": [negative]}
            stream.write(json.dumps(line) + "\n")


def resident(name: str) -> float:
    """A field of this process's status in MiB: VmHWM is the peak, RssAnon leaves out mapped files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) / 1024


def main(rows: int, folder: Path, characters: int) -> None:
    """Measure and write JSON to stdout."""
    path = folder / f"{rows}.jsonl"
    write_rows(path, rows, characters)
    import pyarrow  # noqa: F401  (its own size is not what is measured)

    before, peak, done = resident("RssAnon"), 0.0, threading.Event()
    before_total = resident("VmRSS")

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    data, _ = load_training_data(DataConfig(train=str(path), cache=str(folder / "cache")), "supervised", seed=0)
    prepared = time.perf_counter()
    sampler = BatchSampler(data, 64, 0)
    ready = time.perf_counter()
    for _ in range(BATCHES):
        sampler.next()
    drawn = time.perf_counter()
    done.set()
    watcher.join()
    measured = {
        "rows": rows,
        "file": path.stat().st_size / 2**20,
        "growth": peak - before,
        "growth_with_mapped_files": resident("VmHWM") - before_total,
        "prepare_s": prepared - started,
        "start_s": ready - prepared,
        "batch_ms": (drawn - ready) / BATCHES * 1000,
    }
    sys.stdout.write(json.dumps({name: round(value, 1) for name, value in measured.items()}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
