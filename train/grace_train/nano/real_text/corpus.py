"""The corpus of real texts: samples for training from scratch, triples for contrastive training, held-out sets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from grace_train.nano.corpus import RetrievalSet, Sample
from grace_train.nano.rationales import STYLES, Style
from grace_train.nano.real_text import rationales
from grace_train.nano.real_text.sources import (
    Answer,
    Part,
    Utterance,
    part_of,
    read_medquad,
    read_snips,
    read_wikitext,
    subject_key,
)

Item = TypeVar("Item")

KINDS = {"question": 25, "answer": 30, "request": 20, "sentence": 25}
"""How often each kind of text occurs."""
STYLE_WEIGHTS = (40, 40, 20)  # full, medium, vague
WORDS = 40
"""The first words of a text: what is longer is cut, so that two cores can train on it."""


class TextCorpus:
    """Draws texts and rationales from MedQuAD, SNIPS and WikiText-2.

    Diseases and articles are held out whole, variants of a name together (`sources.subject_key`): a tenth of them is in
    no training sample and no triple. A disease that goes by quite another name may be in both. Answers that begin like
    that of another disease ("This condition is inherited ...") are left out everywhere: they answer nothing. Of SNIPS
    the publishers' validation files are held out, and what they have in common with the training files.

    Args:
        folder: Holds ``medquad``, ``snips`` and ``wikitext2``, see `grace_train.nano.real_text.sources`.
        vague: Whether training samples have vague rationales among others.

    Raises:
        SourceError: A data set is not there, or not what is expected.
    """

    def __init__(self, folder: Path, *, vague: bool = True) -> None:
        self.vague = vague
        self._answers: dict[Part, list[Answer]] = {"train": [], "dev": [], "test": []}
        for item in _that_tell_apart(read_medquad(folder)):
            self._answers[part_of(item.focus)].append(item)
        test = read_snips(folder, "test")
        tested = {item.text.casefold() for item in test}
        train = [item for item in read_snips(folder, "train") if item.text.casefold() not in tested]
        self._utterances = {"train": train, "test": test}
        sentences = read_wikitext(folder)
        self._counts = rationales.word_counts([sentence.text for sentence in sentences])
        self._sentences = {
            "train": [item for item in sentences if part_of(item.article) == "train"],
            "test": [item for item in sentences if part_of(item.article) != "train"],
        }

    def utterances(self, part: Literal["train", "test"]) -> list[Utterance]:
        """The requests of a part of SNIPS."""
        return self._utterances[part]

    # -- training samples
    # ---------------------------------------------------------------------------------------------

    def samples(self, count: int, seed: str | int, *, held_out: bool = False) -> Iterator[Sample]:
        """Samples of a kind, a style and a text each; the same for the same seed.

        Args:
            count: How many.
            seed: Chooses them.
            held_out: From what training never shows, instead of the training part.
        """
        rng = random.Random(f"real text/{seed}")
        weights = STYLE_WEIGHTS if self.vague else (*STYLE_WEIGHTS[:2], 0)
        for _ in range(count):
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            style = rng.choices(STYLES, weights)[0]
            text, rationale = self._pair(kind, style, rng, "test" if held_out else "train")
            yield Sample(text, rationale, kind, style, ())

    def _pair(self, kind: str, style: Style, rng: random.Random, part: Literal["train", "test"]) -> tuple[str, str]:
        if kind == "request":
            utterance = rng.choice(self._utterances[part])
            return utterance.text, rationales.about_utterance(utterance, style)
        if kind == "sentence":
            sentence = rng.choice(self._sentences[part])
            return beginning(sentence.text), rationales.about_sentence(sentence, style, self._counts)
        item = rng.choice(self._answers[part])
        if kind == "question":
            return item.question, rationales.about_question(item, style, rng)
        return beginning(item.answer), rationales.about_answer(item, style, rng)

    # -- contrastive training
    # ---------------------------------------------------------------------------------------

    def triples(self, count: int, seed: str | int) -> Iterator[dict[str, str]]:
        """Questions with their answers; the negative is another answer about the same disease, or one of the same kind.

        Args:
            count: How many; questions come again when all were there.
            seed: Chooses order and negatives.

        Yields:
            ``query``, ``positive``, ``negative``.
        """
        rng = random.Random(f"triples/{seed}")
        same_focus, same_kind = _groups(self._answers["train"])
        order: list[Answer] = []
        for _ in range(count):
            if not order:
                order = rng.sample(self._answers["train"], len(self._answers["train"]))
            item = order.pop()
            pool = same_focus[item.focus.casefold()]
            if len(pool) < 2:
                pool = same_kind[item.kind]
            others = [other for other in pool if other is not item]
            negative = rng.choice(others or [other for other in self._answers["train"] if other is not item])
            yield {
                "query": item.question,
                "positive": beginning(item.answer),
                "negative": beginning(negative.answer),
            }

    # -- held-out retrieval
    # -------------------------------------------------------------------------------------------

    def retrieval_set(
        self, split: Literal["dev", "test"], *, queries: int | None = None, documents: int | None = None
    ) -> RetrievalSet:
        """Questions about diseases that training has not seen, against the answers about those of both splits.

        Args:
            split: Whose questions.
            queries: At most so many of each split, evenly spaced; None is all.
            documents: At most so many, but never fewer than the answers to both splits' queries; None is all.

        Raises:
            ValueError: An unknown split.
        """
        if split not in ("dev", "test"):
            raise ValueError(f"Unknown split {split!r}; there are 'dev' and 'test'.")
        asked, kept = self._held_out(queries, documents)
        place = {id(item): index for index, item in enumerate(kept)}
        return RetrievalSet(
            queries=tuple(item.question for item in asked[split]),
            relevant=tuple(place[id(item)] for item in asked[split]),
            documents=tuple(beginning(item.answer) for item in kept),
        )

    def subjects(self, *, queries: int | None = None, documents: int | None = None) -> tuple[str, ...]:
        """The diseases that the documents of `retrieval_set` are about, as MedQuAD names them, in their order.

        Args:
            queries: As for `retrieval_set`.
            documents: As for `retrieval_set`.
        """
        return tuple(item.focus for item in self._held_out(queries, documents)[1])

    def _held_out(self, queries: int | None, documents: int | None) -> tuple[dict[str, list[Answer]], list[Answer]]:
        every: list[Answer] = [*self._answers["dev"], *self._answers["test"]]
        asked = {name: evenly(self._answers[name], queries) for name in ("dev", "test")}
        needed = {id(item) for items in asked.values() for item in items}
        rest = [item for item in every if id(item) not in needed]
        room = len(rest) if documents is None else max(0, documents - len(needed))
        needed |= {id(item) for item in evenly(rest, room)}
        return asked, [item for item in every if id(item) in needed]


def beginning(text: str) -> str:
    """The first `WORDS` words."""
    return " ".join(text.split()[:WORDS])


def evenly(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most so many items, evenly spaced; all for None."""
    wanted = len(items) if count is None else min(count, len(items))
    return [items[index * len(items) // wanted] for index in range(wanted)]


def _that_tell_apart(items: Sequence[Answer]) -> list[Answer]:
    """Without answers whose beginning is that of an answer about another disease as well."""
    diseases: dict[str, set[str]] = {}
    for item in items:
        diseases.setdefault(beginning(item.answer).casefold(), set()).add(subject_key(item.focus))
    return [item for item in items if len(diseases[beginning(item.answer).casefold()]) == 1]


def _groups(items: Sequence[Answer]) -> tuple[dict[str, list[Answer]], dict[str, list[Answer]]]:
    by_focus: dict[str, list[Answer]] = {}
    by_kind: dict[str, list[Answer]] = {}
    for item in items:
        by_focus.setdefault(item.focus.casefold(), []).append(item)
        by_kind.setdefault(item.kind, []).append(item)
    return by_focus, by_kind
