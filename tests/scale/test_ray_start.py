"""Where no cluster is. With a stand-in for Ray: tests/engines has the real one."""

from __future__ import annotations

import socket
import types

import pytest

from grace_st.scale import ray_start
from grace_st.scale.errors import ClusterError, ClusterNotFoundError


class Ray(types.SimpleNamespace):
    """Fails as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(errors=list(errors), asked=[])

    def init(self, **options: object) -> None:
        self.asked.append(options["address"])
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self) -> None:
        pass


def start(monkeypatch: pytest.MonkeyPatch, ray: Ray, address: str | None, environment: str | None = None) -> Ray:
    monkeypatch.setattr(ray_start, "import_ray", lambda: ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    ray_start.start_ray(address)
    return ray


def test_a_cluster_is_found_by_name_by_the_environment_or_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "_check_reachable", lambda address: None)
    assert start(monkeypatch, Ray(), "auto", "b:1").asked == ["auto"]
    assert start(monkeypatch, Ray(), None, "b:1").asked == ["b:1"]
    assert start(monkeypatch, Ray(), None).asked == ["local"]


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_at_which_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        address = f"{prefix}127.0.0.1:{taken.getsockname()[1]}"
        ray = Ray()
        with pytest.raises(ClusterNotFoundError, match=f"there is no Ray cluster at {address} .*refused.*ray start"):
            start(monkeypatch, ray, address)
    assert ray.asked == []


def test_no_cluster_here_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterNotFoundError, match=r"there is no Ray cluster at auto \(none runs\): start one"):
        start(monkeypatch, Ray(ConnectionError("none runs\nmore")), "auto")


def test_a_start_that_is_too_slow_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psutil")
    slow = Exception("The current node timed out during startup.")
    assert start(monkeypatch, Ray(slow, slow), None).asked == ["local"] * 3
    with pytest.raises(ClusterError, match=r"Ray did not start on this machine \(The current node timed out"):
        start(monkeypatch, Ray(slow, slow, slow), None)
    with pytest.raises(ClusterError, match="out of files"):
        start(monkeypatch, Ray(OSError("out of files")), None)
