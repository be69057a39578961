"""MTEB: a model folder as a model of the `mteb` package.

    import grace_st.mteb
    grace_st.mteb.register("models/mine", name="my-org/mine")
    mteb.evaluate(mteb.get_model("my-org/mine"), mteb.get_tasks(["STSBenchmark"]))

Needs ``pip install "grace-st[mteb]"``; nothing else of grace_st imports it.
"""

from __future__ import annotations

try:
    import mteb as _mteb  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "mteb":
        raise
    raise ModuleNotFoundError(
        'grace_st.mteb needs the package mteb: pip install "grace-st[mteb]"', name="mteb"
    ) from error

from grace_st.mteb.encoder import GraceEncoder
from grace_st.mteb.instructions import Instructions, task_instruction
from grace_st.mteb.metadata import DEFAULT_ORGANIZATION, model_meta
from grace_st.mteb.registry import load_encoder, register

__all__ = [
    "DEFAULT_ORGANIZATION",
    "GraceEncoder",
    "Instructions",
    "load_encoder",
    "model_meta",
    "register",
    "task_instruction",
]
