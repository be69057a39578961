"""What training never shows: which attribute pairs, templates and entities are held out, and for whom.

Every entity has one held-out pair of attributes. Its evaluation query mentions that pair (in a held-out
template), its evaluation document mentions the other two (in a held-out template). In training texts, no
query about the entity has the first pair and no document about it has the second. So the facts are seen, in
other templates and other pairs, but the query's phrasing and the query-document pair never are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations

from grace_train.nano.knowledge import ATTRIBUTES_PER_CATEGORY, Entity, KnowledgeBase

Pair = tuple[int, int]
PAIRS: tuple[Pair, ...] = tuple(combinations(range(ATTRIBUTES_PER_CATEGORY), 2))


def complement(pair: Pair) -> Pair:
    """The two attributes that ``pair`` leaves out."""
    first, second = (index for index in range(ATTRIBUTES_PER_CATEGORY) if index not in pair)
    return first, second


@dataclass(frozen=True)
class HoldOut:
    """The held-out parts of a knowledge base. Positions are indices into ``KnowledgeBase.entities``.

    Args:
        pairs: per entity, the attribute pair of its evaluation query.
        dev: positions of the entities with a development query.
        test: positions of the entities with a test query; disjoint from ``dev``.
        without_rl: positions that reinforcement-learning triples never use, half of ``dev`` and half of
            ``test``.
    """

    pairs: tuple[Pair, ...]
    dev: tuple[int, ...]
    test: tuple[int, ...]
    without_rl: frozenset[int]

    def query_pairs(self, position: int) -> list[Pair]:
        """The attribute pairs that a training query about the entity may mention."""
        return [pair for pair in PAIRS if pair != self.pairs[position]]

    def document_pairs(self, position: int) -> list[Pair]:
        """The attribute pairs that a training document about the entity may mention."""
        held = complement(self.pairs[position])
        return [pair for pair in PAIRS if pair != held]


def identifies(knowledge: KnowledgeBase, entity: Entity, indices: tuple[int, ...]) -> bool:
    """Whether these attribute values, together with the category, fit this entity alone."""
    values = {index: entity.values[index] for index in indices}
    return len(knowledge.matching(entity.category, values)) == 1


def hold_out(knowledge: KnowledgeBase, seed: int = 7) -> HoldOut:
    """Choose the held-out pairs and split the entities, category by category.

    Entities that no pair of attributes identifies get a pair too (their documents are candidates), but no
    query.
    """
    rng = random.Random(f"hold-out/{seed}")
    pairs: list[Pair] = []
    eligible: dict[str, list[int]] = {}
    for position, entity in enumerate(knowledge.entities):
        unique = [pair for pair in PAIRS if identifies(knowledge, entity, pair)]
        pairs.append(rng.choice(unique or PAIRS))
        if unique:
            eligible.setdefault(entity.category, []).append(position)

    dev: list[int] = []
    test: list[int] = []
    without_rl: list[int] = []
    for positions in eligible.values():
        rng.shuffle(positions)
        # The odd one out goes to the smaller side, so that categories of odd size do not favour one split.
        half = (len(positions) + (len(dev) <= len(test))) // 2
        for split, part in ((dev, positions[:half]), (test, positions[half:])):
            split.extend(part)
            without_rl.extend(part[::2])
    return HoldOut(tuple(pairs), tuple(sorted(dev)), tuple(sorted(test)), frozenset(without_rl))
