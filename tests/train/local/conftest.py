"""Tiny runs: random models, a handful of rows, a second or two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grace_train.config import TrainConfig
from grace_train.config_files import apply_change
from tests.conftest import GraceFolder

ROWS = [
    {
        "query": f"question number {index} about {topic}",
        "positive": f"{topic} and what it is",
        "negative": f"not {topic}",
    }
    for index, topic in enumerate(["cats", "rivers", "Paris", "qubits", "music", "bread", "snow", "trains"])
]

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def make_config(grace_folder: GraceFolder, train_file: Path, tmp_path: Path) -> MakeConfig:
    """``make_config("reward.variant=paper", model=...)``: a configuration of a tiny run."""

    def make(*changes: str, **values: Any) -> TrainConfig:
        base: dict[str, Any] = {
            "model": str(grace_folder("qwen2")),
            "output": str(tmp_path / "run"),
            "steps": 3,
            "batch_size": 3,
            "data": {"train": str(train_file), "cache": str(tmp_path / "cache")},
            "prompt": {"max_new_tokens": 6},
            "rollout": {"group_size": 3},
            "optimizer": {"learning_rate": 1e-3},
            "compute": {"device": "cpu"},
            "eval": {"every": 2, "dev": str(train_file)},
            "checkpoint": {"every": 2},
            "log": {"tensorboard": False, "curves": False, "samples_every": 2},
            # The rationales of a random model hardly ever end by themselves.
            "reward": {"length_penalty": "none"},
            "stop": {"eos_rate_zero_steps": 0},
            **values,
        }
        for change in changes:
            apply_change(base, change)
        return TrainConfig.from_dict(base)

    return make
