"""The part of a run that trains: a configuration, and what is kept of its log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grace_train import baselines
from grace_train.config_files import load_config
from grace_train.local import trainer as local_trainer
from grace_train.report.log import METRICS_NAME, read_metrics

LAST_STEPS = 5

QUIET = (
    "eval.dev=null",
    "eval.test=null",
    "eval.every=0",
    "eval.keep=last",
    "checkpoint.every=100000",
    "log.tensorboard=false",
    "log.curves=false",
    "log.sample_texts=0",
    "compute.threads=1",
    "compute.device=cpu",
)
"""Changes to a configuration: nothing but training, the weights of the last step, one thread."""

NO_STOP = ("stop.collapse_steps=0", "stop.eos_rate_zero_steps=0")
"""Of GRACE's runs as well: one that collapses is measured like any other, and not left out of the mean."""

PAPER_WEIGHT = "reward.lambda_hard=0.2"
"""Of GRACE's runs that do not say otherwise, supervised and unsupervised: the paper's, whatever the default is."""


def common(changes: Sequence[str]) -> tuple[str, ...]:
    """What all runs have before their own changes: `QUIET`, and with rollouts `NO_STOP` and `PAPER_WEIGHT`."""
    is_baseline = any(change.startswith("method=") for change in changes)
    return QUIET if is_baseline else (*QUIET, *NO_STOP, PAPER_WEIGHT)


def trained(changes: Sequence[str], folder: Path) -> dict[str, Any]:
    """Train the configuration ``nano`` with changes, which name the folder as their output; the summarised log."""
    config = load_config("nano", changes)
    train = local_trainer.train if config.method == "grace" else baselines.train
    train(config, overwrite=True, quiet=True)
    return training_log(read_metrics(folder / "training" / METRICS_NAME))


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
