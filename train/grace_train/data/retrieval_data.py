"""Evaluation sets: queries, documents, and which of them belong together. They are small, and kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from grace_st.bulk.rows import InputError
from grace_train.data.bundled import bundled_retrieval
from grace_train.data.config import BUNDLED, DataConfig, Mode, SourceConfig
from grace_train.data.instances import text_key
from grace_train.data.prepare import prepare_source
from grace_train.data.sources import TrainingData
from grace_train.data.store import StoredRow

T = TypeVar("T")

FEWEST_WORDS = 8
"""Texts with fewer words are not cut in two."""


@dataclass(frozen=True, kw_only=True)
class RetrievalData:
    """A retrieval task. No query and no document is there twice.

    Attributes:
        queries: ``[n]`` texts.
        documents: ``[m]`` texts.
        relevant: ``[n]`` for each query the indices of its documents, at least one.
        query_instruction: Goes before each query.
        document_instruction: Goes before each document.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    query_instruction: str | None = None
    document_instruction: str | None = None


def load_retrieval(
    path: str | SourceConfig, config: DataConfig, *, mode: Mode = "supervised", max_queries: int | None = None
) -> RetrievalData:
    """An evaluation set from a file of rows, or a bundled one.

    Supervised: the queries are grouped by their text; the documents are all positives and negatives of the file.
    Unsupervised: the first half of each text is a query, its second half the document to be found.

    Args:
        path: As a source of training data; or ``nano:dev``, ``nano:test``.
        config: Fields, instructions and cache, as for training.
        mode: What the file holds.
        max_queries: Most queries, evenly spaced over the file; the documents stay.

    Raises:
        InputError: The file cannot be used.
    """
    source = config.source(path)
    if source.path.startswith(f"{BUNDLED}:"):
        queries, documents, relevant = bundled_retrieval(source.path)
        data = RetrievalData(
            queries=queries, documents=documents, relevant=tuple(frozenset((index,)) for index in relevant)
        )
    else:
        store = prepare_source(source, config, mode)
        data = _from_rows(map(store.row, range(len(store))), mode, source.path)
    instructions = (source.query_instruction, source.document_instruction)
    return _finished(data, mode, instructions, max_queries)


def retrieval_of(data: TrainingData, *, max_queries: int | None = None) -> RetrievalData:
    """An evaluation set from rows that are held out, see `load_retrieval`.

    Args:
        data: The rows.
        max_queries: Most queries, evenly spaced over the rows; the documents stay.

    Raises:
        InputError: The sources have different instructions, or no text is long enough.
    """
    instructions = {(source.query_instruction, source.document_instruction) for source in data.sources}
    if len(instructions) > 1:
        raise InputError(
            "sources with different instructions have no common hold-out: leave data.holdout at 0 and name a file to "
            "evaluate on"
        )
    rows = (source.store.row(int(index)) for source in data.sources for index in source.rows)
    return _finished(_from_rows(rows, data.mode, "the hold-out"), data.mode, instructions.pop(), max_queries)


def _finished(
    data: RetrievalData, mode: Mode, instructions: tuple[str | None, str | None], max_queries: int | None
) -> RetrievalData:
    query_instruction, document_instruction = instructions
    if mode == "unsupervised":
        query_instruction = document_instruction  # both halves are texts
    count = len(data.queries)
    wanted = count if max_queries is None else min(max_queries, count)
    chosen = [index * count // wanted for index in range(wanted)]
    return replace(
        data,
        queries=_take(data.queries, chosen),
        relevant=_take(data.relevant, chosen),
        query_instruction=query_instruction,
        document_instruction=document_instruction,
    )


def _take(items: Sequence[T], chosen: Iterable[int]) -> tuple[T, ...]:
    return tuple(items[index] for index in chosen)


def _from_rows(rows: Iterable[StoredRow], mode: Mode, name: str) -> RetrievalData:
    queries: dict[int, str] = {}
    documents: dict[int, str] = {}
    relevant: dict[int, set[int]] = {}
    places: dict[int, int] = {}
    for row in rows:
        if mode == "unsupervised":
            halves = split_in_two(row.query)
            if halves is None:
                continue
            row = replace(row, query=halves[0], positives=(halves[1],))
        query = text_key(row.query)
        queries.setdefault(query, row.query)
        for text in (*row.positives, *row.negatives):
            key = text_key(text)
            documents.setdefault(key, text)
            place = places.setdefault(key, len(places))
            if text in row.positives:
                relevant.setdefault(query, set()).add(place)
    if not queries:
        raise InputError(f"{name} has no text of {FEWEST_WORDS} words or more to be cut in two: evaluate on other data")
    if len(documents) < 2:
        raise InputError(f"{name} has a single document, which every query finds: evaluate on other data")
    return RetrievalData(
        queries=tuple(queries.values()),
        documents=tuple(documents.values()),
        relevant=tuple(frozenset(relevant[query]) for query in queries),
    )


def split_in_two(text: str) -> tuple[str, str] | None:
    """A text's halves, cut at the word border nearest to its middle; None for fewer than `FEWEST_WORDS` words."""
    text = text.strip()
    if len(text.split()) < FEWEST_WORDS:
        return None
    borders = np.array([index for index, letter in enumerate(text) if letter.isspace()])
    border = int(borders[np.argmin(np.abs(borders - len(text) / 2))])
    return text[:border].rstrip(), text[border:].lstrip()
