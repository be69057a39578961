"""Ray that comes up too slowly, without Ray coming up."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from grace_train.verl_engine.jobs import ClusterError

TOO_SLOW = "The current node timed out during startup. This could happen because the GCS has become overloaded."


class SlowRay:
    """``ray.init`` that starts a process and gives up, so many times."""

    def __init__(self, failures: int, message: str = TOO_SLOW) -> None:
        self.failures = failures
        self.message = message
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, **options: Any) -> None:
        assert all(process.poll() is not None for process in self.processes), "half a cluster was left running"
        self.processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if len(self.processes) <= self.failures:
            raise Exception(self.message)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> SlowRay:
    import ray

    made = SlowRay(*request.param)
    monkeypatch.setattr(ray, "init", made)
    request.addfinalizer(made.end)
    return made


@pytest.mark.parametrize("slow", [(0,), (2,)], indirect=True)
def test_a_slow_start_is_tried_again_and_what_it_left_is_ended(slow: SlowRay) -> None:
    from grace_train.verl_engine.ray_start import start_ray

    start_ray({"num_cpus": 1})
    assert len(slow.processes) == slow.failures + 1
    assert [process.poll() is None for process in slow.processes] == [False] * slow.failures + [True]


@pytest.mark.parametrize("slow", [(9,)], indirect=True)
def test_ray_that_never_starts_is_one_error(slow: SlowRay) -> None:
    from grace_train.verl_engine.ray_start import start_ray

    with pytest.raises(ClusterError, match="Ray did not start in 3 attempts"):
        start_ray({})
    assert len(slow.processes) == 3


@pytest.mark.parametrize("slow", [(9, "no space left on device")], indirect=True)
def test_other_errors_are_not_tried_again(slow: SlowRay) -> None:
    from grace_train.verl_engine.ray_start import start_ray

    with pytest.raises(Exception, match="no space left"):
        start_ray({})
    assert len(slow.processes) == 1
    assert slow.processes[0].poll() is not None
