"""Sizes and ages on the command line: ``500MB``, ``30d``."""

from __future__ import annotations

import argparse
import re

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_AGES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def size(text: str) -> int:
    """Bytes; for argparse."""
    return _parsed(text, {unit.upper(): value for unit, value in _SIZES.items()}, text.upper(), "500MB")


def age(text: str) -> int:
    """Seconds; for argparse."""
    return _parsed(text, _AGES, text.lower(), "30d")


def shown_size(count: float) -> str:
    """A number of bytes as people write it."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _parsed(text: str, units: dict[str, int], normal: str, example: str) -> int:
    match = _NUMBER.fullmatch(normal.strip())
    if match is None or match[2] not in units:
        raise argparse.ArgumentTypeError(f"must be a number with a unit, such as {example}, got {text!r}")
    return int(float(match[1]) * units[match[2]])
