"""What is done to rationales. Pure functions on token ids: they know no model, no text and no task.

Token ids are moved, dropped or drawn, never decoded and encoded again, so that nothing but the intervention changes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Ids = tuple[int, ...]


def cut(rationale: Sequence[int], tokens: int) -> Ids:
    """The first tokens of a rationale; all of a shorter one.

    Raises:
        ValueError: ``tokens`` is negative.
    """
    if tokens < 0:
        raise ValueError(f"a rationale is cut to 0 tokens or more, got {tokens}")
    return tuple(rationale[:tokens])


def shuffled(rationale: Sequence[int], ends: Sequence[int], seed: str | int) -> Ids:
    """The sentences of a rationale in another order, never in their own if there are at least two.

    Args:
        rationale: Token ids.
        ends: Where each sentence ends, ascending; the last is the length of the rationale.
        seed: The same seed gives the same order.

    Raises:
        ValueError: The ends are not ascending, or leave tokens out.
    """
    starts = [0, *ends[:-1]]
    if (ends[-1] if ends else 0) != len(rationale) or any(s >= e for s, e in zip(starts, ends, strict=False)):
        raise ValueError(f"the sentences must cover the {len(rationale)} tokens in order, got ends {list(ends)}")
    if len(ends) < 2:
        return tuple(rationale)
    order = list(range(len(ends)))
    generator = random.Random(f"shuffled/{seed}")
    while order == sorted(order):
        generator.shuffle(order)
    return tuple(token for place in order for token in rationale[starts[place] : ends[place]])


def donors(count: int, seed: str | int) -> list[int]:
    """For each of some texts, another one whose rationale it gets: each is the donor of exactly one.

    A permutation of a single cycle (Sattolo's algorithm), so nobody is their own donor.

    Raises:
        ValueError: There are fewer than two.
    """
    if count < 2:
        raise ValueError(f"rationales can be swapped among two texts or more, got {count}")
    generator = random.Random(f"donors/{seed}")
    order = list(range(count))
    for place in range(count - 1, 0, -1):
        other = generator.randrange(place)
        order[place], order[other] = order[other], order[place]
    return order


def random_tokens(count: int, allowed: Sequence[int], seed: str | int) -> Ids:
    """Tokens drawn uniformly, each independent of the others.

    Args:
        count: How many.
        allowed: Ids to draw from: those of the vocabulary that are no special tokens.
        seed: The same seed gives the same tokens.

    Raises:
        ValueError: There is nothing to draw from.
    """
    if not allowed:
        raise ValueError("there are no tokens to draw from: the vocabulary has special tokens alone")
    generator = random.Random(f"random/{seed}")
    return tuple(generator.choices(allowed, k=count))
