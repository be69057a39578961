"""Reading the data sets as they are published. Nothing is downloaded: a folder holds them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Part = Literal["train", "dev", "test"]

MEDQUAD = "medquad/medquad_qa.jsonl.gz"
SNIPS_TRAIN = "snips/train_{intent}_full.json.gz"
SNIPS_TEST = "snips/validate_{intent}.json.gz"
WIKITEXT = ("wikitext2/valid.txt", "wikitext2/test.txt")
INTENTS = (
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
)
ORIGINS = {
    "medquad": "MedQuAD, https://github.com/abachaa/MedQuAD, as JSON lines (CC BY 4.0)",
    "snips": "SNIPS, https://github.com/sonos/nlu-benchmark, 2017-06-custom-intent-engines (CC0)",
    "wikitext2": "WikiText-2, https://github.com/pytorch/examples, word_language_model/data/wikitext-2 (CC BY-SA)",
}
HELD_OUT = 5  # percent of the subjects for dev, and for test
_LEAST_WORDS = 5


class SourceError(ValueError):
    """A data set is not there, or not what is expected."""


@dataclass(frozen=True)
class Answer:
    """A question of MedQuAD with its answer.

    Attributes:
        focus: What both are about.
        kind: What is asked about it: ``"symptoms"``, ``"treatment"`` ...
        question, answer: The texts; the answer whole.
    """

    focus: str
    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Utterance:
    """A request of SNIPS.

    Attributes:
        text: What is said.
        intent: One of `INTENTS`.
        slots: ``(name, value)`` in the order of the text.
    """

    text: str
    intent: str
    slots: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sentence:
    """A passage of WikiText.

    Attributes:
        text: Its words.
        article: Title of its article.
    """

    text: str
    article: str


_VARIANT = re.compile(
    r"\b(adult|childhood|children|child|juvenile|infantile|congenital|male|female|men|women|acute|chronic|type|the|of|in"
    r"|and|with|[ivx]+|\d+[a-z]?)\b"
)


def subject_key(subject: str) -> str:
    """What variants of a name have in common: "Breast Cancer", "Male Breast Cancers", "Breast cancer type 2"."""
    words = re.sub(r"[^\w ]", " ", re.sub(r"\([^)]*\)", " ", subject.casefold()))
    kept = sorted(word.rstrip("s") for word in _VARIANT.sub(" ", words).split())
    return " ".join(kept) or subject.casefold()


def part_of(subject: str) -> Part:
    """Which part a disease or an article belongs to: a hash of its name's key decides, the same everywhere."""
    place = int(hashlib.sha256(subject_key(subject).encode()).hexdigest(), 16) % 100
    return "dev" if place < HELD_OUT else "test" if place < 2 * HELD_OUT else "train"


def read_medquad(folder: Path) -> list[Answer]:
    """The questions, one for each pair of focus and kind.

    Raises:
        SourceError: The file is not there, or a line has not what is expected.
    """
    path = _find(folder, MEDQUAD)
    found: dict[tuple[str, str], Answer] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = _parsed(line, path, number)
            try:
                item = Answer(*(" ".join(row[name].split()) for name in ("focus", "qtype", "question", "answer")))
            except (KeyError, TypeError, AttributeError) as error:
                raise SourceError(f"{path}, line {number}: focus, qtype, question and answer are expected") from error
            if item.focus and item.question and len(item.answer.split()) >= _LEAST_WORDS:
                found.setdefault((item.focus.casefold(), item.kind), item)
    return list(found.values())


def read_snips(folder: Path, part: Literal["train", "test"]) -> list[Utterance]:
    """The requests of all intents. ``test`` is what the publishers call validate.

    Raises:
        SourceError: A file is not there, or not what is expected.
    """
    pattern = SNIPS_TRAIN if part == "train" else SNIPS_TEST
    return [item for intent in INTENTS for item in _utterances(_find(folder, pattern.format(intent=intent)), intent)]


def _utterances(path: Path, intent: str) -> Iterator[Utterance]:
    # One file has a few bytes that are no UTF-8: the requests that hold them are left out.
    content = _parsed(gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace"), path, 1)
    if not isinstance(content, dict) or intent not in content:
        raise SourceError(f"{path}: the key {intent!r} is expected")
    seen = set()
    for row in content[intent]:
        pieces = row["data"]
        text = " ".join("".join(piece["text"] for piece in pieces).split())
        if not text or "\ufffd" in text or text in seen:
            continue
        seen.add(text)
        slots = tuple((piece["entity"], piece["text"].strip()) for piece in pieces if "entity" in piece)
        yield Utterance(text, intent, slots)


def read_wikitext(folder: Path) -> list[Sentence]:
    """The paragraphs under their articles' titles, without those whose title or text has unknown words.

    Raises:
        SourceError: A file is not there.
    """
    found = []
    for name in WIKITEXT:
        article = ""
        for line in _find(folder, name).read_text(encoding="utf-8").splitlines():
            words = line.strip()
            title = re.fullmatch(r"= ([^=]+) =", words)
            if title:
                article = _natural(title[1])
            elif words and not words.startswith("=") and "<unk>" not in article:
                found += [Sentence(text, article) for text in _sentences(words) if "<unk>" not in text]
    return found


def _sentences(paragraph: str) -> Iterator[str]:
    for sentence in re.split(r"(?<= [.!?]) ", paragraph):
        if len(sentence.split()) >= _LEAST_WORDS:
            yield _natural(sentence)


def _natural(words: str) -> str:
    """WikiText's words as they are usually written: ``@-@`` and spaces before punctuation are its own."""
    joined = re.sub(r" @([-,.])@ ", r"\1", words.strip())
    joined = re.sub(r" ([.,;:!?)%]|'s\b|n't\b)", r"\1", joined)
    return re.sub(r"([(]) ", r"\1", joined)


def _find(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        origin = ORIGINS[name.split("/", maxsplit=1)[0]]
        raise SourceError(f"there is no {path}: put it there; it is from {origin}")
    return path


def _parsed(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}, line {line}: not JSON ({error})") from error
