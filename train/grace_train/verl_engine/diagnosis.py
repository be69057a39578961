"""Why a process of a run died or failed: what Ray says of its actors, and what the processes have logged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ray

_LOG_BYTES = 200_000
_CAUSE_CHARACTERS = 400
_LOG_ERRORS = 3
_ERROR = re.compile(r"((?:\w+\.)*\w*Error: [^\n]{5,300})")


def dead_process() -> str:
    """What killed a process of the run, or an empty string."""
    if not ray.is_initialized():
        return ""
    for actor in _actors():
        if actor.get("State") == "DEAD" and not actor.get("Expected", False):
            return f"the process {actor['ActorClassName']} (pid {actor['Pid']}) died: {actor['Cause']}"
    return ""


def _actors() -> list[dict[str, Any]]:
    """The actors of this run: class, pid, state and cause of death. A cluster may run other jobs beside it."""
    import ray._private.state as state

    found = []
    for actor in state.actors(job_id=ray.JobID.from_hex(ray.get_runtime_context().get_job_id())).values():
        told = str(actor.get("DeathCause") or "")
        message = getattr(getattr(actor.get("DeathCause"), "actor_died_error_context", None), "error_message", "")
        found.append(
            {
                "ActorClassName": str(actor.get("ActorClassName", "")),
                "Pid": actor.get("Pid", 0),
                "State": actor.get("State"),
                "Cause": " ".join(str(message).split())[:_CAUSE_CHARACTERS] or "unknown",
                # Ended by its own side: scoped out, or killed by us.
                "Expected": any(word in told for word in ("ray.kill", "went out of scope", "OUT_OF_SCOPE", "RAY_KILL")),
            }
        )
    return found


def cause_in(error: BaseException) -> str:
    """An exception in one line: of one that came through Ray the last line, which is the cause; else the first four."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else " ".join(lines[:4])


def log_folder() -> Path:
    """Where Ray's processes of this machine log."""
    import ray._private.worker as worker

    node = worker._global_node
    return Path(node.get_logs_dir_path()) if node is not None else Path("/tmp/ray/session_latest/logs")


def logged_errors(since: float) -> str:
    """The errors that stand last in the logs of this machine's processes, for a message; perhaps empty.

    Args:
        since: Logs that end before this time are of another run.
    """
    found: dict[str, None] = {}
    logs = [(path.stat().st_mtime, path) for path in log_folder().glob("worker-*")]
    for _, path in sorted(item for item in logs if item[0] >= since):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            text = file.read().decode(errors="replace")
        found |= dict.fromkeys(match.group(1) for match in _ERROR.finditer(text))
    told = [line for line in found if "EngineDeadError" not in line][-_LOG_ERRORS:]
    return "; logged before: " + " | ".join(told) if told else ""
