"""Which engines there are, and what each is told: checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grace_st.engines.vllm.options import VllmOptions

ENGINES = ("torch", "vllm")
TORCH_OPTIONS = ("slots", "share_prefix")


def check_engine(engine: object, options: object) -> None:
    """Refuse an unknown engine or unknown options of one.

    Raises:
        ValueError: Names what is known.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}, got {engine!r}")
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"engine_kwargs must be a dictionary of the engine's options, got {options!r}")
    given: Mapping[str, Any] = options or {}
    if engine == "vllm":
        VllmOptions.of(given)
        return
    unknown = [name for name in given if name not in TORCH_OPTIONS]
    if unknown:
        raise ValueError(f"unknown engine option {unknown[0]!r}; known are {', '.join(TORCH_OPTIONS)}")
