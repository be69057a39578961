"""Half precision on a CPU: computed with in float32, and saved as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

HALF = (torch.float16, torch.bfloat16)


class Widening:
    """Has a model compute in float32 on a CPU, where half precision is slow and imprecise.

    Args:
        keep_dtype: A dtype was asked for: leave it as it is.
    """

    def __init__(self, *, keep_dtype: bool) -> None:
        self._is_settled = keep_dtype
        self._widened_from: torch.dtype | None = None

    def apply(self, model: PreTrainedModel) -> None:
        """Widen weights that are on a CPU. Once: a dtype that is set afterwards (``model.half()``) stays."""
        if self._is_settled or model.device.type != "cpu":
            return
        self._is_settled = True
        quantized = model.config.to_dict().get("quantization_config") is not None
        if model.dtype in HALF and not quantized:
            self._widened_from = model.dtype
            model.float()

    def stored_dtype(self, model: PreTrainedModel) -> torch.dtype:
        """The dtype of the checkpoint's weights, whatever they are computed with in."""
        return self._widened_from or model.dtype

    @contextmanager
    def undone(self, model: PreTrainedModel) -> Iterator[None]:
        """Weights that were widened are in the checkpoint's dtype, and in float32 again when the block ends.

        Unless they have changed in a way that the checkpoint's dtype cannot hold.
        """
        narrow = self._widened_from
        if narrow is None or not _holds(model, narrow):
            yield
            return
        try:
            _cast_parameters(model, narrow)
            yield
        finally:
            _cast_parameters(model, torch.float32)


def _holds(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Whether a dtype holds all of a model's weights exactly."""
    return all(torch.equal(parameter, parameter.to(dtype).to(parameter.dtype)) for parameter in model.parameters())


def _cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast parameters alone: rotary frequencies are buffers, and would not survive half precision."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
