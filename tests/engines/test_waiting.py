"""Waits of the cluster that need no running cluster."""

from __future__ import annotations

import threading
import time

import pytest

from grace_train.verl_engine.jobs import ClusterError


def cluster(limit: float) -> object:
    from grace_train.verl_engine.cluster import Cluster

    made = Cluster.__new__(Cluster)  # without its processes
    made.limit, made._started, made._looked = limit, time.time(), time.monotonic()
    return made


def test_a_timeout_inside_the_work_is_its_cause_and_ends_the_wait_at_once() -> None:
    def work() -> None:
        raise TimeoutError("requests did not drain")

    made = cluster(60)
    started = time.monotonic()
    with pytest.raises(ClusterError, match="while waiting for the weights: requests did not drain"):
        made._within("the weights", work)  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5


def test_work_that_never_ends_is_given_up_at_the_limit() -> None:
    with pytest.raises(ClusterError, match=r"waited 1 s for vectors, which is cluster\.step_limit"):
        cluster(1)._within("vectors", threading.Event().wait)  # type: ignore[attr-defined]


def test_a_queue_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a controller that has died: its client waits for ever."""
    from grace_train.verl_engine import cluster as module

    monkeypatch.setattr(module, "_tags", threading.Event().wait)
    with pytest.raises(ClusterError, match="waited 1 s for rollouts"):
        cluster(1)._await_finished(["a"], None)  # type: ignore[attr-defined]
