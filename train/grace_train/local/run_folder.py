"""The folder of a run: model files at its top, and everything about the training in ``training/``."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from grace_st.bulk.lock import LOCK_NAME, FolderLock
from grace_st.cards import write_folder_card
from grace_st.cards.folder import CARD_NAME, CardError, ExistingCard, read_card
from grace_st.config import CONFIG_NAME
from grace_train.config import TrainConfig
from grace_train.config_files import dump
from grace_train.files import write_atomically
from grace_train.local.checkpoints import CheckpointStore
from grace_train.report.log import METRICS_NAME

TRAINING = "training"
SUMMARY = "summary.json"
_ENVIRONMENT = "environment.json"
_EARLIER_CARD = "README-before.md"
_LAST = "modules.json"
_PARTIAL = ".model.partial."
_PACKAGES = ("grace-st", "torch", "transformers", "sentence-transformers", "peft", "numpy")


class RunFolder:
    """Where a run writes, held by this process alone until `release`. What is there stays as it is until `begin`.

    Args:
        config: The run.
        resume: Go on with what is there, if there is something.
        overwrite: Start, in the place of an earlier run; `begin` removes what that left.

    Attributes:
        training: The folder of logs and checkpoints.
        checkpoints: The checkpoints.
        is_continued: Whether there is something to go on with.

    Raises:
        FileExistsError: There is something, and neither ``resume`` nor ``overwrite`` was given; or it is no run; or it
            is a model without the checkpoints to go on from.
        grace_st.bulk.lock.LockedError: Another process is at work there.
    """

    def __init__(self, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
        self.path = Path(config.output).expanduser().resolve()
        self.training = self.path / TRAINING
        self.checkpoints = CheckpointStore(self.training / "checkpoints", config.checkpoint.keep)
        self._check(Path(config.model).expanduser(), resume=resume, overwrite=overwrite)
        self.training.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.training)
        for left in self.path.glob(f"{_PARTIAL}*"):  # a process was killed while it wrote the model
            shutil.rmtree(left)
        self.is_continued = resume and not overwrite and bool(self.checkpoints.steps())
        self._kept = {self._lock.path}

    def keep(self, name: str) -> Path:
        """A path in ``training/`` for something that is made before `begin`, which then leaves it alone."""
        path = self.training / name
        self._kept.add(path)
        return path

    def begin(self, config: TrainConfig) -> None:
        """Start a run: remove what an earlier one left. Not before it is known that data and model can be used."""
        self._clear()
        self.describe(config)

    def _check(self, model: Path, *, resume: bool, overwrite: bool) -> None:
        for place in (self.path, *self.path.parents):
            if place.exists() and not place.is_dir():
                what = "a file" if place == self.path else f"inside {place}, which is a file"
                raise FileExistsError(f"output={self.path} is {what}: choose another output")
        if model.is_dir() and self.path in (model.resolve(), *model.resolve().parents):
            raise FileExistsError(f"output={self.path} is or holds the start model: choose another output")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not any((self.training / name).is_file() for name in (LOCK_NAME, _ENVIRONMENT)):
            what = "a model folder" if (self.path / CONFIG_NAME).is_file() else "not empty"
            raise FileExistsError(f"output={self.path} is {what} and holds no training run: choose another output")
        # A run that could not start, for a typo in its configuration for instance, is in nobody's way.
        has_checkpoint, has_model = bool(self.checkpoints.steps()), (self.path / CONFIG_NAME).is_file()
        if resume and not overwrite and has_model and not has_checkpoint:
            raise FileExistsError(
                f"output={self.path} holds a trained model, whose checkpoints are gone, so that there is nothing to go "
                "on from: replace it with --overwrite, or choose another output"
            )
        has_log = (self.training / METRICS_NAME).is_file()
        if (has_checkpoint or has_model or has_log) and not resume and not overwrite:
            raise FileExistsError(
                f"output={self.path} holds a run already: go on with it with --resume, replace it with --overwrite, "
                "or choose another output"
            )

    def _clear(self) -> None:
        """Remove ``training/`` and, where there is a model, all files beside it; other folders stay."""
        for entry in self.training.iterdir():
            if entry in self._kept:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if (self.path / CONFIG_NAME).is_file():
            for entry in self.path.iterdir():
                if entry != self.training and entry.is_file():
                    entry.unlink()

    def describe(self, config: TrainConfig) -> None:
        """Write down what is run, and with which versions."""
        self.write_text("config.yaml", dump(config))
        self.write_json(_ENVIRONMENT, _environment())

    def write_text(self, name: str, text: str) -> None:
        """Write a file of ``training/``, atomically."""
        write_atomically(self.training / name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of ``training/``, atomically."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """What a finished run wrote about itself, or None."""
        path = self.training / SUMMARY
        if not path.is_file() or not (self.path / _LAST).is_file():
            return None
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary

    def publish(self, write: Callable[[Path], None]) -> None:
        """Put model files at the top of the folder. ``modules.json`` comes last: without it nothing loads."""
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.path))
        try:
            try:
                write(partial)
            except SafetensorError as error:  # how it reports a full disk
                raise OSError(f"the model cannot be written to {self.path} ({error}): make room") from error
            (self.path / _LAST).unlink(missing_ok=True)
            entries = sorted(partial.iterdir(), key=lambda entry: entry.name == _LAST)
            for entry in entries:
                entry.replace(self.path / entry.name)
        finally:
            shutil.rmtree(partial)

    def earlier_card(self) -> ExistingCard | None:
        """The card of a model that is there before another is written; one that was changed by hand is put aside."""
        path = self.path / CARD_NAME
        try:
            card = read_card(path)
        except CardError:  # not one that we could keep anything of
            card = None
        if path.is_file() and (card is None or not card.is_ours):
            shutil.copyfile(path, self.training / _EARLIER_CARD)
        return card

    def write_card(self, earlier: ExistingCard | None, base_model: str | None) -> None:
        """Write the card of the model, with what people had written into an earlier one."""
        kept = earlier.with_other_weights() if earlier is not None else None
        write_folder_card(self.path, previous=kept, base_model=base_model, force=True)

    def release(self) -> None:
        """Let other processes in."""
        self._lock.release()


def _environment() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {"python": platform.python_version(), "platform": platform.platform(), "packages": versions}
