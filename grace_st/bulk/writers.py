"""Writers: the final file, from the chunks one after another, so that memory does not grow with the rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from grace_st.bulk.chunks import Chunk, Totals
from grace_st.bulk.formats import import_parquet
from grace_st.bulk.rows import Scalar, json_line
from grace_st.surrogates import encodable

ROW_GROUP = 8192
"""Rows that a Parquet row group has at least, however small the chunks are."""


def write_npy(vectors: IO[bytes], rows: IO[bytes], chunks: Iterable[Chunk], totals: Totals) -> None:
    """Vectors as ``.npy`` ``[N, d]`` float32, and everything else as JSON lines.

    Args:
        vectors: Where the vectors go.
        rows: Where the rest goes.
        chunks: The chunks, in order.
        totals: Their counts.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": (totals.rows, totals.dimension)}
    np.lib.format.write_array_header_1_0(vectors, header)
    for chunk in chunks:
        vectors.write(np.ascontiguousarray(chunk.vectors, dtype="<f4").data)
        rows.writelines(json_line(row) for row in chunk.rows)


def write_jsonl(stream: IO[bytes], chunks: Iterable[Chunk]) -> None:
    """Everything as JSON lines."""
    for chunk in chunks:
        stream.writelines(json_lines(chunk))


def json_lines(chunk: Chunk) -> Iterator[bytes]:
    """The rows of a chunk as JSON lines, the ``embedding`` after the ``id``."""
    for vector, row in zip(chunk.vectors.tolist(), chunk.rows, strict=True):
        # Nine digits hold a float32 exactly; json would write the seventeen of a float64.
        numbers = ", ".join(["%.9g" % number for number in vector])  # noqa: UP031  (twice as fast as an f-string)
        line = json_line({"id": row["id"]})[:-2] + b', "embedding": [' + numbers.encode("ascii") + b"]"
        others = json_line({name: value for name, value in row.items() if name != "id"})
        yield line + (b", " + others[1:] if others != b"{}\n" else b"}\n")


def write_parquet(
    stream: IO[bytes],
    chunks: Iterable[Chunk],
    totals: Totals,
    *,
    rationales: bool,
    metadata: Callable[[], Mapping[str, str]] | None = None,
) -> None:
    """Everything as Parquet.

    The ids are a column of 64-bit integers, floats, booleans or strings if all of them are of that kind (or null).
    Otherwise they are strings, and those that are none in the input are written as JSON. Lone surrogates become
    U+FFFD, since Parquet cannot hold them.

    Args:
        stream: Where to.
        chunks: The chunks, in order.
        totals: Of their counts, the dimension and the kinds of ids.
        rationales: Whether the rows have rationales.
        metadata: Asked, when all chunks are written, for what goes to the end of the file.
    """
    pyarrow, parquet = import_parquet()
    id_types = {"integer": pyarrow.int64(), "float": pyarrow.float64(), "boolean": pyarrow.bool_()}
    kinds = totals.id_kinds - {"null"}
    id_type = id_types.get(next(iter(kinds)), pyarrow.string()) if len(kinds) == 1 else pyarrow.string()
    fields = [("id", id_type), ("embedding", pyarrow.list_(pyarrow.float32(), totals.dimension))]
    if rationales:
        fields += [
            ("rationale", pyarrow.string()),
            ("rationale_ids", pyarrow.list_(pyarrow.int32())),
            ("finished", pyarrow.bool_()),
        ]
    schema = pyarrow.schema(fields)

    def values_of(name: str, chunk: Chunk) -> Any:
        if name == "embedding":
            flat = pyarrow.array(chunk.vectors.reshape(-1), type=pyarrow.float32())
            return pyarrow.FixedSizeListArray.from_arrays(flat, totals.dimension)
        values = [row[name] for row in chunk.rows]
        if name == "id" and id_type == pyarrow.string():
            values = [_as_string(value) for value in values]
        elif name == "rationale":
            values = [encodable(value) for value in values]
        return pyarrow.array(values, type=schema.field(name).type)

    # Vectors do not compress, and no two are alike.
    others = [name for name in schema.names if name != "embedding"]
    with parquet.ParquetWriter(stream, schema, use_dictionary=others, compression="zstd") as writer:
        waiting: list[Any] = []
        for chunk in chunks:
            waiting.append(pyarrow.table([values_of(name, chunk) for name in schema.names], schema=schema))
            if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                writer.write_table(pyarrow.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pyarrow.concat_tables(waiting))
        if metadata is not None:
            writer.add_key_value_metadata(dict(metadata()))


def _as_string(identifier: Scalar) -> str | None:
    if identifier is None:
        return None
    return encodable(identifier if isinstance(identifier, str) else json.dumps(identifier))
