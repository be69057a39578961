"""How many workers a cluster has room for, and what each of them gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its CPUs and GPUs."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Sizes:
    """Workers, and the CPUs and GPUs of each."""

    workers: int
    cpus: float
    gpus: float


def sizes_for(nodes: Sequence[Node], workers: int | None, gpus: float | None) -> Sizes:
    """Workers for a cluster.

    Args:
        nodes: Its machines.
        workers: How many; None takes one for each GPU, or one for each machine where none has any (or none are wanted).
        gpus: GPUs of each worker; None takes 1 where there are any.

    Raises:
        ValueError: They do not fit.
    """
    each = gpus if gpus is not None else (1.0 if any(node.gpus >= 1 for node in nodes) else 0.0)
    if each > 0:
        cpus = 1.0
        count = workers or max(1, sum(_room(node, cpus, each) for node in nodes))
    else:
        usable = [node for node in nodes if node.cpus >= 1]
        count = workers or max(1, len(usable))
        # All CPUs: torch computes with as many threads.
        least = min((node.cpus for node in usable), default=1.0)
        cpus = float(max(1, math.floor(least / math.ceil(count / max(1, len(usable))))))
    room = sum(_room(node, cpus, each) for node in nodes)
    if room < count:
        needs = f"{cpus:g} CPU" + (f" and {each:g} GPU" if each else "")
        raise ValueError(
            f"{count} workers of {needs} do not fit the cluster, which has room for {room} of them: name fewer with "
            "--workers" + (", or less with --gpus-per-worker" if each else "")
        )
    return Sizes(count, cpus, each)


def _room(node: Node, cpus: float, gpus: float) -> int:
    by_cpus = math.floor(node.cpus / cpus)
    return min(by_cpus, math.floor(node.gpus / gpus + 1e-9)) if gpus else by_cpus
