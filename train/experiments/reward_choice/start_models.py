"""The models that runs start from: the bundled grace-nano, and its recipe on a corpus without vague rationales."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import grace_st
from grace_train.nano.presets import PRESETS
from grace_train.nano.pretrain import PretrainConfig
from harness import start_models
from harness.precision import is_bf16
from reward_choice.rows import Start

_PRESET = "nano"


def folder_of(start: Start, output: Path) -> Path:
    """Where a start model is, or will be."""
    return grace_st.nano_path() if start == "vague" else start_models.folder_of(_PRESET, _home(output))


def _home(output: Path) -> Path:
    return output / "start-plain"


def _config(output: Path, steps: int | None) -> PretrainConfig:
    training = PRESETS[_PRESET].training
    return replace(training, vague=False, bf16=is_bf16(_home(output)), steps=training.steps if steps is None else steps)


def is_there(start: Start, output: Path, steps: int | None) -> bool:
    """Whether a start model is made.

    Raises:
        StartError: Another one is.
    """
    return start == "vague" or start_models.is_there(_PRESET, _home(output), _config(output, steps))


def make(starts: Iterable[Start], output: Path, *, steps: int | None, threads: int) -> None:
    """Train the start models that are not there yet, from the last checkpoint if there is one.

    Args:
        starts: Which are needed.
        output: The experiment's folder.
        steps: Of pre-training; None is the recipe's own number.
        threads: CPU threads.

    Raises:
        StartError: Another one is there, or training failed; what it said is on the terminal.
    """
    if "plain" not in starts:
        return
    config = _config(output, steps)
    options = ["--no-vague", "--threads", str(threads), *([] if config.bf16 else ["--fp32"])]
    if steps is not None:
        options += ["--steps", str(steps)]
    start_models.make(_PRESET, _home(output), config, options)
