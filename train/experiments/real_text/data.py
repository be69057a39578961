"""The data that are trained on, and Banking77 and STSBenchmark, which no run has seen."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from grace_train.nano.real_text import SourceError, TextCorpus
from grace_train.nano.real_text.corpus import evenly
from harness.digests import sha256_of
from harness.experiment import write_text
from real_text.rows import Settings

SPLITS: tuple[Literal["dev", "test"], ...] = ("dev", "test")

ORIGINS = {
    "banking77": "it is from https://github.com/PolyAI-LDN/task-specific-datasets (CC BY 4.0)",
    "stsb": "it is from https://github.com/PhilipMay/stsb-multi-mt (CC BY-SA 4.0)",
}


def write(corpus: TextCorpus, folder: Path, rows: int) -> None:
    """Write ``pairs.jsonl`` (query, positive, negative) and ``texts.txt``, the same queries and positives."""
    folder.mkdir(parents=True, exist_ok=True)
    triples = list(corpus.triples(rows, "experiment"))
    texts = dict.fromkeys(text for triple in triples for text in (triple["query"], triple["positive"]))
    for path, content in (
        (folder / "pairs.jsonl", "".join(json.dumps(triple) + "\n" for triple in triples)),
        (folder / "texts.txt", "".join(f"{text}\n" for text in texts)),
    ):
        # Training knows a file by its time: one that is the same stays.
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            write_text(path, content)


def fingerprint(corpus: TextCorpus, texts: Path, data: Path, settings: Settings) -> str:
    """Hash of all that is trained on and measured.

    Raises:
        SourceError: A data set is not there.
    """
    sets = [corpus.retrieval_set(split, queries=settings.queries, documents=settings.documents) for split in SPLITS]
    measured = (
        sets,
        snips(corpus, settings.per_class),
        banking77(texts, settings.per_class),
        stsb(texts, settings.pairs),
        [sample.text for sample in corpus.samples(settings.perplexity_texts, "perplexity", held_out=True)],
    )
    trained = [(data / name).read_text(encoding="utf-8") for name in ("pairs.jsonl", "texts.txt")]
    return sha256_of(repr(measured), *trained)


@dataclass(frozen=True)
class Labelled:
    """Texts with their classes.

    Attributes:
        train, test: ``(text, class)`` pairs.
    """

    train: Sequence[tuple[str, str]]
    test: Sequence[tuple[str, str]]


def snips(corpus: TextCorpus, per_class: int) -> Labelled:
    """The seven intents; the tested ones are the publishers' validation files."""
    train = [(item.text, item.intent) for item in corpus.utterances("train")]
    test = [(item.text, item.intent) for item in corpus.utterances("test")]
    return Labelled(_per_class(train, per_class), _per_class(test, 5 * per_class))


def banking77(folder: Path, per_class: int) -> Labelled:
    """The 77 intents of Banking77.

    Raises:
        SourceError: The files are not there.
    """
    train, test = (_csv(folder / "banking77" / f"{name}.csv") for name in ("train", "test"))
    return Labelled(_per_class(train, per_class), _per_class(test, max(1, per_class // 2)))


def _csv(path: Path) -> list[tuple[str, str]]:
    with _open(path) as file:
        return [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]


def _open(path: Path) -> TextIO:
    if not path.is_file():
        raise SourceError(f"there is no {path}: put it there; {ORIGINS[path.parent.name]}")
    return path.open(encoding="utf-8", newline="")


def _per_class(rows: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    classes: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        classes.setdefault(row[1], []).append(row)
    return [row for part in classes.values() for row in evenly(part, count)]


def stsb(folder: Path, pairs: int) -> list[tuple[str, str, float]]:
    """Pairs of the test split, evenly spaced, with their scores from 0 to 5.

    Raises:
        SourceError: The file is not there.
    """
    with _open(folder / "stsb" / "stsb-en-test.csv") as file:
        rows = [(first, second, float(score)) for first, second, score in csv.reader(file)]
    return evenly(rows, pairs)
