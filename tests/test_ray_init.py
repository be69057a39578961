"""Ray that comes up too slowly, without Ray coming up."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from grace_st import ray_init

TOO_SLOW = "The current node timed out during startup. This could happen because the GCS has become overloaded."


class SlowRay(ModuleType):
    """Ray whose ``init`` starts a process and gives up, so many times."""

    def __init__(self, failures: int, message: str = TOO_SLOW) -> None:
        super().__init__("ray")
        self.failures = failures
        self.message = message
        self.processes: list[subprocess.Popen[bytes]] = []

    def init(self, **options: Any) -> None:
        assert all(process.poll() is not None for process in self.processes), "half a cluster was left running"
        self.processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if len(self.processes) <= self.failures:
            raise Exception(self.message)

    def shutdown(self) -> None:
        pass

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> SlowRay:
    pytest.importorskip("psutil")
    made = SlowRay(*request.param)
    request.addfinalizer(made.end)
    return made


@pytest.mark.parametrize("slow", [(0,), (2,)], indirect=True)
def test_a_slow_start_is_tried_again_and_what_it_left_is_ended(slow: SlowRay) -> None:
    ray_init.init(slow, {"num_cpus": 1})
    assert len(slow.processes) == slow.failures + 1
    assert [process.poll() is None for process in slow.processes] == [False] * slow.failures + [True]


@pytest.mark.parametrize("slow", [(9,)], indirect=True)
def test_ray_that_never_starts_is_one_error(slow: SlowRay) -> None:
    with pytest.raises(ray_init.TooSlowError, match=r"timed out during startup.*\(3 attempts\)"):
        ray_init.init(slow, {})
    assert len(slow.processes) == 3


@pytest.mark.parametrize("slow", [(9, "no space left on device")], indirect=True)
def test_other_errors_are_not_tried_again(slow: SlowRay) -> None:
    with pytest.raises(Exception, match="no space left"):
        ray_init.init(slow, {})
    assert len(slow.processes) == 1
    assert slow.processes[0].poll() is not None
