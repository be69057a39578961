"""One run: train if the row says so, measure, write one JSON file. A process of its own."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch

from harness.digests import versions
from harness.experiment import write_text
from harness.training import trained
from reward_choice.measure import measure
from reward_choice.rows import Run
from reward_choice.settings import Settings, changes_of


def do(run: Run, settings: Settings, *, start: Path, work: Path, result: Path, digest: str) -> None:
    """Make a run.

    Args:
        run: What.
        settings: Sizes.
        start: Folder of the start model.
        work: Folder for the trained model, removed at the end.
        result: The JSON file, written at the end: there and whole, or not there.
        digest: Kept in the file, see `reward_choice.settings.digest`.
    """
    torch.set_num_threads(1)
    began = time.process_time()  # of the CPU: other programs do not count
    folder, log = start, None
    if run.row.is_trained:
        folder, log = work, trained(changes_of(run, settings, model=str(start), output=str(work)), work)
    after = time.process_time()
    figures = measure(folder, run.row, settings)
    ended = time.process_time()
    content = {
        "status": "done",
        "digest": digest,
        "row": run.row.name,
        "start": run.row.start,
        "seed": run.seed,
        "settings": asdict(settings),
        "versions": versions(),
        "figures": figures,
        "training": log,
        "seconds": {"training": after - began, "measuring": ended - after},
    }
    write_text(result, json.dumps(content, indent=1) + "\n")
    if run.row.is_trained:
        shutil.rmtree(work)
