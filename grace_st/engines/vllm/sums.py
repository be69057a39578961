"""Running reductions of many texts in one table on the device, fed by steps that mix them.

Knows tensors and rows, not vLLM. What a step costs matters: one gather, one segmented reduction and one scatter,
whatever the number of texts, and nothing waits for the device.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REDUCTIONS = {"mean": "sum", "max": "max", "last": "last"}
"""The poolings that can be kept as running reductions of the last layer's states, and what is kept."""

Ints = NDArray[np.int64]


class RunningTable:
    """Rows ``[R, d]`` float32 of sums, maxima or last states.

    Rows are handed out and taken back; the table grows when none is free. What was pooled last into a row is kept
    beside it until more comes, so that it can be left out: vLLM may have begun another step of a text when it learns
    that the text has ended, and then the EOS has been fed.

    Args:
        pooling: One of `REDUCTIONS`.
        dimension: ``d``.
        device: Where the states are.
        rows: How many to begin with.

    Attributes:
        count: ``[R]`` how many states each row has pooled.

    Raises:
        ValueError: The pooling is not known.
    """

    def __init__(self, pooling: str, dimension: int, device: torch.device | str, *, rows: int = 256) -> None:
        if pooling not in REDUCTIONS:
            raise ValueError(f"pooling must be one of {', '.join(REDUCTIONS)}, got {pooling!r}")
        self.reduction = REDUCTIONS[pooling]
        self.device = torch.device(device)
        self._empty = float("-inf") if self.reduction == "max" else 0.0
        # All of it in inference mode, as vLLM's steps are: what is made there cannot be written to outside of it.
        with torch.inference_mode():
            self._table = torch.full((rows, dimension), self._empty, dtype=torch.float32, device=self.device)
            self._newest = self._table.clone()
        self._free = list(range(rows - 1, -1, -1))
        self.count: Ints = np.zeros(rows, dtype=np.int64)

    @torch.inference_mode()
    def new_row(self) -> int:
        """An empty row."""
        if not self._free:
            rows = len(self._table)
            more = torch.full_like(self._table, self._empty)
            self._table, self._newest = torch.cat([self._table, more]), torch.cat([self._newest, more])
            self.count = np.concatenate([self.count, np.zeros_like(self.count)])
            self._free = list(range(2 * rows - 1, rows - 1, -1))
        return self._free.pop()

    @torch.inference_mode()
    def take(self, rows: list[int], expected: Ints) -> tuple[NDArray[np.float32], Ints]:
        """Empty some rows and free them.

        Args:
            rows: ``n`` rows, all different.
            expected: ``[n]`` how many states each should have pooled; one more means that the last is left out.

        Returns:
            ``[n, d]`` on the CPU, and ``[n]`` how many states are in each.
        """
        index = torch.tensor(rows, device=self.device)
        counts = self.count[rows]
        left_out = counts == expected + 1
        older, newest = self._table[index], self._newest[index]
        whole = self._joined(older, newest)
        values = torch.where(torch.from_numpy(left_out).to(self.device).unsqueeze(-1), older, whole).cpu().numpy()
        self._table[index] = self._empty
        self._newest[index] = self._empty
        self.count[rows] = 0
        self._free += rows
        return values, counts - left_out

    @torch.inference_mode()
    def add_one_each(self, states: Tensor, index: Tensor, rows: Ints) -> None:
        """Pool one state into each of some rows.

        Args:
            states: ``[n, d]``, any floating type.
            index: ``[n]`` rows, all different, on the device.
            rows: The same on the CPU.
        """
        self._merge(index, states.float())
        self.count[rows] += 1

    @torch.inference_mode()
    def add_spans(self, states: Tensor, first: Ints, lengths: Ints, rows: Ints) -> None:
        """Pool a span of states into each of some rows.

        Args:
            states: ``[T, d]``, any floating type.
            first: ``[n]`` where each span begins in ``states``.
            lengths: ``[n]`` how long each is; empty ones are left out.
            rows: ``[n]`` where each goes, all different.
        """
        kept = lengths > 0
        first, lengths, rows = first[kept], lengths[kept], rows[kept]
        if not len(rows):
            return
        index = self.on_device(rows)
        if self.reduction == "last":
            self._merge(index, states.index_select(0, self.on_device(first + lengths - 1)).float())
        else:
            # Positions of the spans, one after the other.
            ends = np.cumsum(lengths)
            flat = np.arange(ends[-1]) + np.repeat(first - (ends - lengths), lengths)
            picked = states.index_select(0, self.on_device(flat)).float()
            # Checking the lengths would wait for the device.
            pieces = torch.segment_reduce(picked, self.reduction, lengths=self.on_device(lengths), axis=0, unsafe=True)
            self._merge(index, pieces)
        self.count[rows] += lengths

    def _merge(self, index: Tensor, pieces: Tensor) -> None:
        # All rows are different, so the order of writing changes nothing.
        joined = self._joined(self._table.index_select(0, index), self._newest.index_select(0, index))
        self._table.index_copy_(0, index, joined)
        self._newest.index_copy_(0, index, pieces)

    def _joined(self, older: Tensor, newest: Tensor) -> Tensor:
        if self.reduction == "sum":
            return older + newest
        return torch.maximum(older, newest) if self.reduction == "max" else newest

    def on_device(self, values: Ints) -> Tensor:
        """A copy on the device, made without waiting for it."""
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)
