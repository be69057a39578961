from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grace_train.verl_engine.rows import deal, embed_rows, update_rows

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 8))
def test_every_row_is_dealt_once_and_hands_are_even(lengths: list[int], workers: int) -> None:
    hands = deal(lengths, workers)
    assert sorted(row for hand in hands for row in hand) == list(range(len(lengths)))
    assert max(map(len, hands)) - min(map(len, hands)) <= 1
    totals = [sum(lengths[row] for row in hand) for hand in hands]
    assert max(totals) - min(totals) <= 2 * max(lengths)


@given(LENGTHS, st.integers(1, 8))
def test_padding_rows_count_for_nothing(lengths: list[int], workers: int) -> None:
    sequences = [[index] * length for index, length in enumerate(lengths)]
    rows = embed_rows(sequences, [0] * len(lengths), workers)
    assert len({len(part.ids) for part in rows}) == 1
    assert sorted(place for part in rows for place in part.places if place >= 0) == list(range(len(lengths)))
    updates = update_rows(sequences, sequences, [1.0] * len(lengths), [[] for _ in lengths], workers)
    assert len({len(part.prompts) for part in updates}) == 1
    assert sum(part.advantages[index] for part in updates for index in range(len(part.prompts))) == len(lengths)
    assert sum(sum(part.counts) for part in updates) == len(lengths)
