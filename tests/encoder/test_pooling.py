"""Pooling against float64 written out, for any masks and any split into pieces."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_st.config import POOLINGS
from grace_st.pooling import RunningPool, pool


def reference(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    rows = []
    for states, inside in zip(hidden.double(), mask, strict=True):
        kept = [state for state, keep in zip(states, inside.tolist(), strict=True) if keep]
        if pooling == "max":
            rows.append(torch.stack(kept).max(dim=0).values)
        elif pooling == "last":
            rows.append(kept[-1])
        else:
            rows.append(sum(kept) / len(kept))
    return torch.stack(rows)


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    rows, length, dimension = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    hidden = torch.randn(rows, length, dimension, generator=generator) * 10
    mask = torch.rand(rows, length, generator=generator) < draw(st.floats(0.1, 1.0))
    mask[torch.arange(rows), torch.randint(length, (rows,), generator=generator)] = True
    cuts = draw(st.lists(st.integers(1, length), max_size=4))
    return hidden, mask, sorted({0, length, *cuts})


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=60, deadline=None)
@given(cases())
def test_whole_and_in_pieces(pooling: str, case: tuple[torch.Tensor, torch.Tensor, list[int]]) -> None:
    hidden, mask, cuts = case
    expected = reference(hidden, mask, pooling)
    noisy = hidden.masked_fill(~mask.unsqueeze(-1), float("nan"))  # what is outside must not matter
    torch.testing.assert_close(pool(noisy, mask, pooling).double(), expected, rtol=1e-5, atol=1e-5)
    running = RunningPool.empty(pooling, *hidden[:, 0].shape, "cpu")
    for start, end in itertools.pairwise(cuts):
        running.add(noisy[:, start:end], mask[:, start:end])
    torch.testing.assert_close(running.value().double(), expected, rtol=1e-5, atol=1e-5)


def test_rows_can_be_selected_and_joined() -> None:
    hidden, mask = torch.randn(3, 4, 2), torch.ones(3, 4, dtype=torch.bool)
    running = RunningPool.empty("mean", 3, 2, "cpu")
    running.add(hidden, mask)
    chosen = running.select(torch.tensor([2, 0, 2]))
    torch.testing.assert_close(chosen.value(), hidden.mean(1)[[2, 0, 2]])
    torch.testing.assert_close(chosen.joined(running).value()[3:], running.value())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_sums_are_float32(pooling: str) -> None:
    hidden = torch.full((1, 4096, 1), 1.001, dtype=torch.bfloat16)
    pooled = pool(hidden, torch.ones(1, 4096, dtype=torch.bool), pooling)
    assert pooled.dtype == torch.float32
    assert pooled.item() == pytest.approx(hidden[0, 0, 0].item(), abs=1e-6)


def test_an_empty_span_is_refused() -> None:
    with pytest.raises(ValueError, match="empty span"):
        pool(torch.randn(2, 3, 4), torch.tensor([[True, True, True], [False, False, False]]))
