from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grace_train.report.config import LogConfig
from grace_train.report.curves import draw_curves
from grace_train.report.log import RunLog

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(SIGNATURE)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def write(folder: Path, steps: list[dict[str, float]]) -> Path:
    with RunLog(folder, LogConfig(tensorboard=False)) as log:
        for step, values in enumerate(steps, start=1):
            log.record(step, values)
    return folder / "metrics.jsonl"


def test_a_whole_run_makes_a_picture_and_leaves_nothing_else(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = [
        *(f"{side}/{term}" for side in ("reward", "query_reward") for term in ("total", "negative", "negative_std")),
        "rollout/length",
        "rollout/eos_rate",
        "vectors/effective_rank",
        "loss/policy",
        "loss/grad_norm",
        "kl/start",
        "eval/ndcg@10",
    ]
    metrics = write(tmp_path, [{name: float(generator.random()) for name in names} for _ in range(40)])
    draw_curves(metrics, tmp_path / "curves.png")
    wide, high = size(tmp_path / "curves.png")
    assert wide > high > 600
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "curves.png"}


@pytest.mark.parametrize(
    "steps",
    [
        [{"reward/total": 1.0}],
        [{"reward/total": 1.0}, {}, {"loss/policy": 0.1}],
        [{"reward/negative_std": 0.0}] * 20,
        [{"reward/total": float("nan")}, {"reward/total": 2.0}],
        [{"eval/ndcg@10": 0.4, "eval/loss": 12.0}],
    ],
)
def test_few_steps_and_missing_values_are_no_trouble(tmp_path: Path, steps: list[dict[str, float]]) -> None:
    draw_curves(write(tmp_path, steps), tmp_path / "curves.png")
    one_panel = size(tmp_path / "curves.png")[0] < 700
    assert one_panel == (len({name.split("/")[0] for values in steps for name in values}) == 1)


@pytest.mark.parametrize("steps", [[], [{"time/step": 1.0}]])
def test_nothing_to_draw_is_an_error(tmp_path: Path, steps: list[dict[str, float]]) -> None:
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "run").mkdir()
    metrics = write(tmp_path / "run", steps) if steps else tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="holds no values to draw: train at least one step first"):
        draw_curves(metrics, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = write(tmp_path, [{"reward/total": 1.0}])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'grace-st\[train\]'"):
        draw_curves(metrics, tmp_path / "curves.png")


def test_the_state_of_pyplot_is_left_alone(tmp_path: Path) -> None:
    metrics = write(tmp_path, [{"reward/total": 1.0}])
    program = (
        "import sys, pathlib; from grace_train.report.curves import draw_curves; "
        f"draw_curves(pathlib.Path({str(metrics)!r}), pathlib.Path({str(tmp_path / 'c.png')!r})); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
