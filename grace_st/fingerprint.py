"""Fingerprints: hashes of what a model's vectors depend on, of a loaded model and of a model folder."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grace_st.model_files import model_files

_SAMPLED = 16  # values of each tensor that tell whether it has changed since it was hashed
_VOLATILE = ("_name_or_path", "transformers_version", "architectures")

_known: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers that a model would save, by name, shape, dtype and content.

    Hashing reads all weights. It is done again only when a tensor was replaced or written to; a write that hides from
    PyTorch's version counter (``tensor.data``) is noticed by a sample of the values.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: Weights are not in memory.
    """
    tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    absent = next((name for name, tensor in tensors.items() if tensor.is_meta), None)
    if absent is not None:
        raise ValueError(
            f"the weights {absent} are not in memory (device meta), so it cannot be told which model this is: load it "
            "without offloading (device_map), or use no store"
        )
    signature = tuple((name, *_signature(tensor)) for name, tensor in tensors.items())
    known = _known.get(model)
    if known is not None and known[0] == signature:
        return known[1]
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    result = digest.hexdigest()
    _known[model] = (signature, result)
    return result


def _signature(tensor: Tensor) -> tuple[object, ...]:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLED)
    sample = flat[::step][:_SAMPLED].float().cpu().numpy().tobytes() if flat.numel() else b""
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tuple(tensor.shape), tensor.dtype, sample


def architecture_fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of a model's configuration (layers, rotary scaling, attention, ...), without names and versions.

    Returns:
        64 hexadecimal digits.
    """
    values: dict[str, Any] = {name: value for name, value in model.config.to_dict().items() if name not in _VOLATILE}
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def adapters_fingerprint(model: nn.Module) -> str | None:
    """SHA-256 of which PEFT adapters are active in which layer, and how strongly; None without any.

    Their weights are among the model's, but not which of them are used.

    Returns:
        64 hexadecimal digits.
    """
    if "peft" not in sys.modules:
        return None
    from peft.tuners.tuners_utils import BaseTunerLayer

    lines = [
        f"{name} {list(layer.active_adapters)} {layer.disable_adapters} {vars(layer).get('scaling')}"
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest() if lines else None


def folder_revision(folder: str | os.PathLike[str]) -> str:
    """The content of a model folder as a revision: two folders share it only when they give the same vectors.

    Args:
        folder: A GRACE model folder.

    Returns:
        40 hexadecimal digits.
    """
    files = {name: digest for name, digest in model_files(Path(folder)).items() if not name.endswith(".md")}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode("utf-8")).hexdigest()[:40]
