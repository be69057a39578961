"""Starting Ray. On a busy machine its own 30 seconds for a node to appear, which no setting changes, can be too few."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import psutil
import ray

from grace_train.verl_engine.jobs import ClusterError

logger = logging.getLogger(__name__)

ATTEMPTS = 3
_TOO_SLOW = "timed out"
_END_SECONDS = 10.0


def start_ray(options: Mapping[str, Any]) -> None:
    """``ray.init``, again where a local cluster was too slow to come up.

    Call it from the main thread: the processes that Ray starts end with the thread that started them.

    Args:
        options: Of ``ray.init``.

    Raises:
        ClusterError: It was too slow each time.
        Exception: Whatever else ``ray.init`` raises; that is not tried again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        before = set(_children())
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises the bare class here
            _end(set(_children()) - before)
            ray.shutdown()
            if _TOO_SLOW not in str(error).lower():
                raise
            if attempt == ATTEMPTS:
                raise ClusterError(
                    f"Ray did not start in {ATTEMPTS} attempts ({error}): the machine may be too busy, or out of "
                    "memory or disk; `ray start --head` starts it beforehand, for cluster.address=auto"
                ) from error
            logger.warning("Ray did not start in time, attempt %d of %d", attempt, ATTEMPTS)


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _end(processes: set[psutil.Process]) -> None:
    """Half a cluster would go on starting beside the next one."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=_END_SECONDS)
