"""Reductions of hidden states over a span of tokens, in one go or piece by piece.

Knows nothing about models or tokens: tensors and masks only. Sums are kept in float32 whatever the states' type.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grace_st.config import Pooling


@dataclass
class RunningPool:
    """Pools rows of hidden states that arrive a few positions at a time.

    Feeding a span in any number of pieces gives what feeding it at once gives, so vectors are ready when
    generation ends and no second forward is needed.

    Attributes:
        pooling: The reduction. ``"mean_penultimate"`` reduces like ``"mean"``: which layer's states are fed is
            the caller's part.
        state: ``[B, d]`` float32: the sum, the maximum, or the last state so far.
        count: ``[B]`` float32: how many positions each row has pooled.
    """

    pooling: Pooling
    state: Tensor
    count: Tensor

    @classmethod
    def empty(cls, pooling: Pooling, rows: int, dimension: int, device: torch.device | str) -> RunningPool:
        """A pool of ``rows`` rows that have seen nothing yet."""
        fill = float("-inf") if pooling == "max" else 0.0
        state = torch.full((rows, dimension), fill, dtype=torch.float32, device=device)
        return cls(pooling, state, torch.zeros(rows, dtype=torch.float32, device=device))

    def add(self, hidden: Tensor, mask: Tensor) -> None:
        """Pool some more positions.

        Args:
            hidden: ``[B, T, d]`` hidden states, any floating type.
            mask: ``[B, T]`` bool; False positions are left out, whatever their states hold (NaN included).
        """
        hidden = hidden.float()
        inside = mask.unsqueeze(-1)
        if self.pooling == "max":
            self.state = torch.maximum(self.state, hidden.masked_fill(~inside, float("-inf")).amax(dim=1))
        elif self.pooling == "last":
            # The index of the last True of each row; rows without one keep their state.
            positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
            last = (mask * positions).amax(dim=1)
            rows = torch.arange(mask.shape[0], device=mask.device)
            newest = hidden[rows, (last - 1).clamp(min=0)]
            self.state = torch.where((last > 0).unsqueeze(-1), newest, self.state)
        else:
            self.state = self.state + hidden.masked_fill(~inside, 0.0).sum(dim=1)
        self.count = self.count + mask.sum(dim=1)

    def select(self, rows: Tensor) -> RunningPool:
        """The pool of some rows, ``rows`` being ``[R]`` indices (repeats allowed)."""
        return RunningPool(self.pooling, self.state[rows], self.count[rows])

    def replace(self, rows: Tensor, other: RunningPool) -> RunningPool:
        """This pool with the rows ``[R]`` replaced by the ``R`` rows of another."""
        return RunningPool(
            self.pooling,
            self.state.index_copy(0, rows, other.state),
            self.count.index_copy(0, rows, other.count),
        )

    def joined(self, other: RunningPool) -> RunningPool:
        """This pool's rows, then those of ``other``."""
        return RunningPool(self.pooling, torch.cat([self.state, other.state]), torch.cat([self.count, other.count]))

    def value(self) -> Tensor:
        """``[B, d]`` float32 pooled vectors.

        Raises:
            ValueError: A row has pooled no position.
        """
        if bool((self.count == 0).any()):
            raise ValueError("cannot pool an empty span: a row has no position inside the mask")
        if self.pooling in ("max", "last"):
            return self.state
        return self.state / self.count.unsqueeze(-1)


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling = "mean") -> Tensor:
    """Pool whole sequences at once (Eq. 11 of the paper for ``"mean"``).

    Args:
        hidden: ``[B, T, d]`` hidden states of the layer that ``pooling`` asks for.
        mask: ``[B, T]`` bool; True inside the pooled span.
        pooling: The reduction.

    Returns:
        ``[B, d]`` float32.

    Raises:
        ValueError: A row has no position inside the mask.
    """
    running = RunningPool.empty(pooling, hidden.shape[0], hidden.shape[2], hidden.device)
    running.add(hidden, mask)
    return running.value()
