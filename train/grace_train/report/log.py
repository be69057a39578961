"""The metrics of a run: ``metrics.jsonl``, TensorBoard, Weights & Biases."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from grace_train.extras import MissingExtraError
from grace_train.report.config import LogConfig
from grace_train.report.jsonl import StepFile, read_records

METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"
WANDB_ID_NAME = "wandb_id.txt"

_FLUSH_SECONDS = 20


class RunLog:
    """Writes the values of each step down.

    ``metrics.jsonl`` in the run's folder gets a line for each call of `record`: ``{"step": 3, "reward/total": 6.8}``.
    JSON has no word for NaN and infinity, so they are ``null`` there, and `read_metrics` gives NaN for it. The other
    two are optional and leave such values out. TensorBoard's names hold no ``@``: it shows
    ``eval/ndcg_10``.

    Args:
        folder: The run's folder; made when something is written.
        config: What is written.

    Raises:
        ImportError: TensorBoard or Weights & Biases is asked for and its package is not installed. Nothing has been
            written then.
    """

    def __init__(self, folder: Path, config: LogConfig) -> None:
        self._folder = folder
        self._metrics = StepFile(folder / METRICS_NAME)
        self._project = config.wandb
        self._tensorboard = _import_tensorboard() if config.tensorboard else None
        self._wandb = _import_wandb() if config.wandb is not None else None
        self._purge_step: int | None = None
        self._writer: Any = None
        self._run: Any = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def continue_from(self, step: int, *, is_evaluated: bool = True) -> None:
        """Go on after ``step``, the last one that is done: what was written of later steps is dropped.

        Call it before the first `record`, so that no step is there twice.

        Args:
            step: The step.
            is_evaluated: Its evaluation is done as well; else what was written of it is dropped, and it will be made
                again.
        """
        self._metrics.continue_from(step, None if is_evaluated else 1)
        self._purge_step = step + 1

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Write values of a step down. A step may have several records: an evaluation comes after it.

        Raises:
            FileExistsError: The folder holds the metrics of another run, and `continue_from` was not called.
        """
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        self._metrics.append([{"step": step, **{name: finite.get(name) for name in numbers}}])
        if self._tensorboard is not None:
            if self._writer is None:
                self._writer = self._tensorboard.SummaryWriter(
                    str(self._folder / TENSORBOARD_NAME),
                    purge_step=self._purge_step,
                    flush_secs=_FLUSH_SECONDS,
                    # File names count whole seconds: a quick restart would write over the file before it.
                    filename_suffix=f".{time.time_ns()}",
                )
            for name, value in finite.items():
                self._writer.add_scalar(name, value, step)
        if self._wandb is not None:
            if self._run is None:
                self._run = self._start_wandb()
            self._run.log({"step": step, **finite})

    def close(self) -> None:
        """Write out what is pending."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _start_wandb(self) -> Any:
        assert self._wandb is not None
        path = self._folder / WANDB_ID_NAME
        if not path.exists():
            path.write_text(uuid.uuid4().hex, encoding="utf-8")
        # The id makes a resumed run go on in the same curves.
        identifier = path.read_text(encoding="utf-8")
        run = self._wandb.init(
            project=self._project, dir=str(self._folder), name=self._folder.name, id=identifier, resume="allow"
        )
        # Our own step: theirs only ever grows, so that the steps after a resume would be refused.
        run.define_metric("*", step_metric="step")
        return run


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The records of ``metrics.jsonl``, each with its ``"step"``; a torn last line is left out.

    Args:
        path: The file. What is ``null`` there is NaN here.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line before the last is not what `RunLog` writes.
    """
    return [
        {name: math.nan if value is None else value for name, value in record.items()} for record in read_records(path)
    ]


def _import_tensorboard() -> ModuleType:
    try:
        import tensorboardX
    except ImportError as error:
        raise MissingExtraError(
            "TensorBoard's files need tensorboardX: pip install 'grace-st[train]', or set log.tensorboard=false"
        ) from error
    return tensorboardX


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise MissingExtraError(
            "log.wandb is set and needs wandb: pip install wandb, or leave log.wandb out"
        ) from error
    return wandb
