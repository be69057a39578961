from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from grace_train.local.checkpoints import CheckpointError, CheckpointStore, RunState


def state(step: int, size: int = 10, **progress: Any) -> RunState:
    return RunState(
        step=step,
        weights={"a": torch.full((size,), float(step))},
        optimizer={"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        sampler={"epoch": 0},
        monitor={},
        progress=progress,
        config={"seed": 0},
        fingerprint="f",
    )


def test_the_newest_comes_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.steps() == []
    for step in (0, 5, 10, 15):
        store.save(state(step, text="ü"))
    assert store.steps() == [10, 15]
    loaded = store.load()
    assert loaded.step == 15
    assert loaded.progress == {"text": "ü"}
    assert torch.equal(loaded.weights["a"], torch.full((10,), 15.0))
    assert loaded.optimizer["param_groups"][0]["lr"] == 1e-3


def test_best_weights_stay_as_long_as_a_checkpoint_names_them(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save_best(2, {"a": torch.ones(1)})
    store.save(state(2, best_step=2))
    store.save_best(4, {"a": torch.zeros(1)})
    assert torch.equal(store.load_best(2)["a"], torch.ones(1))  # a crash now would go on from step 2
    store.save(state(4, best_step=4))
    assert torch.equal(store.load_best(4)["a"], torch.zeros(1))
    with pytest.raises(CheckpointError, match="best-000002"):
        store.load_best(2)


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # writing really fails, as on a full disk
    try:
        with pytest.raises(OSError, match="the checkpoint of step 1 is intact"):
            store.save(state(2, size=100_000))
        with pytest.raises(OSError, match="cannot be written"):
            store.save_best(2, {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001.pt"]
    assert store.load().step == 1
    store.save(state(2))
    assert store.steps() == [2]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    (tmp_path / ".step-000001.pt.123.tmp").write_bytes(b"half")
    store.save(state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001.pt"]


def test_no_checkpoint_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        store.load()
    store.save(state(1))
    path = store.save(state(2))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"step-000002.pt cannot be read .* remove it to go on from"):
        store.load()
    path.unlink()
    assert store.load().step == 1
    newer = state(3)
    newer.format_version = 99
    store.save(newer)
    with pytest.raises(CheckpointError, match="has format 99"):
        store.load()
