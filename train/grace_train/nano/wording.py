"""English helpers for the corpus: articles, capitals, and how an entity is referred to in a sentence."""

from __future__ import annotations

import random

from grace_train.nano.knowledge import Category, Entity

# Categories of countable common nouns, which take an article in a sentence ("the giraffe"); elsewhere a name
# stands as it is ("gold", "sushi", "France"). Proper names bring their article along in the knowledge files
# ("the Eiffel Tower").
_COUNTABLE = frozenset({"animal", "body part", "instrument", "invention", "profession"})
_UNCOUNTABLE = frozenset({"dynamite", "instant noodles", "nylon", "vulcanised rubber"})

PEOPLE = frozenset({"composer", "painter", "scientist", "writer"})
_SHORT_NAMES = {  # where it is not the last word
    "Dante Alighieri": "Dante",
    "El Greco": "El Greco",
    "Galileo Galilei": "Galileo",
    "Hildegard of Bingen": "Hildegard",
    "Johann Strauss II": "Strauss",
    "Leonardo da Vinci": "Leonardo",
    "Murasaki Shikibu": "Murasaki",
    "Vincent van Gogh": "van Gogh",
}

_RELATIVE = ("that ", "which ", "who ")
_NOT_A_PREDICATE = (
    "whose ",
    "where ",
    "in which ",
    "on which ",
    "of which ",
    "for which ",
    "from which ",
    "whom ",
)
_A_BEFORE = ("eu", "one", "uku", "uni", "use", "usu", "uti", "ura")
_AN_BEFORE = ("hono", "hour", "heir")

# What the first word of a phrase becomes after a subject; without an entry, "is" goes before it.
_VERBS = {
    "bearing": "bears",
    "belonging": "belongs",
    "calling": "calls",
    "containing": "contains",
    "crossing": "crosses",
    "dating": "dates",
    "depending": "depends",
    "emptying": "empties",
    "ending": "ends",
    "featuring": "features",
    "feeding": "feeds",
    "giving": "gives",
    "going": "goes",
    "growing": "grows",
    "having": "has",
    "living": "lives",
    "lying": "lies",
    "needing": "needs",
    "passing": "passes",
    "resembling": "resembles",
    "serving": "serves",
    "using": "uses",
    "wearing": "wears",
    "with": "has",
    "working": "works",
}
_PAST = ("born ", "brought ", "built ", "created ", "designed ", "introduced ")


def with_article(phrase: str) -> str:
    """``"a"`` or ``"an"`` before a phrase, by the sound of its first word."""
    lower = phrase.lower()
    vowel = lower.startswith(_AN_BEFORE) or (lower[:1] in "aeiou" and not lower.startswith(_A_BEFORE))
    return f"{'an' if vowel else 'a'} {phrase}"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def reference(entity: Entity) -> str:
    """The entity as the subject or object of a sentence: ``"the giraffe"``, ``"France"``, ``"tennis"``."""
    countable = entity.category in _COUNTABLE and entity.name not in _UNCOUNTABLE
    takes_article = countable and entity.name[0].islower() and entity.bare_name == entity.name
    return f"the {entity.name}" if takes_article else entity.name


def labelled(entity: Entity) -> str:
    """The entity with its category: ``"the country France"``, ``"the sport tennis"``."""
    name = entity.bare_name
    if name.lower().endswith(entity.category.lower()):
        return f"the {name}"
    return f"the {entity.category} {name}"


def predicate(phrase: str, noun: str = "one") -> str:
    """A phrase that follows a noun, turned into what follows a subject.

    ``"governed from Paris"`` becomes ``"is governed from Paris"``, ``"that eats fish"`` ``"eats fish"``,
    ``"with stripes"`` ``"has stripes"``, ``"whose capital is Paris"`` ``"is one whose capital is Paris"``.

    Args:
        phrase: the phrase.
        noun: what to say instead of ``"one"`` in the last case, with its article.
    """
    first, _, rest = phrase.partition(" ")
    if phrase.startswith(_RELATIVE):
        return rest
    if first in _VERBS:
        return f"{_VERBS[first]} {rest}"
    if phrase.startswith(_NOT_A_PREDICATE):
        return f"is {noun} {phrase}"
    return f"{'was' if phrase.startswith(_PAST) else 'is'} {phrase}"


def short_name(entity: Entity) -> str:
    """What people call a person for short, ``"Mozart"``; for anything else the name."""
    if entity.category not in PEOPLE:
        return entity.name
    return _SHORT_NAMES.get(entity.name, entity.name.split()[-1])


def query_phrase(category: Category, entity: Entity, index: int, rng: random.Random) -> str:
    """Attribute ``index`` of an entity as a phrase after a noun: ``"whose capital is Paris"``."""
    return rng.choice(category.attributes[index].query).format(entity.values[index])


def document_clause(category: Category, entity: Entity, index: int, rng: random.Random) -> str:
    """Attribute ``index`` of an entity as a clause: ``"its capital is Paris"``."""
    return rng.choice(category.attributes[index].document).format(entity.values[index])
