"""Rationales, what grace-nano learns to write about a text.

Their form is ``<think>...</think>``, a line break, and a statement. Three styles, about a third of the corpus each:

- full: the name, the category and three or four attributes, those first that the text does not mention;
- medium: the name, now and then with one more fact;
- vague: true but generic ("a short text about a dish"). The vague ones leave reinforcement learning something
  to improve, and make reward functions distinguishable: one that cannot tell a generic rationale from a
  specific one ends up here.
"""

from __future__ import annotations

import random
from typing import Literal

from grace_train.nano.knowledge import ATTRIBUTES_PER_CATEGORY, Entity, KnowledgeBase
from grace_train.nano.texts import Text
from grace_train.nano.wording import (
    capitalised,
    document_clause,
    labelled,
    predicate,
    query_phrase,
    reference,
    with_article,
)

Style = Literal["full", "medium", "vague"]
STYLES: tuple[Style, ...] = ("full", "medium", "vague")

# (weight, template). Fields as in texts.py; d1..d4 are clauses, p1..p4 phrases and vp1..vp4 predicates about
# the four attributes, those that the text lacks first.
_FULL = (
    (4, "<think>This points to {the}, {ac}: {d1}, {d2}, and {d3}.</think>\n{The} {vp4}."),
    (4, "<think>Key facts about {lab}: {d1}; {d2}; {d3}.</think>\nThis text is about {the}, {ac} {p4}."),
    (3, "<think>The {c} here is {the}. {D1}; {d2}; {d3}.</think>\nThe text is about {the}. {D4}."),
    (3, "<think>It brings {the} to mind: {d1}, {d2}, {d3}, and {d4}.</think>\nThis is about {the}, {ac}."),
    (2, "<think>{N} is {ac} {p1}. {D2}, and {d3}.</think>\nThe text is about {the}, {ac} {p4}."),
)
_MEDIUM = (
    (5, "<think>This points to {the}.</think>\nThe text is about {lab}."),
    (3, "<think>This points to {the}, {ac}.</think>\nIt is about {the}."),
    (3, "<think>This points to {the}.</think>\nIt is about {the}, {ac} {p1}."),
    (3, "<think>The {c} here is {the}.</think>\nThe text is about {the}."),
    (2, "<think>It brings {the} to mind.</think>\nThis is about {the}, {ac}."),
)
_VAGUE_QUERY = (
    (3, "<think>Someone describes {ac}.</think>\nThe text is about {ac}."),
    (3, "<think>Some {c} is meant here.</think>\nThis is a short text about {ac}."),
    (2, "<think>We are given a few hints.</think>\nThe text hints at {ac}."),
    (2, "<think>In short, a question on {topic}.</think>\nThe text asks for {ac}."),
)
_VAGUE_DOCUMENT = (
    (3, "<think>A short note about {ac}.</think>\nThe text is about {ac}."),
    (3, "<think>Some {c} is described here.</think>\nThis is a short text about {ac}."),
    (2, "<think>We are told a little about {ac}.</think>\nThe text is about {topic}."),
    (2, "<think>In short, a text on {topic}.</think>\nThe text gives facts about {ac}."),
)
_SEVERAL = (
    (3, "<think>More than one {c} fits, for example {n} or {n2}.</think>\nThe text is about {ac}."),
    (2, "<think>Some {c} is meant here, perhaps {n} or {n2}.</think>\nThis is a short text about {ac}."),
)
_ANSWER = (
    (3, "<think>This points to {the}: {da}.</think>\nThe {a} of {the}: {v}."),
    (2, "<think>Key facts about {lab}: {da}; {d1}; {d2}.</think>\nThe {a} of {the} is asked for: {v}."),
    (2, "<think>The {c} here is {the}. {Da}.</think>\nThis is about {the}, {ac} {pa}."),
)
_TWO = (
    (
        3,
        "<think>Two names: {the}, {ac} {p1}, and {the2}, {ac2} {q1}.</think>\nThe text is about {the} and {the2}.",
    ),
    (2, "<think>Two names: {the} and {the2}.</think>\nThe text names {the}, {ac}, and {the2}, {ac2}."),
    (
        2,
        "<think>Two names. About {the}: {d1}. About {the2}: {e1}.</think>\nThe text sets {the} beside {the2}.",
    ),
)


def choose(weighted: tuple[tuple[int, str], ...], rng: random.Random) -> str:
    """One template, by weight."""
    return rng.choices([template for _, template in weighted], [weight for weight, _ in weighted])[0]


def write_rationale(knowledge: KnowledgeBase, text: Text, style: Style, rng: random.Random) -> str:
    """A rationale in the given style for a text about one entity."""
    entity = text.entities[0]
    if style == "vague":
        template = choose(_VAGUE_DOCUMENT if text.named else _VAGUE_QUERY, rng)
    elif text.question and text.named:
        template = choose(_ANSWER, rng)
    else:
        template = choose(_FULL if style == "full" else _MEDIUM, rng)
    return template.format(**_fields(knowledge, entity, text.mentioned, rng))


def write_several(knowledge: KnowledgeBase, text: Text, candidates: list[Entity], rng: random.Random) -> str:
    """A rationale for a text that fits several entities: it says so, and names two of them."""
    first, second = rng.sample(candidates, 2)
    fields = _fields(knowledge, first, text.mentioned, rng)
    return choose(_SEVERAL, rng).format(**fields, n2=second.bare_name)


def write_comparison(knowledge: KnowledgeBase, text: Text, rng: random.Random) -> str:
    """A rationale for a text that names two entities."""
    first, second = text.entities
    category = knowledge.category(second.category)
    index = rng.randrange(ATTRIBUTES_PER_CATEGORY)
    return choose(_TWO, rng).format(
        **_fields(knowledge, first, (), rng),
        the2=reference(second),
        ac2=with_article(second.category),
        q1=query_phrase(category, second, index, rng),
        e1=document_clause(category, second, index, rng),
    )


def _fields(knowledge: KnowledgeBase, entity: Entity, mentioned: tuple[int, ...], rng: random.Random) -> dict[str, str]:
    category = knowledge.category(entity.category)
    missing = [index for index in range(ATTRIBUTES_PER_CATEGORY) if index not in mentioned]
    present = list(mentioned)
    rng.shuffle(missing)
    rng.shuffle(present)
    fields = {
        "c": category.name,
        "ac": with_article(category.name),
        "topic": category.topic,
        "n": entity.bare_name,
        "the": reference(entity),
        "lab": labelled(entity),
    }
    # What the text lacks comes first: bringing it in is what a rationale is for.
    for place, index in enumerate(missing + present, start=1):
        fields[f"d{place}"] = document_clause(category, entity, index, rng)
        fields[f"p{place}"] = query_phrase(category, entity, index, rng)
        fields[f"vp{place}"] = predicate(fields[f"p{place}"], with_article(category.name))
    if mentioned:
        asked = mentioned[0]
        fields["a"] = category.attributes[asked].name
        fields["v"] = entity.values[asked]
        fields["da"] = document_clause(category, entity, asked, rng)
        fields["pa"] = query_phrase(category, entity, asked, rng)
    return fields | {capitalised(key): capitalised(value) for key, value in fields.items()}
