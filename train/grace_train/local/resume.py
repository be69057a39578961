"""Which settings an interrupted run may go on with: those that do not change what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grace_train.config import TrainConfig
from grace_train.config_files import differences
from grace_train.options import ConfigError

# Shown or stopped differently, or computed in other pieces (rounding may differ), but trained in the same way. Not
# eval.keep: the best weights so far may not be there.
_FREE = (
    "output",
    "save_dtype",
    "log.",
    "stop.",
    "checkpoint.",
    "eval.patience",
    "data.cache",
    "data.on_bad_row",
    "rollout.slots",
    "compute.tokens_per_microbatch",
    "compute.gradient_checkpointing",
    "compute.threads",
    "cluster.address",
    "cluster.agent_workers",
    "cluster.gpu_memory",
    "cluster.loggers",
    "cluster.max_lost",
    "cluster.offload",
    "cluster.step_limit",
    "cluster.tensor_parallel",
    "verl",
)


def check_same_run(config: TrainConfig, before: Mapping[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another configuration.

    Args:
        config: What was asked for now.
        before: What the checkpoint was made with.

    Raises:
        ValueError: Names the settings that differ, with both values.
    """
    changed = [
        (key, old, new)
        for key, old, new in differences(_completed(before), config.to_dict())
        if not key.startswith(_FREE) and not _is_longer(config, key, old, new) and (key, new) != ("eval.keep", "last")
    ]
    if changed:
        told = "; ".join(f"{key} was {old!r} and is {new!r}" for key, old, new in changed)
        raise ValueError(f"the run was made with other settings ({told}): use those, or start with --overwrite")


def _completed(before: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the defaults of settings that did not exist when the checkpoint was made."""
    try:
        return TrainConfig.from_dict(before).to_dict()
    except ConfigError:  # made by a version that had a setting which is gone: shown as a difference
        return before


def _is_longer(config: TrainConfig, key: str, old: Any, new: Any) -> bool:
    """More steps at a constant rate: the first ones are the same."""
    if key not in ("steps", "epochs") or config.optimizer.schedule != "constant":
        return False
    return old is not None and new is not None and new > old
