"""The embeddings server: OpenAI's API for a GRACE model. Needs ``pip install "grace-st[serve]"``.

A request flows through: ``app`` (HTTP), ``schemas`` (what was asked for), ``service`` (prompts, store, queue, answer),
``batcher`` (texts of all requests), ``worker`` (the one thread that uses the engine), ``rendering`` (the response).
Only the worker's thread computes; ``lifecycle`` starts and ends it all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grace_st.serve.app import create_app
    from grace_st.serve.auth import ApiKeys
    from grace_st.serve.limits import Limits
    from grace_st.serve.service import Service

_HOMES = {
    "ApiKeys": "grace_st.serve.auth",
    "Limits": "grace_st.serve.limits",
    "Service": "grace_st.serve.service",
    "create_app": "grace_st.serve.app",
}

__all__ = ["ApiKeys", "Limits", "Service", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'grace_st.serve' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
