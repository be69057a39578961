"""The settings of a run as others may see them: what is not the default, and no folder of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grace_train.config import TrainConfig
from grace_train.config_files import differences, dump_values

_PRIVATE = ("output", "data.cache", "cluster.address", "log.wandb")


def recipe_of(config: TrainConfig) -> str:
    """What trains the same model again, as YAML; ``output`` is yet to be given."""
    given = config.to_dict()
    data = given["data"]["train"]
    defaults = TrainConfig.from_dict(
        {"model": config.model, "output": config.output, "data": {"train": data}}
    ).to_dict()
    values: dict[str, Any] = {"model": shareable(config.model), "data": {"train": shareable(data)}}
    for key, _, value in differences(defaults, given):
        if key not in _PRIVATE:
            *parents, leaf = key.split(".")
            place = values
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = shareable(value)
    return dump_values(values)


def shareable(value: Any) -> Any:
    """A setting in which files and folders are named without where they are."""
    if isinstance(value, Mapping):
        return {key: shareable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [shareable(part) for part in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or (value and Path(value).exists())):
        return Path(value).name
    return value
