"""One run: train if the row says so, measure, write one JSON file. A process of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grace_train import baselines
from grace_train.config_files import load_config
from grace_train.files import write_atomically
from grace_train.local import trainer as local_trainer
from grace_train.report.log import METRICS_NAME, read_metrics
from reward_choice.measure import measure
from reward_choice.rows import Run
from reward_choice.settings import Settings, changes_of

LAST_STEPS = 5


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
        changes = changes_of(run, settings, model=str(start), output=str(work))
        config = load_config("nano", changes)
        train = local_trainer.train if config.method == "grace" else baselines.train
        train(config, overwrite=True, quiet=True)
        folder, log = work, training_log(read_metrics(work / "training" / METRICS_NAME))
    trained = time.process_time()
    figures = measure(folder, run.row, settings)
    ended = time.process_time()
    content = {
        "status": "done",
        "digest": digest,
        "row": run.row.name,
        "start": run.row.start,
        "seed": run.seed,
        "settings": asdict(settings),
        "figures": figures,
        "training": log,
        "seconds": {"training": trained - began, "measuring": ended - trained},
    }
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(result, lambda path: path.write_text(text, encoding="utf-8"))
    if run.row.is_trained:
        shutil.rmtree(work)


def training_log(records: list[dict[str, float]]) -> dict[str, Any]:
    """Of each logged value the mean over the first step, over all, and over the last `LAST_STEPS`."""
    series: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in record.items():
            if name != "step":
                series[name].append(value)
    return {
        name: {
            "first": values[0],
            "mean": float(np.mean(values)),
            "last": float(np.mean(values[-LAST_STEPS:])),
        }
        for name, values in sorted(series.items())
    }
