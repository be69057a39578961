"""The models that runs start from: the bundled grace-nano, and its recipe on a corpus without vague rationales."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import grace_st
from reward_choice.rows import Start


def folder_of(start: Start, output: Path) -> Path:
    """Where a start model is, or will be."""
    return grace_st.nano_path() if start == "vague" else output / "start-plain" / "grace-nano"


def make(starts: Sequence[Start], output: Path, *, steps: int | None, threads: int) -> None:
    """Train the start models that are not there yet, from the last checkpoint if there is one.

    Args:
        starts: Which are needed.
        output: The experiment's folder.
        steps: Of pre-training; None is the recipe's own number.
        threads: CPU threads.

    Raises:
        subprocess.CalledProcessError: Training failed; what it said is on the terminal.
    """
    folder = folder_of("plain", output)
    # The README comes last.
    if "plain" not in starts or (folder / "README.md").is_file():
        return
    home = output / "start-plain"
    words = [sys.executable, "-m", "grace_train.nano", "--no-vague", "--fp32"]
    words += ["--output", str(home), "--threads", str(threads)]
    if steps is not None:
        words += ["--steps", str(steps)]
    if not (home / "tokenizer" / "tokenizer_config.json").is_file():
        subprocess.run([*words, "--stage", "tokenizer"], check=True)
    resume = ["--resume"] if (home / "run" / "checkpoint.pt").is_file() else []
    subprocess.run([*words, "--stage", "train", *resume], check=True)
