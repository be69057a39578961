from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engines.conftest import MakeFile, finish, launch


def test_one_batch_gives_what_the_local_engine_gives(config_file: MakeFile, tmp_path: Path) -> None:
    """With two workers, whose gradients have to be put together right."""
    path = config_file("parity", gpus=2, batch_size=4, optimizer={"learning_rate": 1e-4})
    log = tmp_path / "log.txt"
    run = finish(launch(["-m", "tests.engines.parity", str(path)], log), log).ok()
    found = json.loads(run.text.split("\nPARITY ")[1].splitlines()[0])
    assert found["vectors"] < 1e-5
    assert found["rewards"] < 1e-5 * 10  # scaled by 10
    assert found["advantages"] < 1e-5 * 10
    assert found["grad_norm"] < 1e-3
    assert found["loss"] < 1e-4
    assert found["surprise"] < 1e-4
    assert found["gap"] < 1e-4
    assert found["names"] == []
    # The optimiser's step is the same, too.
    assert found["moved"] > 1e-3
    assert found["vectors_after_update"] < 1e-2 * found["moved"]
    assert found["divergence"] == pytest.approx(found["divergence_local"], rel=1e-3)
    # Weights that were written come back whole, a tied head included.
    assert found["left"] > 1e-3
    assert found["restored"] == 0
