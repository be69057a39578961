"""Going on with an interrupted run: what it may find, and the settings that must be the same as then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

Mode = Literal["new", "resume", "overwrite"]
"""What a run does with what is there: refuse to replace it, go on with what is finished, or start afresh."""

Settings = Mapping[str, Any]
"""What an output depends on, by the name that messages give it; JSON values."""


def compare_settings(folder: object, before: Settings, now: Settings) -> None:
    """Refuse to go on with other settings; those that are not among ``now`` may be anything.

    Args:
        folder: What was made, for the message.
        before: What it was made with, as read from JSON.
        now: What is asked for.

    Raises:
        ValueError: One differs; it is named.
    """
    for name, value in now.items():
        if before.get(name) != json.loads(json.dumps(value)):
            raise ValueError(
                f"{folder} was made with {name} {_shown(before.get(name))}, and now it is {_shown(value)}: go on with "
                "--resume and the same as then, or start afresh with --overwrite"
            )


def _shown(value: Any) -> str:
    shown = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
