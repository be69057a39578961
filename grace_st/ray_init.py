"""``ray.init``, tried again: its own 30 seconds for a node to appear, which no setting changes, can be too few."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

ATTEMPTS = 3
_TOO_SLOW = "timed out"
_END_SECONDS = 10.0


class TooSlowError(RuntimeError):
    """A cluster on this machine did not come up in any attempt."""


def init(ray: ModuleType, options: Mapping[str, Any]) -> None:
    """``ray.init``, again where a cluster on this machine was too slow to come up.

    Call it from the main thread: the processes that Ray starts end with the thread that started them.

    Args:
        ray: The package.
        options: Of ``ray.init``.

    Raises:
        TooSlowError: It was too slow each time.
        Exception: Whatever else ``ray.init`` raises; that is not tried again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        before = _children()
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises the bare class here
            _end(_children() - before)
            ray.shutdown()
            if _TOO_SLOW not in str(error).lower():
                raise
            if attempt == ATTEMPTS:
                raise TooSlowError(f"{first_line(error)} ({ATTEMPTS} attempts)") from error
            logger.warning("Ray did not start in time, attempt %d of %d", attempt, ATTEMPTS)


def first_line(error: BaseException) -> str:
    """What an error of Ray's says, without the pages that follow."""
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
