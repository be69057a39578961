"""The corpus of grace-nano: training samples, held-out retrieval sets, and triples for later training.

Everything is drawn from ``random.Random`` seeded with strings, so the same arguments give the same corpus in
any process.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from grace_train.nano import texts
from grace_train.nano.everyday import everyday_rationale, everyday_text
from grace_train.nano.holdout import HoldOut, Pair, complement, hold_out, identifies
from grace_train.nano.knowledge import ATTRIBUTES_PER_CATEGORY, Entity, KnowledgeBase, load_knowledge
from grace_train.nano.rationales import STYLES, Style, write_comparison, write_rationale, write_several
from grace_train.nano.texts import Text, fill, roughened
from grace_train.nano.wording import short_name

# How often each kind of text occurs.
KINDS = {
    "query": 32,
    "document": 25,
    "clue": 9,
    "keywords": 3,
    "fact": 10,
    "name": 16,
    "comparison": 2,
    "everyday": 3,
}
# (full, medium, vague). Short texts, the kind people try first, mostly get a full rationale. Together about a
# third each.
STYLE_WEIGHTS = {
    **dict.fromkeys(("query", "document", "keywords"), (27, 39, 34)),
    **dict.fromkeys(("clue", "fact", "name"), (50, 20, 30)),
}

SHORT_NAME_SHARE = 0.4  # how often a text that only names a person uses the short name, where it is unambiguous


@dataclass(frozen=True)
class Sample:
    """A training sample.

    Args:
        text: the user's text.
        rationale: what the model shall write about it, without EOS.
        kind: the family of templates of the text, a key of ``KINDS``.
        style: the style of the rationale; None where the styles do not apply.
        positions: indices into ``KnowledgeBase.entities`` of whom the text is about.
        mentioned: indices of the attributes in the text.
    """

    text: str
    rationale: str
    kind: str
    style: Style | None
    positions: tuple[int, ...]
    mentioned: tuple[int, ...] = ()


@dataclass(frozen=True)
class RetrievalSet:
    """Held-out queries against one document per entity of the whole base.

    Args:
        queries: texts [n].
        relevant: per query the index of its document [n].
        documents: texts [entities]; document ``i`` is about entity ``i``.
    """

    queries: tuple[str, ...]
    relevant: tuple[int, ...]
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Triple:
    """A query, its document, and a document about another entity of the same category."""

    query: str
    positive: str
    negative: str
    position: int
    negative_position: int


class Corpus:
    """Draws texts and rationales from a knowledge base.

    Args:
        knowledge: the facts; the package's own by default.
        held_out: what training must not show; chosen by ``hold_out(knowledge)`` by default.
        vague: whether training samples have vague rationales among others.
    """

    def __init__(
        self, knowledge: KnowledgeBase | None = None, held_out: HoldOut | None = None, *, vague: bool = True
    ) -> None:
        self.vague = vague
        self.knowledge = load_knowledge() if knowledge is None else knowledge
        self.held_out = hold_out(self.knowledge) if held_out is None else held_out
        self.entities = self.knowledge.entities
        # A bare value or phrase identifies an entity only if nothing else in the base reads like it.
        self._readings = Counter(
            value.lower() for entity in self.entities for value in (entity.bare_name, *entity.values)
        )
        self._short_names = Counter(short_name(entity).lower() for entity in self.entities)
        self._by_category: dict[str, list[int]] = {}
        for position, entity in enumerate(self.entities):
            self._by_category.setdefault(entity.category, []).append(position)

    # -- training samples
    # ---------------------------------------------------------------------------------------------

    def samples(self, count: int, seed: str | int) -> Iterator[Sample]:
        """``count`` training samples; the same for the same seed."""
        rng = random.Random(f"samples/{seed}")
        for _ in range(count):
            yield self.sample(rng)

    def sample(self, rng: random.Random) -> Sample:
        """One training sample: a kind of text, an entity, a style."""
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "everyday":
            remark, topic = everyday_text(rng)
            return Sample(roughened(remark, rng), everyday_rationale(topic, rng), kind, None, ())
        position = rng.randrange(len(self.entities))
        if kind == "comparison":
            return self._comparison(position, rng)
        text = self._text(kind, position, rng)
        candidates = self._candidates(text)
        style: Style | None = None
        if len(candidates) == 1:
            full, medium, vague = STYLE_WEIGHTS[kind]
            chosen = rng.choices(STYLES, (full, medium, vague if self.vague else 0))[0]
            style, rationale = chosen, write_rationale(self.knowledge, text, chosen, rng)
        else:
            rationale = write_several(self.knowledge, text, candidates, rng)
        return Sample(roughened(text.text, rng), rationale, kind, style, (position,), text.mentioned)

    def _text(self, kind: str, position: int, rng: random.Random) -> Text:
        entity = self.entities[position]
        if kind == "query":
            pair = _either_order(rng.choice(self.held_out.query_pairs(position)), rng)
            return self._make(rng.choice(texts.QUERY_TEMPLATES), kind, entity, pair, rng)
        if kind == "keywords":
            pair = _either_order(rng.choice(self.held_out.query_pairs(position)), rng)
            return self._make(rng.choice(texts.KEYWORD_TEMPLATES), kind, entity, pair, rng)
        if kind == "document":
            pair = _either_order(rng.choice(self.held_out.document_pairs(position)), rng)
            return self._make(rng.choice(texts.DOCUMENT_TEMPLATES), kind, entity, pair, rng)
        index = rng.randrange(ATTRIBUTES_PER_CATEGORY)
        if kind == "clue":
            bare = self._readings[entity.values[index].lower()] == 1
            templates = texts.CLUE_TEMPLATES + (texts.BARE_CLUE_TEMPLATES if bare else ())
            return self._make(rng.choice(templates), kind, entity, (index,), rng)
        if kind == "fact":
            templates = texts.ATTRIBUTE_QUESTIONS if rng.random() < 0.4 else texts.FACT_TEMPLATES
            return self._make(rng.choice(templates), kind, entity, (index,), rng)
        return self._make(rng.choice(texts.NAME_TEMPLATES), kind, entity, (), rng)

    def _make(self, template: str, kind: str, entity: Entity, indices: tuple[int, ...], rng: random.Random) -> Text:
        category = self.knowledge.category(entity.category)
        called = entity
        if kind in ("fact", "name") and rng.random() < SHORT_NAME_SHARE and self._is_known_for_short(entity):
            called = replace(entity, name=short_name(entity))
        return Text(
            text=fill(template, category, called, indices, rng),
            kind=kind,
            entities=(entity,),
            mentioned=indices,
            named=kind in ("document", "fact", "name"),
            question=template in texts.ATTRIBUTE_QUESTIONS,
        )

    def _is_known_for_short(self, entity: Entity) -> bool:
        return self._short_names[short_name(entity).lower()] == 1

    def _candidates(self, text: Text) -> list[Entity]:
        """The entities that the text may be about: one if it is named."""
        entity = text.entities[0]
        if text.named:
            return [entity]
        return self.knowledge.matching(entity.category, {index: entity.values[index] for index in text.mentioned})

    def _comparison(self, position: int, rng: random.Random) -> Sample:
        first = self.entities[position]
        same_category = rng.random() < 0.7
        pool = self._by_category[first.category] if same_category else range(len(self.entities))
        others = [other for other in pool if other != position]
        if not others:  # a category of one entity
            others = [other for other in range(len(self.entities)) if other != position]
        other = rng.choice(others)
        second = self.entities[other]
        template = rng.choice(texts.PAIR_TEMPLATES)
        written = texts.fill_two(template, first, second)
        text = Text(written, "comparison", (first, second), named=True)
        rationale = write_comparison(self.knowledge, text, rng)
        return Sample(roughened(written, rng), rationale, "comparison", None, (position, other))

    # -- held-out retrieval
    # -------------------------------------------------------------------------------------------

    def retrieval_set(self, split: Literal["dev", "test"], seed: int = 11) -> RetrievalSet:
        """The held-out queries of a split, and one held-out document per entity of the whole base.

        Raises:
            ValueError: an unknown split.
        """
        if split not in ("dev", "test"):
            raise ValueError(f"Unknown split {split!r}; there are 'dev' and 'test'.")
        positions = self.held_out.dev if split == "dev" else self.held_out.test
        return RetrievalSet(
            queries=tuple(self._held_out_query(position, seed) for position in positions),
            relevant=positions,
            documents=tuple(self._held_out_document(position, seed) for position in range(len(self.entities))),
        )

    def _held_out_query(self, position: int, seed: int) -> str:
        rng = random.Random(f"held-out query/{seed}/{position}")
        pair = _either_order(self.held_out.pairs[position], rng)
        template = rng.choice(texts.QUERY_TEMPLATES_HELD_OUT)
        return self._make(template, "query", self.entities[position], pair, rng).text

    def _held_out_document(self, position: int, seed: int) -> str:
        rng = random.Random(f"held-out document/{seed}/{position}")
        pair = _either_order(complement(self.held_out.pairs[position]), rng)
        template = rng.choice(texts.DOCUMENT_TEMPLATES_HELD_OUT)
        return self._make(template, "document", self.entities[position], pair, rng).text

    # -- reinforcement learning
    # ---------------------------------------------------------------------------------------

    def triples(self, count: int, seed: str | int) -> Iterator[Triple]:
        """Triples for reinforcement learning, from training templates and training pairs only.

        The query and its document share no attribute. The negative is about another entity of the same
        category. Entities in ``held_out.without_rl`` are neither queried nor used as negatives.
        """
        rng = random.Random(f"triples/{seed}")
        pool = [position for position in range(len(self.entities)) if position not in self.held_out.without_rl]
        usable = [position for position in pool if len(self._rl_peers(position)) > 0 and self._rl_pairs(position)]
        if not usable:
            raise ValueError(
                "No entity can be used for triples: every category needs two entities outside the hold-out."
            )
        for _ in range(count):
            position = rng.choice(usable)
            other = rng.choice(self._rl_peers(position))
            pair = rng.choice(self._rl_pairs(position))
            other_pair = rng.choice(self.held_out.document_pairs(other))
            entity, negative = self.entities[position], self.entities[other]
            make = self._make
            yield Triple(
                query=make(rng.choice(texts.QUERY_TEMPLATES), "query", entity, _either_order(pair, rng), rng).text,
                positive=make(
                    rng.choice(texts.DOCUMENT_TEMPLATES),
                    "document",
                    entity,
                    _either_order(complement(pair), rng),
                    rng,
                ).text,
                negative=make(
                    rng.choice(texts.DOCUMENT_TEMPLATES),
                    "document",
                    negative,
                    _either_order(other_pair, rng),
                    rng,
                ).text,
                position=position,
                negative_position=other,
            )

    def _rl_peers(self, position: int) -> list[int]:
        category = self.entities[position].category
        without = self.held_out.without_rl
        return [other for other in self._by_category[category] if other != position and other not in without]

    def _rl_pairs(self, position: int) -> list[Pair]:
        """Training query pairs that identify the entity, so that the negative is never right."""
        entity = self.entities[position]
        return [pair for pair in self.held_out.query_pairs(position) if identifies(self.knowledge, entity, pair)]


def _either_order(pair: Pair, rng: random.Random) -> Pair:
    return pair if rng.random() < 0.5 else (pair[1], pair[0])
