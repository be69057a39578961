"""Starting Ray, or finding one that runs; without usage statistics, and without a dashboard."""

from __future__ import annotations

import logging
import os
import re
import socket
from types import ModuleType
from typing import Any

from grace_st import ray_init
from grace_st.scale.errors import ClusterError, ClusterNotFoundError, MissingRayError

LOCAL = "local"
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
                f"there is no Ray cluster at {address} ({ray_init.first_line(error)}): start one with "
                "`ray start --head`, or leave --address out to use this machine alone"
            ) from error
        return
    try:
        ray_init.init(ray, {"include_dashboard": False, **options})
    except Exception as error:  # Ray raises the bare class here
        raise ClusterError(
            f"Ray did not start on this machine ({ray_init.first_line(error)}): it may be too busy, or out of memory "
            "or disk; `ray start --head` starts it beforehand, for --address auto"
        ) from error


def _check_reachable(address: str) -> None:
    """Refuse where nobody listens; Ray itself tries for minutes."""
    named = _HOST_PORT.fullmatch(address)
    if named is not None:
        socket.create_connection((named[1], int(named[2])), timeout=_CONNECT_SECONDS).close()
