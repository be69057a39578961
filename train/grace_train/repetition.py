"""How much a rationale repeats itself: a share for the log, and what a reward may subtract for it.

Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def repeated_share(ids: Sequence[int], n: int) -> float:
    """The share of a text's n-grams that stood in it before: seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319).

    Args:
        ids: Tokens of a rationale, without the EOS.
        n: Tokens of an n-gram.

    Returns:
        ``1 - different n-grams / n-grams``, in [0, 1); 0 where there is none.

    Raises:
        ValueError: ``n`` is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    count = len(ids) - n + 1
    if count < 1:
        return 0.0
    return 1 - len({tuple(ids[place : place + n]) for place in range(count)}) / count


def repeated_shares(groups: Sequence[Sequence[Sequence[int]]], n: int) -> Tensor:
    """`repeated_share` of each rollout.

    Args:
        groups: B groups of K rationales, as token ids.
        n: Tokens of an n-gram.

    Returns:
        ``[B, K]`` float32.

    Raises:
        ValueError: ``n`` is below 1, or groups differ in size.
    """
    sizes = {len(group) for group in groups}
    if len(sizes) > 1:
        raise ValueError(f"all groups must have the same number of rollouts, got {sorted(sizes)}")
    return torch.tensor([[repeated_share(ids, n) for ids in group] for group in groups], dtype=torch.float32)
