"""grace-st: language models that write a rationale before they embed (GRACE, arXiv 2510.04506).

Names are imported when they are first used, so that ``import grace_st`` and the command line's ``--help`` do not
wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grace_st.config import DEFAULT_SYSTEM_PROMPT, ConfigError, GraceConfig
    from grace_st.conversion import Conversion, convert
    from grace_st.encoding import Encoding, encode_with_rationales
    from grace_st.engines.base import NonFiniteVectorError
    from grace_st.explain import Explanation, RankingExplanation
    from grace_st.model import GraceModel, load
    from grace_st.module import GenerateThenPool
    from grace_st.paths import nano_path
    from grace_st.store import RationaleStore

__version__ = "0.1.0"

_HOMES = {
    "DEFAULT_SYSTEM_PROMPT": "grace_st.config",
    "ConfigError": "grace_st.config",
    "Conversion": "grace_st.conversion",
    "Encoding": "grace_st.encoding",
    "Explanation": "grace_st.explain",
    "GenerateThenPool": "grace_st.module",
    "GraceConfig": "grace_st.config",
    "GraceModel": "grace_st.model",
    "NonFiniteVectorError": "grace_st.engines.base",
    "RankingExplanation": "grace_st.explain",
    "RationaleStore": "grace_st.store",
    "convert": "grace_st.conversion",
    "encode_with_rationales": "grace_st.encoding",
    "load": "grace_st.model",
    "nano_path": "grace_st.paths",
}

__all__ = [
    "DEFAULT_SYSTEM_PROMPT",
    "ConfigError",
    "Conversion",
    "Encoding",
    "Explanation",
    "GenerateThenPool",
    "GraceConfig",
    "GraceModel",
    "NonFiniteVectorError",
    "RankingExplanation",
    "RationaleStore",
    "convert",
    "encode_with_rationales",
    "load",
    "nano_path",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'grace_st' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
