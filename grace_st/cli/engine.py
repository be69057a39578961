"""The options ``--engine`` and ``--engine-option`` of commands that encode."""

from __future__ import annotations

import argparse
import json
from typing import Any

from grace_st.cli.command import CommandError

_NAMES = ("torch", "vllm")  # those of grace_st.engines.choice, which would import torch


def configure_engine(group: argparse._ArgumentGroup) -> None:
    """Add the options to a group."""
    group.add_argument(
        "--engine",
        choices=_NAMES,
        default="torch",
        help="what generates: torch, or vllm, which is faster on a GPU (default: %(default)s)",
    )
    group.add_argument(
        "--engine-option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the engine, several times if need be, e.g. gpu_memory_utilization=0.8",
    )


def engine_kwargs(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Options of the engine, ``--slots`` among them where the command has it; checked as far as that needs no engine.

    Raises:
        CommandError: An option is malformed, given twice, or of the other engine.
        ValueError: The engine does not know it, or refuses its value.
    """
    options = {}
    for text in arguments.engine_option:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise CommandError(f"--engine-option takes KEY=VALUE, e.g. max_num_seqs=256; got {text!r}")
        if name in options:
            raise CommandError(f"--engine-option {name} is given twice")
        options[name] = _value(value)
    slots = getattr(arguments, "slots", None)
    if arguments.engine == "vllm":
        if slots is not None:
            raise CommandError("--slots is an option of --engine torch: for vLLM use --engine-option max_num_seqs=N")
        if arguments.device is not None:
            raise CommandError("--device is an option of --engine torch: vLLM takes the device that it was built for")
    elif slots is not None:
        if "slots" in options:
            raise CommandError("--slots and --engine-option slots say the same: leave one out")
        options["slots"] = slots
    if not options and arguments.engine == "torch":
        return None
    from grace_st.engines.choice import check_engine

    check_engine(arguments.engine, options)
    return options


def _value(text: str) -> Any:
    """JSON where it is some, else the text itself: 4, 0.8, true, {"method": "ngram"}, fp8."""
    try:
        return json.loads(text)
    except ValueError:
        return text
