"""Starting Ray, or finding one that runs; without usage statistics, and without a dashboard.

On a busy machine Ray's own limit for a node to appear, which no setting changes, can be too short.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from types import ModuleType
from typing import Any

from grace_st.scale.errors import ClusterError, ClusterNotFoundError, MissingRayError

logger = logging.getLogger(__name__)

ATTEMPTS = 3
LOCAL = "local"
_TOO_SLOW = "timed out"
_END_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_HOST_PORT = re.compile(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)")


def import_ray() -> ModuleType:
    """``ray``, with ``ray.data``.

    Raises:
        MissingRayError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingRayError("--ray needs Ray: pip install 'grace-st[ray]'") from error
    module: ModuleType = ray
    return module


def start_ray(address: str | None) -> None:
    """Connect to a cluster, or start one on this machine, again where it was too slow to come up.

    Call it from the main thread: the processes that Ray starts end with the thread that started them.

    Args:
        address: Of the cluster, ``"auto"`` for the one that runs here. None is the one that ``RAY_ADDRESS`` names, as
            inside a Ray job, or else a cluster on this machine for this process alone.

    Raises:
        MissingRayError: Ray is not installed.
        ClusterNotFoundError: There is no such cluster.
        ClusterError: It did not start.
    """
    ray = import_ray()
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address != LOCAL:
        try:
            _check_reachable(address)
            ray.init(**options)
        except Exception as error:  # Ray raises many kinds, the bare class among them
            raise ClusterNotFoundError(
                f"there is no Ray cluster at {address} ({_first_line(error)}): start one with `ray start --head`, or "
                "leave --address out to use this machine alone"
            ) from error
        return
    for attempt in range(1, ATTEMPTS + 1):
        before = _children()
        try:
            ray.init(include_dashboard=False, **options)
            return
        except Exception as error:  # Ray raises the bare class here
            _end(_children() - before)
            ray.shutdown()
            if _TOO_SLOW not in str(error).lower() or attempt == ATTEMPTS:
                raise ClusterError(
                    f"Ray did not start on this machine ({_first_line(error)}): it may be too busy, or out of memory "
                    "or disk; `ray start --head` starts it beforehand, for --address auto"
                ) from error
            logger.warning("Ray did not start in time, attempt %d of %d", attempt, ATTEMPTS)


def _check_reachable(address: str) -> None:
    """Refuse where nobody listens; Ray itself tries for minutes."""
    named = _HOST_PORT.fullmatch(address)
    if named is not None:
        socket.create_connection((named[1], int(named[2])), timeout=_CONNECT_SECONDS).close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _children() -> set[Any]:
    import psutil

    return set(psutil.Process().children(recursive=True))


def _end(processes: set[Any]) -> None:
    """Half a cluster would go on starting beside the next one."""
    import psutil

    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=_END_SECONDS)
