"""How much a rationale repeats itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grace_train.repetition import repeated_share, repeated_shares

IDS = st.lists(st.integers(0, 5), max_size=30)
SIZES = st.integers(1, 5)


@pytest.mark.parametrize(
    ("ids", "n", "share"),
    [
        ([1, 2, 3, 4], 2, 0),
        ([1, 2, 3, 1, 2, 4], 2, 1 / 5),  # 12 stands there twice, among 12 23 31 12 24
        ([7, 7, 7, 7], 1, 3 / 4),
        ([7, 7, 7, 7], 3, 1 / 2),
        ([1, 2], 3, 0),
        ([], 1, 0),
    ],
)
def test_by_hand(ids: list[int], n: int, share: float) -> None:
    assert repeated_share(ids, n) == pytest.approx(share)


@given(IDS, SIZES)
def test_counts_what_stood_there_before(ids: list[int], n: int) -> None:
    grams = ["-".join(map(str, ids[place : place + n])) for place in range(len(ids) - n + 1)]
    again = sum(gram in grams[:place] for place, gram in enumerate(grams))
    share = repeated_share(ids, n)
    assert share == pytest.approx(again / len(grams) if grams else 0)
    assert 0 <= share < 1


@given(st.lists(st.integers(0, 5), min_size=5, max_size=30), SIZES)
def test_twice_the_same_is_nearly_half(ids: list[int], n: int) -> None:
    again = len(ids) - n + 1
    assert repeated_share(ids + ids, n) >= again / (again + len(ids)) - 1e-12


def test_of_groups() -> None:
    shares = repeated_shares([[(1, 1), (1, 2)], [(), (3, 3, 3)]], 1)
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares, torch.tensor([[1 / 2, 0], [0, 2 / 3]]))


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        repeated_share([1], 0)
    with pytest.raises(ValueError, match=r"same number of rollouts, got \[1, 2\]"):
        repeated_shares([[(1,), (2,)], [(3,)]], 2)
