"""The knowledge base of grace-nano: JSON files of categories, each with four attributes and its entities.

This file knows the format and its rules. It does not know how facts become texts (``texts.py``,
``rationales.py``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ATTRIBUTES_PER_CATEGORY = 4
KNOWLEDGE_FOLDER = Path(__file__).parent / "knowledge"

_FILE_KEYS = {"category", "topic", "attributes", "entities"}
_ATTRIBUTE_KEYS = {"name", "query", "document"}


class KnowledgeError(ValueError):
    """A knowledge file breaks the format; the message names the file, the place and the rule."""


@dataclass(frozen=True)
class Attribute:
    """One property that every entity of a category has.

    Args:
        name: what the property is called, for example ``"capital"``.
        query: phrases with one ``{}`` for the value that follow a noun: ``"whose capital is {}"``.
        document: whole clauses with one ``{}``: ``"its capital is {}"``.
    """

    name: str
    query: tuple[str, ...]
    document: tuple[str, ...]


@dataclass(frozen=True)
class Entity:
    """A thing of the world: its name and its four values, in the order of the category's attributes."""

    name: str
    category: str
    values: tuple[str, ...]

    @property
    def bare_name(self) -> str:
        """The name without a leading article: ``"Eiffel Tower"``."""
        return self.name.removeprefix("the ")


@dataclass(frozen=True)
class Category:
    """A kind of thing (``"country"``), the topic it belongs to, its attributes and its entities."""

    name: str
    topic: str
    attributes: tuple[Attribute, ...]
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class KnowledgeBase:
    """All categories, in a fixed order (by name), with look-ups.

    Raises:
        KnowledgeError: two categories have the same name, or there is none.
    """

    categories: tuple[Category, ...]
    _by_name: dict[str, Category] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.categories:
            raise KnowledgeError("The knowledge base has no category.")
        by_name: dict[str, Category] = {}
        for category in self.categories:
            if category.name in by_name:
                raise KnowledgeError(f"The category {category.name!r} is defined twice.")
            by_name[category.name] = category
        object.__setattr__(self, "_by_name", by_name)

    @property
    def entities(self) -> tuple[Entity, ...]:
        """Every entity, by category, in the order of the files."""
        return tuple(entity for category in self.categories for entity in category.entities)

    def category(self, name: str) -> Category:
        """The category called ``name``.

        Raises:
            KeyError: there is no such category.
        """
        return self._by_name[name]

    def sha256(self) -> str:
        """A hash of the content, to tell which knowledge a result belongs to."""
        content = json.dumps([asdict(category) for category in self.categories], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def matching(self, category: str, values: dict[int, str]) -> list[Entity]:
        """The entities of a category that have all the given values (attribute index to value)."""
        return [
            entity
            for entity in self.category(category).entities
            if all(entity.values[index] == value for index, value in values.items())
        ]


def load_knowledge(folder: Path = KNOWLEDGE_FOLDER) -> KnowledgeBase:
    """Read every ``*.json`` of a folder.

    Args:
        folder: where the files are; the package's own knowledge by default.

    Returns:
        The knowledge base, categories sorted by name.

    Raises:
        KnowledgeError: the folder has no JSON file, or a file breaks the format.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise KnowledgeError(f"No knowledge file (*.json) in {folder}.")
    categories = [read_category(path) for path in paths]
    return KnowledgeBase(tuple(sorted(categories, key=lambda category: category.name)))


def read_category(path: Path) -> Category:
    """Read and check one knowledge file.

    Raises:
        KnowledgeError: the file is not valid JSON or breaks a rule of the format.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise KnowledgeError(f"{path.name}: not valid JSON: {error}") from error
    return parse_category(raw, where=path.name)


def parse_category(raw: Any, *, where: str) -> Category:
    """Check a decoded knowledge file and turn it into a ``Category``.

    Args:
        raw: the decoded JSON.
        where: what to call the source in error messages.

    Raises:
        KnowledgeError: a key is missing or unknown, a phrase has not exactly one ``{}``, an entity has not
            one value per attribute, a string is empty or has stray white space, or a name or phrase occurs
            twice.
    """
    _check_keys(raw, _FILE_KEYS, where)
    name = _text(raw["category"], f"{where}: category")
    topic = _text(raw["topic"], f"{where}: topic")

    if not isinstance(raw["attributes"], list) or len(raw["attributes"]) != ATTRIBUTES_PER_CATEGORY:
        raise KnowledgeError(f"{where}: 'attributes' must be a list of {ATTRIBUTES_PER_CATEGORY} objects.")
    attributes = []
    for index, item in enumerate(raw["attributes"]):
        place = f"{where}: attribute {index + 1}"
        _check_keys(item, _ATTRIBUTE_KEYS, place)
        attributes.append(
            Attribute(
                name=_text(item["name"], f"{place}: name"),
                query=_phrases(item["query"], f"{place}: query"),
                document=_phrases(item["document"], f"{place}: document"),
            )
        )
    _refuse_repeats([attribute.name for attribute in attributes], f"{where}: attribute name")

    if not isinstance(raw["entities"], list) or not raw["entities"]:
        raise KnowledgeError(f"{where}: 'entities' must be a non-empty list.")
    entities = []
    for index, row in enumerate(raw["entities"]):
        place = f"{where}: entity {index + 1}"
        width = ATTRIBUTES_PER_CATEGORY + 1
        if not isinstance(row, list) or len(row) != width:
            raise KnowledgeError(
                f"{place}: must be a list of {width} strings (name, then one value each), got {row!r}."
            )
        cells = [_text(cell, place) for cell in row]
        entities.append(Entity(name=cells[0], category=name, values=tuple(cells[1:])))
    _refuse_repeats([entity.name.lower() for entity in entities], f"{where}: entity name")
    return Category(name=name, topic=topic, attributes=tuple(attributes), entities=tuple(entities))


def _check_keys(raw: Any, expected: set[str], where: str) -> None:
    if not isinstance(raw, dict):
        raise KnowledgeError(f"{where}: must be an object with the keys {sorted(expected)}.")
    missing, unknown = sorted(expected - raw.keys()), sorted(raw.keys() - expected)
    if missing or unknown:
        raise KnowledgeError(f"{where}: missing keys {missing}, unknown keys {unknown}; expected {sorted(expected)}.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or value != " ".join(value.split()):
        raise KnowledgeError(f"{where}: must be non-empty text without stray white space, got {value!r}.")
    return value


def _phrases(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise KnowledgeError(f"{where}: must be a non-empty list of phrases.")
    phrases = tuple(_text(phrase, where) for phrase in value)
    for phrase in phrases:
        if phrase.count("{}") != 1 or phrase.count("{") != 1 or phrase.count("}") != 1:
            raise KnowledgeError(f"{where}: a phrase must hold '{{}}' exactly once, got {phrase!r}.")
    _refuse_repeats(list(phrases), where)
    return phrases


def _refuse_repeats(items: list[str], where: str) -> None:
    for index, item in enumerate(items):
        if item in items[:index]:
            raise KnowledgeError(f"{where}: {item!r} occurs twice.")
