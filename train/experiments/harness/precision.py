"""What a CPU trains a start model in."""

from __future__ import annotations

import torch


def cpu_has_bf16_units() -> bool:
    """Whether bfloat16 is the faster precision here: AMX. Without it float32 is, by far in some places."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    return bool(capabilities.get("amx_bf16", False))
