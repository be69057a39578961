"""What a corpus costs in tokens, hours and storage: pure functions of what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

VECTOR_BYTES = {"float32": 4, "float16": 2, "int8": 1}
"""Bytes of a number of a vector, by its type."""

_PAGE = 4096  # of SQLite
_HNSW_LINKS = 32
_INDEX_ENTRY = 66  # a key of 32 bytes and its row, in a tree that is two thirds full


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What one worker was measured to do.

    Attributes:
        texts_per_second: Texts.
        text_tokens: Mean tokens of a text, with the end of the template, which is read with each of them.
        rationale_tokens: Mean tokens of a rationale.
        measured: Where, in words.

    Raises:
        ValueError: A number is out of range.
    """

    texts_per_second: float
    text_tokens: float
    rationale_tokens: float
    measured: str

    def __post_init__(self) -> None:
        for name in ("texts_per_second", "text_tokens"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number > 0, got {getattr(self, name)!r}")
        if not 0 <= self.rationale_tokens < math.inf:
            raise ValueError(f"rationale_tokens must be a number >= 0, got {self.rationale_tokens!r}")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is to be encoded, and what is kept of it.

    Attributes:
        texts: How many.
        text_tokens: Mean tokens of a text, with the end of the template.
        rationale_tokens: Mean tokens of a rationale.
        dimensions: Of a vector.
        dtype: In which vectors are kept in the end, one of `VECTOR_BYTES`.
        keep_rationales: Whether the output has them.
        bytes_per_token: Of rationales as text.
        id_bytes: Of an id.

    Raises:
        ValueError: A value is out of range.
    """

    texts: int
    text_tokens: float
    rationale_tokens: float
    dimensions: int
    dtype: str = "float32"
    keep_rationales: bool = True
    bytes_per_token: float = 4.0
    id_bytes: float = 24.0

    def __post_init__(self) -> None:
        for name in ("texts", "dimensions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {getattr(self, name)!r}")
        for name in ("text_tokens", "rationale_tokens", "bytes_per_token", "id_bytes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)!r}")
        if self.dtype not in VECTOR_BYTES:
            raise ValueError(f"dtype must be one of {', '.join(VECTOR_BYTES)}, got {self.dtype!r}")


@dataclass(frozen=True)
class Range:
    """From the least to the most."""

    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Both ends."""
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What it costs.

    Attributes:
        text_tokens: Tokens that are read.
        rationale_tokens: Tokens that are written.
        worker_hours: Hours of all workers together.
        hours: Wall-clock hours.
        price: In the unit of the price per hour; None without one.
        vector_bytes: Vectors alone, in the type in which they are kept.
        output_bytes: The Parquet files before compression: ids, float32 vectors, rationales where they are kept.
        store_bytes: A store that stays (``--store``).
        running_store_bytes: Otherwise, at most, the stores of the shards that are made at one time.
        flat_index_bytes: Memory of an index of the vectors as they are kept.
        hnsw_index_bytes: Memory of an HNSW index of float32 vectors with 32 links.
    """

    text_tokens: float
    rationale_tokens: float
    worker_hours: Range
    hours: Range
    price: Range | None
    vector_bytes: float
    output_bytes: float
    store_bytes: float
    running_store_bytes: float
    flat_index_bytes: float
    hnsw_index_bytes: float


def seconds_per_text(measured: Throughput, text_tokens: float, rationale_tokens: float) -> Range:
    """Seconds that one worker needs for a text.

    One measurement tells ``a * P + b * R = s`` of a text of ``P`` tokens with a rationale of ``R``, but not how the
    time divides: reading a token (``a``) costs less than writing one (``b``). For other lengths the time lies between
    the measured one times the smaller and times the larger of the two ratios of lengths, whatever ``a`` and ``b`` are;
    with the measured lengths it is the measured time. Attention, whose time grows with the square of the length, is
    left out.

    Args:
        measured: The measurement.
        text_tokens: ``P``.
        rationale_tokens: ``R``.

    Raises:
        ValueError: Rationales are wanted, and it was measured without.
    """
    ratios = [text_tokens / measured.text_tokens]
    if measured.rationale_tokens:
        ratios.append(rationale_tokens / measured.rationale_tokens)
    elif rationale_tokens:
        raise ValueError(
            f"rationales of {rationale_tokens:g} tokens are asked for, and the throughput was measured without any: "
            "measure it with rationales"
        )
    return Range(min(ratios), max(ratios)).times(1 / measured.texts_per_second)


def costs_of(
    corpus: Corpus,
    measured: Throughput,
    *,
    workers: int = 1,
    price_per_hour: float | None = None,
    shard_rows: int,
) -> Costs:
    """What a corpus costs, if each worker does what was measured.

    Args:
        corpus: The corpus.
        measured: What one worker does.
        workers: How many there are.
        price_per_hour: Of one worker.
        shard_rows: Rows of a file of the output.

    Raises:
        ValueError: See `seconds_per_text`; or there are no workers.
    """
    if workers < 1:
        raise ValueError(f"workers must be an integer >= 1, got {workers!r}")
    texts, dimensions = corpus.texts, corpus.dimensions
    each = seconds_per_text(measured, corpus.text_tokens, corpus.rationale_tokens)
    worker_hours = each.times(texts / 3600)
    rationale = corpus.rationale_tokens * (4 + corpus.bytes_per_token) if corpus.keep_rationales else 0.0
    entry = store_entry_bytes(dimensions, corpus.rationale_tokens)
    return Costs(
        text_tokens=texts * corpus.text_tokens,
        rationale_tokens=texts * corpus.rationale_tokens,
        worker_hours=worker_hours,
        hours=worker_hours.times(1 / workers),
        price=None if price_per_hour is None else worker_hours.times(price_per_hour),
        vector_bytes=float(texts * dimensions * VECTOR_BYTES[corpus.dtype]),
        output_bytes=texts * (4 * dimensions + corpus.id_bytes + rationale),
        store_bytes=texts * entry,
        running_store_bytes=min(texts, workers * shard_rows) * entry,
        flat_index_bytes=float(texts * dimensions * VECTOR_BYTES[corpus.dtype]),
        # https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index
        hnsw_index_bytes=float(texts * (4 * dimensions + 2 * 4 * _HNSW_LINKS)),
    )


def store_entry_bytes(dimensions: int, rationale_tokens: float) -> float:
    """Bytes that an entry takes in a `grace_st.store.RationaleStore`, in pages as SQLite divides it.

    Source: https://www.sqlite.org/fileformat2.html#cell_payload_overflow_pages, with pages of 4096 bytes.
    """
    payload = 4 * dimensions + 4 * rationale_tokens + 60
    usable = _PAGE - 12
    if payload <= _PAGE - 35:
        here, pages = payload, 0
    else:
        least = usable * 32 // 255 - 23
        kept = least + (payload - least) % (_PAGE - 4)
        here = kept if kept <= _PAGE - 35 else least
        pages = math.ceil((payload - here) / (_PAGE - 4))
    return pages * _PAGE + _PAGE / max(1, usable // (here + 10)) + _INDEX_ENTRY
