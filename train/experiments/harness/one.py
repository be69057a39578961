"""One run: train, measure, write one JSON file. A process of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.digests import versions
from harness.experiment import write_text
from harness.training import trained


def do(
    about: Mapping[str, Any],
    changes: Sequence[str] | None,
    measure: Callable[[Path], Mapping[str, Any]],
    *,
    start: Path,
    work: Path,
    result: Path,
) -> None:
    """Make a run.

    Args:
        about: What the file says beside the results: the digest, the row, the seed, the settings.
        changes: To the configuration; None where nothing is trained.
        measure: The figures of a model folder.
        start: Folder of the start model.
        work: Folder for the trained model, removed at the end.
        result: The JSON file, written at the end: there and whole, or not there.
    """
    torch.set_num_threads(1)
    began = time.process_time()  # of the CPU: other programs do not count
    folder, log = (start, None) if changes is None else (work, trained(changes, work))
    after = time.process_time()
    figures = measure(folder)
    ended = time.process_time()
    content = {
        "status": "done",
        **about,
        "versions": versions(),
        "figures": figures,
        "training": log,
        "seconds": {"training": after - began, "measuring": ended - after},
    }
    write_text(result, json.dumps(content, indent=1) + "\n")
    if changes is not None:
        shutil.rmtree(work)
