from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from grace_train.nano.corpus import Corpus
from grace_train.nano.knowledge import (
    KnowledgeBase,
    KnowledgeError,
    load_knowledge,
    parse_category,
    read_category,
)

VALID: dict[str, Any] = {
    "category": "fruit",
    "topic": "food",
    "attributes": [
        {"name": name, "query": [f"with {name} {{}}"], "document": [f"its {name} is {{}}"]}
        for name in ("colour", "taste", "season", "shape")
    ],
    "entities": [
        ["apple", "red", "sweet", "autumn", "a ball"],
        ["banana", "yellow", "sweet", "all year", "a bow"],
    ],
}


def broken(change: Any) -> dict[str, Any]:
    raw = copy.deepcopy(VALID)
    change(raw)
    return raw


def test_a_valid_file_becomes_a_category(tmp_path: Path) -> None:
    path = tmp_path / "fruit.json"
    path.write_text(json.dumps(VALID), encoding="utf-8")
    category = read_category(path)
    assert category.name == "fruit"
    assert [entity.name for entity in category.entities] == ["apple", "banana"]
    assert category.entities[0].values == ("red", "sweet", "autumn", "a ball")
    assert category.attributes[1].document == ("its taste is {}",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("topic"), r"missing keys \['topic'\]"),
        (lambda raw: raw.update(extra=1), r"unknown keys \['extra'\]"),
        (lambda raw: raw.update(category=" fruit"), "category: must be non-empty text"),
        (lambda raw: raw["attributes"].pop(), "must be a list of 4"),
        (lambda raw: raw["attributes"][0].pop("query"), r"attribute 1: missing keys \['query'\]"),
        (lambda raw: raw["attributes"][1]["query"].append("no place"), "attribute 2: query.*exactly once"),
        (lambda raw: raw["attributes"][1]["query"].append("{} and {}"), "exactly once"),
        (lambda raw: raw["attributes"][1]["query"].append("{name}"), "exactly once"),
        (lambda raw: raw["attributes"][2].update(document=[]), "attribute 3: document: must be a non-empty list"),
        (lambda raw: raw["attributes"][0].update(name="taste"), "'taste' occurs twice"),
        (lambda raw: raw["entities"][1].pop(), "entity 2: must be a list of 5"),
        (lambda raw: raw["entities"][1].__setitem__(2, ""), "entity 2: must be non-empty"),
        (lambda raw: raw["entities"][1].__setitem__(2, 7), "entity 2: must be non-empty text"),
        (lambda raw: raw["entities"].append(["Apple", "a", "b", "c", "d"]), "entity name: 'apple' occurs twice"),
        (lambda raw: raw.update(entities=[]), "'entities' must be a non-empty list"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(change: Any, message: str) -> None:
    with pytest.raises(KnowledgeError, match=message) as caught:
        parse_category(broken(change), where="fruit.json")
    assert "fruit.json" in str(caught.value)


def test_invalid_json_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="No knowledge file"):
        load_knowledge(tmp_path)
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(KnowledgeError, match=r"bad\.json: not valid JSON"):
        load_knowledge(tmp_path)


def test_a_category_cannot_be_defined_twice() -> None:
    category = parse_category(VALID, where="fruit.json")
    with pytest.raises(KnowledgeError, match="'fruit' is defined twice"):
        KnowledgeBase((category, category))


def test_the_bundled_knowledge_is_large_enough_and_clean() -> None:
    knowledge = load_knowledge()
    assert len(knowledge.categories) >= 12
    assert len(knowledge.entities) >= 400
    for category in knowledge.categories:
        # Phrases become sentences by filling in a value: no stray punctuation at their ends.
        for attribute in category.attributes:
            for phrase in (*attribute.query, *attribute.document):
                assert not re.search(r"[.,;:?!]$", phrase), (category.name, phrase)


def test_matching_finds_entities_by_their_values(corpus: Corpus) -> None:
    entity = corpus.entities[0]
    everything = dict(enumerate(entity.values))
    assert corpus.knowledge.matching(entity.category, everything) == [entity]
    assert corpus.knowledge.matching(entity.category, {0: "no such value"}) == []
