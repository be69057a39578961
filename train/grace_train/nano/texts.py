"""Templates that turn entities into texts a user might encode: queries, documents, short remarks.

Fields of the templates: ``c`` the category, ``ac``/``Ac`` with its article, ``n``/``N`` the name,
``the``/``The`` the name as it stands in a sentence, ``lab``/``Lab`` the name with its category, ``p`` and
``r`` two query phrases ("that eats fish"), ``vp`` and ``vr`` the same after a subject ("eats fish"), ``d``
and ``e`` two document clauses ("its capital is Paris"), ``v`` and ``w`` two bare values, ``a`` an attribute's
name, ``wh`` "who" or "what". A capital letter means that the field starts with one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from grace_train.nano.knowledge import Category, Entity
from grace_train.nano.wording import (
    PEOPLE,
    capitalised,
    document_clause,
    labelled,
    predicate,
    query_phrase,
    reference,
    with_article,
)

QUERY_TEMPLATES = (
    "{Ac} {p} and {r}.",
    "{Ac} {p}, {r}.",
    "Which {c} is it, {p} and {r}?",
    "Which {c} {vp} and {vr}?",
    "What {c} {vp}, and {vr}?",
    "It {vp}. It {vr}.",
    "This {c} {vp}, and it {vr}.",
    "I am looking for {ac} {p} and {r}.",
    "Looking for the name of {ac} {p}, {r}.",
    "What is the name of the {c} {p} and {r}?",
    "What do we call {ac} {p}, {r}?",
    "Tell me the name of {ac} {p} and {r}.",
    "Something {p} and {r}.",
    "It is something {p}, {r}. What is it?",
    "Guess the {c}: one {p}, {r}.",
    "Name {ac} {p} and {r}.",
    "Can you name the {c} {p} and {r}?",
    "I forgot the name of this {c}: one {p} and {r}.",
    "Riddle: {ac} {p}, {r}. Who or what is it?",
    'Quiz question: which {c}, {p}, fits the hint "{r}"?',
    "Give me {ac} {p}, and {r}.",
    "We read about {ac} {p}. It was one {r}.",
    "Find {ac} {p} and {r}, please.",
    "{c} {p} {r}",
)
QUERY_TEMPLATES_HELD_OUT = (
    "Do you know the {c} {p} and {r}?",
    "Please help me remember: {ac} {p}, {r}.",
    "There is {ac} {p}, also one {r}; which one do I mean?",
    "My friend described {ac} {p} and {r}.",
)

DOCUMENT_TEMPLATES = (
    "{The} is {ac}. {D}. {E}.",
    "{The} is {ac}: {d}, and {e}.",
    "About {the}: {d} and {e}.",
    "{D}, and {e}. The name is {n}.",
    "Notes on {lab}: {d}; {e}.",
    "{N} ({c}). {D}. {E}.",
    "{N}: {ac} {p}. {E}.",
    "{The} {vp}. {E}.",
    "{Lab}: {d}, {e}.",
    "Facts about {the}. {D}. {E}.",
    "{D}. {E}. This is {the}, {ac}.",
    "One {c} is {the}; {d}. {E}.",
    "Did you know this about {the}? {D}, and {e}.",
    "From an encyclopedia: {n}, {ac}; {d}, {e}.",
    "{The}, {ac} {p}: {e}.",
    "A few lines on {the}: {d}. Besides, {e}.",
)
DOCUMENT_TEMPLATES_HELD_OUT = (
    "{The}, {ac}: {d}, while {e}.",
    "A reader's card on {lab}. First, {d}. Second, {e}.",
    "We learned about {the} today; {d}, moreover {e}.",
)

CLUE_TEMPLATES = (  # one attribute, no name
    "Which {c} is it, {p}?",
    "Which {c} {vp}?",
    "What {c} {vp}?",
    "This {c} {vp}.",
    "Some {c} {vp}.",
    "{Ac} {p}.",
    "{Ac} {p}",
    "What is the name of the {c} {p}?",
    "I am looking for {ac} {p}.",
    "The {c} {p}",
    "Name the {c} {p}.",
    "{c} {v}",
    "{c} {p}",
)
BARE_CLUE_TEMPLATES = (  # the same without the category: only for values that occur once in the whole base
    "{p}",
    "{a} {v}",
    "{v}",
    "{V}.",
    "{v}?",
    "Something {p}.",
    "{Wh} {vp}?",
    "It {vp}.",
)
KEYWORD_TEMPLATES = (  # two attributes, values only
    "{v} {w}",
    "{v}, {w}",
    "{c}: {v}, {w}",
    "{c} {v} {w}",
    "{v} and {w}",
)
FACT_TEMPLATES = (  # the name and one attribute
    "{The} is {ac}: {d}.",
    "{The} is {ac} {p}.",
    "{N}: {d}.",
    "About {the}: {d}.",
    "{The}, {ac} {p}.",
    "{The} {vp}.",
    "I think {the} {vp}.",
    "I read that {the} is {ac} {p}.",
    "{Lab}: {d}.",
    "{N} and {v}",
    "{v}: {n}",
    "{n} {v}",
)
ATTRIBUTE_QUESTIONS = (  # the name, and what is asked about it
    "What is the {a} of {the}?",
    "The {a} of {the}",
    "{n} {a}",
    "Tell me the {a} of {the}.",
)
NAME_TEMPLATES = (
    "{N}",
    "{n}",
    "{n} {c}",
    "{The}.",
    "{Lab}",
    "{The} at night",
    "{n} at night",
    "{The} in the morning",
    "Visiting {the}",
    "I want to see {the}.",
    "A walk around {the}",
    "A day near {the}",
    "The {c} called {n}",
    "{The} in winter",
    "{N}, {ac}",
    "A photo of {the}",
    "A picture of {the}.",
    "A short history of {the}",
    "An introduction to {the}",
    "A book about {the}",
    "All about {the}",
    "{Wh} is {the}?",
    "Tell me about {the}.",
    "I like {the}.",
    "I love {the}!",
    "I once saw something about {the} on television.",
    "Yesterday we talked about {the}.",
    "My favourite {c} is {the}.",
    "{The} is my favourite {c}.",
    "Why is {the} famous?",
    "{The} for beginners",
    "Is {the} {ac}?",
    "We learned about {the} at school.",
    "A story about {the} and a child",
    "{N}: what you should know",
    "The beauty of {the}",
    "Dreaming of {the}",
    "More news about {the}",
    "Have you heard of {the}?",
    "Everyone knows {the}.",
    "{n}!",
    "{n}?",
    "A walk through {the}",
    "Good morning from {the}",
    "Thinking of {the} again",
    "She showed me {the} last week.",
    "We read a long article on {the} today.",
    "My sister asked me about {the} in the evening.",
    "The children drew {the} with crayons.",
    "He cannot stop talking about {the}.",
    "Do you like {the}?",
    "Five questions about {the}",
    "Old postcards of {the}",
    "A poem on {the}",
    "In the rain with {the}",
    "Somewhere near {the} at sunset",
    "The secret of {the}",
    "What makes {the} so special?",
    "Nothing compares to {the}.",
    "A lecture about {the} for students",
)
PAIR_TEMPLATES = (  # two names
    "{The} and {the2}",
    "{N} or {n2}?",
    "{N} and {n2} compared.",
    "The difference between {the} and {the2}",
    "First {the}, then {the2}.",
    "{The} is not {the2}.",
    "From {the} to {the2}.",
)


@dataclass(frozen=True)
class Text:
    """A text and what it says.

    Args:
        text: the text.
        kind: which family of templates made it.
        entities: whom it is about: one, or two in a comparison, or none.
        mentioned: indices of the attributes that the text mentions or, if ``question``, asks for.
        named: whether the text contains the entity's name.
        question: whether it asks for an attribute of the named entity.
    """

    text: str
    kind: str
    entities: tuple[Entity, ...]
    mentioned: tuple[int, ...] = ()
    named: bool = False
    question: bool = False


def fill(template: str, category: Category, entity: Entity, indices: tuple[int, ...], rng: random.Random) -> str:
    """Fill a template with an entity.

    Args:
        template: one of this file's templates.
        category: the entity's category.
        entity: whom the text is about.
        indices: the attributes to mention, in this order; none, one or two.
        rng: chooses among the phrases of an attribute.
    """
    fields = {
        "c": category.name,
        "ac": with_article(category.name),
        "n": entity.bare_name,
        "the": reference(entity),
        "lab": labelled(entity),
        "wh": "who" if category.name in PEOPLE else "what",
    }
    if indices:
        first = indices[0]
        fields["p"] = query_phrase(category, entity, first, rng)
        fields["d"] = document_clause(category, entity, first, rng)
        fields["vp"] = predicate(fields["p"])
        fields["v"] = entity.values[first]
        fields["a"] = category.attributes[first].name
    if len(indices) > 1:
        second = indices[1]
        fields["r"] = query_phrase(category, entity, second, rng)
        fields["e"] = document_clause(category, entity, second, rng)
        fields["vr"] = predicate(fields["r"])
        fields["w"] = entity.values[second]
    fields |= {capitalised(key): capitalised(value) for key, value in fields.items()}
    return template.format(**fields)


def fill_two(template: str, first: Entity, second: Entity) -> str:
    """Fill a template of ``PAIR_TEMPLATES`` with the names of two entities."""
    fields = {"n": first.bare_name, "the": reference(first), "n2": second.bare_name, "the2": reference(second)}
    fields |= {capitalised(key): capitalised(value) for key, value in fields.items()}
    return template.format(**fields)


def roughened(text: str, rng: random.Random) -> str:
    """Now and then, the text as people type it: lower case, no final stop."""
    chance = rng.random()
    if chance < 0.12:
        text = text.lower()
    if chance < 0.06 or 0.12 <= chance < 0.22:
        text = text.rstrip(".?!")
    return text
