"""Start models made by the recipe, once: from its last checkpoint if there is one, and never taken for another."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grace_train.nano.presets import PRESETS
from grace_train.nano.pretrain import PretrainConfig


class StartError(ValueError):
    """A start model is not there, or another one is."""


def folder_of(preset: str, home: Path) -> Path:
    """Where the recipe leaves the model."""
    return home / PRESETS[preset].model_name


def is_there(preset: str, home: Path, config: PretrainConfig) -> bool:
    """Whether the model is made.

    Raises:
        StartError: It was made with other settings.
    """
    if not (folder_of(preset, home) / "README.md").is_file():  # comes last
        return False
    made: Mapping[str, Any] = json.loads((home / "checkpoint" / "recipe.json").read_text(encoding="utf-8"))
    wanted = asdict(config)
    changed = [
        f"{name}={made.get(name)!r} instead of {value!r}" for name, value in wanted.items() if made.get(name) != value
    ]
    if changed:
        raise StartError(f"{home} has a model of other settings ({', '.join(changed)}): use another --output")
    return True


def make(preset: str, home: Path, config: PretrainConfig, options: Sequence[str]) -> Path:
    """The model's folder; made where it is not there.

    Args:
        preset: See `grace_train.nano.presets`.
        home: Folder of everything that the recipe makes.
        config: Settings of training, which ``options`` bring about.
        options: Of the recipe's command line, but for preset, output and stages.

    Raises:
        StartError: The folder has a model of other settings, or training failed; what it said is on the terminal.
    """
    folder = folder_of(preset, home)
    if is_there(preset, home, config):
        return folder
    words = [sys.executable, "-m", "grace_train.nano", "--preset", preset, "--output", str(home), *options]
    resume = ["--resume"] if (home / "run" / "checkpoint.pt").is_file() else []
    try:
        if not (home / "tokenizer" / "tokenizer_config.json").is_file():
            subprocess.run([*words, "--stage", "tokenizer"], check=True)
        subprocess.run([*words, "--stage", "train", *resume], check=True)
    except subprocess.CalledProcessError as error:
        raise StartError(
            f"the start model could not be made: {' '.join(error.cmd)} ended with {error.returncode}"
        ) from None
    return folder
