"""Chunks: the rows that go to the engine together, encoded, as one file each."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from grace_st.bulk.rows import Row, Scalar, json_line

_VECTORS, _ROWS, _META = "vectors.npy", "rows.jsonl", "meta.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTexts:
    """What an encoder makes of some texts.

    Attributes:
        vectors: ``[n, d]`` float32.
        rationales: The rationales as text.
        rationale_ids: Their token ids.
        finished: Whether the model ended each itself.
        truncated: How many texts were cut to fit the prompt.
    """

    vectors: np.ndarray
    rationales: list[str]
    rationale_ids: list[list[int]]
    finished: list[bool]
    truncated: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Encoded rows.

    Attributes:
        vectors: ``[n, d]`` float32.
        rows: For each the ``id`` and, unless they are left out, ``rationale``, ``rationale_ids`` and ``finished``.
    """

    vectors: np.ndarray
    rows: list[dict[str, Any]]


@dataclass(kw_only=True)
class Totals:
    """Counts over one chunk or several.

    Attributes:
        rows: Rows.
        dimension: ``d`` of the vectors.
        tokens: Tokens of all rationales.
        finished: Rationales that the model ended itself.
        truncated: Texts that were cut to fit the prompt.
        id_kinds: The kinds of the ids, see `id_kind`.
    """

    rows: int = 0
    dimension: int = 0
    tokens: int = 0
    finished: int = 0
    truncated: int = 0
    id_kinds: set[str] = field(default_factory=set)

    def add(self, other: Totals) -> None:
        """Add the counts of another chunk."""
        self.rows += other.rows
        self.dimension = other.dimension
        self.tokens += other.tokens
        self.finished += other.finished
        self.truncated += other.truncated
        self.id_kinds |= other.id_kinds


def chunked(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Lists of ``size`` rows; the last may be shorter."""
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def id_kind(identifier: Scalar) -> str:
    """``null``, ``boolean``, ``integer`` (of 64 bits), ``long integer``, ``float`` or ``string``."""
    if identifier is None:
        return "null"
    if isinstance(identifier, bool):
        return "boolean"
    if isinstance(identifier, int):
        return "integer" if -(2**63) <= identifier < 2**63 else "long integer"
    return "float" if isinstance(identifier, float) else "string"


def joined(rows: Sequence[Row], encoded: EncodedTexts, *, rationales: bool) -> tuple[Chunk, Totals]:
    """The chunk of some rows and what their texts were encoded to."""
    records: list[dict[str, Any]] = [{"id": row.id} for row in rows]
    if rationales:
        columns = zip(records, encoded.rationales, encoded.rationale_ids, encoded.finished, strict=True)
        for record, rationale, ids, finished in columns:
            record.update(rationale=rationale, rationale_ids=ids, finished=finished)
    if encoded.vectors.dtype != np.float32 or encoded.vectors.shape[:1] != (len(rows),):
        raise ValueError(
            f"{len(rows)} texts must give as many float32 vectors, got {encoded.vectors.dtype} of shape "
            f"{list(encoded.vectors.shape)}"
        )
    totals = Totals(
        rows=len(rows),
        dimension=encoded.vectors.shape[1],
        tokens=sum(len(ids) for ids in encoded.rationale_ids),
        finished=sum(encoded.finished),
        truncated=encoded.truncated,
        id_kinds={id_kind(row.id) for row in rows},
    )
    return Chunk(vectors=encoded.vectors, rows=records), totals


def write_chunk(stream: IO[bytes], chunk: Chunk, totals: Totals, digest: str) -> None:
    """Write a chunk: a zip archive, whose checksums tell a damaged one.

    Args:
        stream: Where to.
        chunk: The encoded rows.
        totals: Their counts.
        digest: The hash of the ids and texts that they were made from.
    """
    meta = {**vars(totals), "id_kinds": sorted(totals.id_kinds), "digest": digest}
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(_META, json.dumps(meta))
        with archive.open(_VECTORS, "w", force_zip64=True) as member:
            np.save(member, chunk.vectors, allow_pickle=False)
        rows = zipfile.ZipInfo(_ROWS)
        rows.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(rows, "w", force_zip64=True) as member:
            for record in chunk.rows:
                member.write(json_line(record))


def read_chunk(path: Path) -> Chunk:
    """Read a chunk.

    Raises:
        ValueError: It is damaged.
    """
    with _archive(path) as archive:
        vectors = np.load(io.BytesIO(archive.read(_VECTORS)), allow_pickle=False)
        with archive.open(_ROWS) as member:
            rows = [json.loads(line) for line in member]
    return Chunk(vectors=vectors, rows=rows)


def read_meta(path: Path) -> tuple[Totals, str]:
    """The counts of a chunk and the hash of its input.

    Raises:
        ValueError: It is damaged.
    """
    with _archive(path) as archive:
        meta = json.loads(archive.read(_META))
    digest = meta.pop("digest")
    return Totals(**{**meta, "id_kinds": set(meta["id_kinds"])}), digest


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it and go on with --resume, which makes it anew"
        ) from error
