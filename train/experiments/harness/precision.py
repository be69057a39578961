"""What a start model is trained in."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def is_bf16(home: Path) -> bool:
    """Whether a start model is trained in bfloat16: the one that is made or begun there, else as is faster here.

    Args:
        home: Folder of everything that the recipe makes.
    """
    recipe, begun = home / "checkpoint" / "recipe.json", home / "run" / "checkpoint.pt"
    if recipe.is_file():
        return bool(json.loads(recipe.read_text(encoding="utf-8"))["bf16"])
    if begun.is_file():
        return bool(torch.load(begun, map_location="cpu", weights_only=True)["config"]["bf16"])
    return cpu_has_bf16_units()


def cpu_has_bf16_units() -> bool:
    """Whether bfloat16 is the faster precision here: AMX. Without it float32 is, by far in some places."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    return bool(capabilities.get("amx_bf16", False))
