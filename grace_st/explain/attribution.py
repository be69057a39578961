"""The mathematics: how the cosine of two means of states splits into contributions of spans.

With vectors ``u = (1/n) sum_i h_i`` and ``v = (1/m) sum_j g_j`` of ``n`` and ``m`` pooled states,

    cos(u, v) = sum_i sum_j  h_i . g_j / (n m |u| |v|),

and a pair of spans contributes the sum over its pairs of tokens, which is the product of the spans' summed states. Pure
functions in float64; they know neither texts nor models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cosine(u: np.ndarray, v: np.ndarray) -> float:
    """The cosine of two vectors ``[d]``; 0 where one of them is zero."""
    u, v = u.astype(np.float64), v.astype(np.float64)
    length = float(np.linalg.norm(u) * np.linalg.norm(v))
    return float(u @ v) / length if length > 0 else 0.0


def span_sums(states: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Sums of states over spans that follow one another.

    Args:
        states: ``[n, d]``.
        tokens: ``S`` numbers of tokens, each at least 1, which add up to ``n``.

    Returns:
        ``[S, d]`` float64.

    Raises:
        ValueError: They do not add up.
    """
    if min(tokens, default=0) < 1 or sum(tokens) != len(states):
        raise ValueError(f"spans of {list(tokens)} tokens do not cover {len(states)} states")
    starts = np.cumsum([0, *tokens[:-1]])
    sums: np.ndarray = np.add.reduceat(states.astype(np.float64), starts, axis=0)
    return sums


def contributions(sums_a: np.ndarray, sums_b: np.ndarray) -> np.ndarray:
    """What each pair of spans contributes to the cosine of the two means.

    Args:
        sums_a: ``[A, d]`` summed states of the spans of one text.
        sums_b: ``[B, d]`` those of the other.

    Returns:
        ``[A, B]`` float64, adding up to the cosine; all 0 where a mean is zero.
    """
    # The numbers of tokens cancel: n |u| is the length of the sum of all states.
    length = float(np.linalg.norm(sums_a.sum(axis=0)) * np.linalg.norm(sums_b.sum(axis=0)))
    products: np.ndarray = sums_a @ sums_b.T
    return products / length if length > 0 else np.zeros_like(products)


def strengths(contributed: np.ndarray, tokens_a: Sequence[int], tokens_b: Sequence[int]) -> np.ndarray:
    """How close the spans of each pair are, whatever their length.

    The contribution divided by the share of token pairs that the pair of spans has. The cosine is the mean of these
    values, weighted by those shares: a value above the cosine pulls it up, one below pulls it down.

    Args:
        contributed: ``[A, B]`` contributions.
        tokens_a: ``A`` numbers of tokens.
        tokens_b: ``B`` numbers of tokens.

    Returns:
        ``[A, B]`` float64.
    """
    pairs = np.outer(tokens_a, tokens_b).astype(np.float64)
    values: np.ndarray = contributed * pairs.sum() / pairs
    return values
