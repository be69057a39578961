"""One run: train if the row says so, measure, write one JSON file. A process of its own."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from grace_train.nano.real_text import TextCorpus
from harness.digests import versions
from harness.experiment import write_text
from harness.training import trained
from real_text.measure import measure
from real_text.rows import Run, Settings, changes_of


def do(
    run: Run, settings: Settings, *, start: Path, texts: Path, data: Path, work: Path, result: Path, digest: str
) -> None:
    """Make a run.

    Args:
        run: What.
        settings: Sizes.
        start: Folder of the start model.
        texts: Folder of the data sets.
        data: Folder of what is trained on.
        work: Folder for the trained model, removed at the end.
        result: The JSON file, written at the end: there and whole, or not there.
        digest: Kept in the file.
    """
    torch.set_num_threads(1)
    began = time.process_time()  # of the CPU: other programs do not count
    folder, log = start, None
    if run.row.changes is not None:
        changes = changes_of(run, settings, model=str(start), data=str(data), output=str(work))
        folder, log = work, trained(changes, work)
    after = time.process_time()
    figures: dict[str, Any] = measure(folder, TextCorpus(texts), texts, settings, rationales=run.row.rationales)
    ended = time.process_time()
    content = {
        "status": "done",
        "digest": digest,
        "row": run.row.name,
        "seed": run.seed,
        "settings": asdict(settings),
        "versions": versions(),
        "figures": figures,
        "training": log,
        "seconds": {"training": after - began, "measuring": ended - after},
    }
    write_text(result, json.dumps(content, indent=1) + "\n")
    if run.row.changes is not None:
        shutil.rmtree(work)
