"""Checkpoints: everything that a run needs to go on exactly where it was, in one file that is whole or absent."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grace_train.files import write_atomically

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{6,})\.pt")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used here."""


@dataclass
class RunState:
    """The state of a run between two steps.

    Random numbers need none: those of a step depend on the seed and the step alone.

    Attributes:
        step: Steps done.
        weights: The trained weights, float32 on the CPU.
        optimizer: State of the optimiser.
        sampler: State of the order of the data.
        monitor: Counters of the stop conditions.
        progress: What the run remembers, see `grace_train.local.progress.Progress`; JSON-ready.
        config: The configuration, JSON-ready.
        fingerprint: Of the start model.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    sampler: dict[str, Any]
    monitor: dict[str, Any]
    progress: dict[str, Any]
    config: dict[str, Any]
    fingerprint: str
    format_version: int = field(default=FORMAT_VERSION)


class CheckpointStore:
    """The checkpoints of one run, and the weights of its best step.

    Args:
        folder: Where they are; made when the first is written.
        keep: How many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in found if match)

    def save(self, state: RunState) -> Path:
        """Write a checkpoint, then remove those that are too old and best weights that none refers to.

        Raises:
            OSError: It cannot be written; earlier ones are as they were.
        """
        path = self._write(self._path(state.step), vars(state))
        for step in self.steps()[: -self.keep]:
            self._path(step).unlink()
        best = state.progress.get("best_step")
        for other in self.folder.glob("best-*.pt"):
            if best is None or other != self.best_path(best):
                other.unlink()
        return path

    def load(self) -> RunState:
        """The newest checkpoint.

        Raises:
            CheckpointError: There is none, or it cannot be read.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"there is no checkpoint in {self.folder}: run without --resume to start")
        values = _read(self._path(steps[-1]))
        if values.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{self._path(steps[-1])} has format {values.get('format_version')!r} and this grace-st reads "
                f"{FORMAT_VERSION}: go on with the version that wrote it"
            )
        return RunState(**values)

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights of the best step so far.

        Raises:
            OSError: They cannot be written; earlier ones are as they were.
        """
        self._write(self.best_path(step), {"step": step, "weights": weights})

    def has_best(self, step: int) -> bool:
        """Whether `load_best` finds something."""
        return self.best_path(step).is_file()

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights of the best step.

        Raises:
            CheckpointError: They are not there, or cannot be read.
        """
        weights: dict[str, Tensor] = _read(self.best_path(step), "go on with --resume eval.keep=last")["weights"]
        return weights

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.pt"

    def best_path(self, step: int) -> Path:
        """Where the weights of the best step are."""
        return self.folder / f"best-{step:06d}.pt"

    def _write(self, path: Path, values: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove_torn(self.folder)
        write: Callable[[Path], object] = partial(torch.save, values)
        try:
            write_atomically(path, write)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as either
            reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
            newest = self.steps()
            kept = f"the checkpoint of step {newest[-1]} is intact" if newest else "there is no earlier checkpoint"
            raise OSError(
                f"{path} cannot be written ({reason:.200}): {kept}. Make room, then go on with --resume"
            ) from error
        return path


def _remove_torn(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in folder.glob(".*.pt.*.tmp"):
        path.unlink(missing_ok=True)


def _read(path: Path, remedy: str = "remove it to go on from the one before") -> dict[str, Any]:
    try:
        values: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}: {remedy}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} cannot be read ({reason:.200}): {remedy}") from error
    return values
