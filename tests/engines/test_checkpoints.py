"""When shards are written; needs no running cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any


def test_shards_that_are_whole_are_not_written_over(tmp_path: Path) -> None:
    """verl writes in place: a run that is killed while it writes the only checkpoint again could not go on."""
    from grace_train.verl_engine.trainer import VerlTrainer

    calls: list[tuple[str, str]] = []
    made: Any = VerlTrainer.__new__(VerlTrainer)  # without its processes
    made.folder = SimpleNamespace(checkpoints=SimpleNamespace(folder=tmp_path, steps=lambda: [made.step]))
    made._call = lambda method, path, what: calls.append((method, Path(path).name))
    made._save_state = lambda weights, optimizer: None
    made._restore_weights(SimpleNamespace(step=2))
    made.step = 2
    made._save_checkpoint()  # the evaluation of step 2, which a signal had left for later, has been made
    made.step = 3
    made._save_checkpoint()
    made._save_checkpoint()
    assert calls == [("load_run", "shards-000002"), ("save_run", "shards-000003")]
