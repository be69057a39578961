"""Real runs of the verl engine and of vLLM on a CPU: Ray, FSDP on gloo, vLLM. Each has a hard limit in seconds.

They need an environment of their own (`make test-engines`), and skip where verl is not installed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import grace_st
from tests import tiny
from tests.train.local.conftest import ROWS

LIMIT = 600.0
REPOSITORY = Path(__file__).parents[2]
COMMAND = ["-c", "import sys; from grace_st.cli import main; sys.exit(main())"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engines)
            needed = "vllm" if item.path.name.startswith("test_vllm") else "verl"
            if find_spec(needed) is None:
                item.add_marker(pytest.mark.skip(reason=f"{needed} is not installed: make test-engines"))


@dataclass
class Run:
    """A finished run: its exit code and everything that it printed."""

    code: int
    text: str

    def ok(self) -> Run:
        assert self.code == 0, self.text[-4000:]
        return self


def environment() -> dict[str, str]:
    from grace_train.verl_engine.cpu_support import ENVIRONMENT

    paths = [str(REPOSITORY / part) for part in ("", "train", "evaluation")]
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}


def launch(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start Python in a session of its own, so that everything it starts can be ended with it."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(),
            cwd=REPOSITORY,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], log: Path, limit: float = LIMIT) -> Run:
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        pytest.fail(f"no end within {limit:.0f} s:\n{log.read_text(errors='replace')[-4000:]}")
    finally:
        _end(process.pid)
    return Run(code, log.read_text(errors="replace"))


def _end(session: int) -> None:
    """End what is left of a session: Ray's processes are in it."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,sess="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        pid, own = map(int, line.split())
        if own == session:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder. Heads have 32 dimensions, the fewest that vLLM computes on a CPU."""
    root = tmp_path_factory.mktemp("model")
    tiny.save_checkpoint(root / "plain", hidden_size=128, intermediate_size=128, head_dim=32)
    grace_st.convert(root / "plain", root / "grace", max_seq_length=128, max_new_tokens=24)
    return root / "grace"


MakeFile = Callable[..., Path]


@pytest.fixture(scope="session")
def config_file(model: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeFile:
    """``config_file("name", mode="unsupervised", gpus=2)``: the YAML file of a run of seconds."""
    from grace_train.verl_engine.cpu_support import SETTINGS

    root = tmp_path_factory.mktemp("runs")
    pairs, texts = root / "pairs.jsonl", root / "texts.txt"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    lines = [f"{row['positive']} for those who have a {row['query']}\n" for row in ROWS]
    texts.write_text("".join(lines), encoding="utf-8")

    def make(name: str, *, mode: str = "supervised", gpus: int = 1, **values: Any) -> Path:
        data = str(pairs if mode == "supervised" else texts)
        config: dict[str, Any] = {
            "model": str(model),
            "output": str(root / name),
            "engine": "verl",
            "mode": mode,
            "steps": 3,
            "batch_size": 3,
            "data": {"train": data, "cache": str(root / "cache")},
            "prompt": {"max_new_tokens": 6},
            "rollout": {"group_size": 3},
            "optimizer": {"learning_rate": 1e-3},
            "compute": {"precision": "fp32", "tokens_per_microbatch": 256},
            "eval": {"every": 2, "dev": data},
            "checkpoint": {"every": 2},
            "log": {"tensorboard": False, "curves": False, "samples_every": 2},
            # The rationales of a random model hardly ever end by themselves.
            "reward": {"length_penalty": "none"},
            "stop": {"eos_rate_zero_steps": 0},
            "cluster": {"gpus": gpus, "attention": "sdpa", "agent_workers": 1, "step_limit": 400},
            "verl": {**SETTINGS, "ray_kwargs.ray_init.num_gpus": gpus},
        }
        for key, value in values.items():
            config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
        path = root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return make


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Run]:
    """``train(file, "steps=4", "--resume")``: the command line, to its end."""

    def run(path: Path, *arguments: str) -> Run:
        log = tmp_path / "log.txt"
        return finish(launch([*COMMAND, "train", str(path), *arguments], log), log)

    return run


def metrics(path: Path) -> list[dict[str, float]]:
    """The steps that a run has logged so far."""
    file = output(path) / "training" / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [record for record in map(json.loads, lines) if "loss/policy" in record]


def output(path: Path) -> Path:
    return Path(yaml.safe_load(path.read_text(encoding="utf-8"))["output"])


def encodes(folder: Path) -> None:
    """The stock class loads what was written."""
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(str(folder), trust_remote_code=True).encode(["cats", "rivers"])
    assert vectors.shape == (2, 128)
    assert np.isfinite(vectors).all()


def check_steps(path: Path, steps: int) -> list[dict[str, float]]:
    """The log of a run of so many steps, in which nothing went wrong."""
    found = metrics(path)
    assert [record["step"] for record in found] == list(range(1, steps + 1))
    assert all(record["loss/grad_norm"] > 0 and record["cluster/lost_instances"] == 0 for record in found)
    # What vLLM sampled from is what FSDP trains, also after updates: the newest weights are there.
    assert max(record.get("loss/logprob_gap", 0.0) for record in found) < 1e-4
    return found
