"""Checks and casts that the tensor functions of training share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor


def shape_of(tensor: Tensor) -> str:
    """A shape for a message: ``[2, 3]``."""
    return str(list(tensor.shape))


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is in half precision, else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a name that is not one of a few.

    Raises:
        ValueError: ``value`` is none of ``choices``. The message lists them, with the nearest one first.
    """
    known = list(choices)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {name} {value!r}: {hint}known are {', '.join(map(repr, known))}")


def require_floats(name: str, tensor: Tensor, axes: str) -> None:
    """Refuse a tensor that is not floating-point, or not of the wanted number of axes.

    Args:
        name: For the message.
        tensor: Any.
        axes: The wanted axes as they are written, for instance ``"[B, K]"``.

    Raises:
        ValueError: It is not.
    """
    if tensor.ndim != axes.count(",") + 1:
        raise ValueError(f"{name} must be {axes}, got {shape_of(tensor)}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating-point, got {tensor.dtype}: convert it with .float()")


def require_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: There is one; the message names the first place.
    """
    finite = tensor.isfinite()
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} is {tensor[tuple(place)].item()} at {place}: find where it comes from first")


def require_mask(name: str, mask: Tensor, shape: tuple[int, ...], axes: str) -> None:
    """Refuse a mask that is not bool, or not of the wanted shape.

    Raises:
        ValueError: It is not.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {mask.dtype}: convert it with .bool()")
    if tuple(mask.shape) != shape:
        raise ValueError(f"{name} must be {axes} = {list(shape)}, got {shape_of(mask)}")
