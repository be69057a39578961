"""Rows: an id and a text, or what is wrong with it. And JSON as it is read and written here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

Scalar = str | int | float | bool | None
"""What an id can be."""


class InputError(ValueError):
    """An input that cannot be used. The message names the file, the place and the remedy."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a row of a file holds, before anything is asked of it.

    Attributes:
        number: The running number, from 0.
        place: Where, as `BadRow.place`.
        values: By field or column.
    """

    number: int
    place: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A text to encode.

    Attributes:
        id: Goes to the output with the vector.
        text: May be empty, and may hold lone surrogates.
    """

    id: Scalar
    text: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that holds no text or no id.

    Attributes:
        place: Where, for instance ``row 16 (line 17)``; rows count from 0, as ids do, and lines from 1.
        problem: What was found.
    """

    place: str
    problem: str


class BadRows:
    """Stops at the first bad row, or leaves bad rows out and counts them.

    Args:
        name: The input's name, for messages.
        skip: Leave them out.

    Attributes:
        count: How many were left out.
    """

    def __init__(self, name: str, *, skip: bool) -> None:
        self.count = 0
        self._name = name
        self._skip = skip

    def leave_out(self, rows: Iterable[Row | BadRow]) -> Iterator[Row]:
        """The good rows.

        Raises:
            InputError: There is a bad row and they are not to be left out, or there is no good one.
        """
        good = 0
        first = ""
        for row in rows:
            if isinstance(row, Row):
                good += 1
                yield row
                continue
            first = first or f"{row.place}: {row.problem}"
            if not self._skip:
                raise InputError(
                    f"{self._name}: {first}; correct it, or leave bad rows out and count them with --on-bad-row skip"
                )
            self.count += 1
        if not good and self.count:
            raise InputError(f"{self._name}: none of the {self.count} rows can be used; {first}")
        if not good:
            raise InputError(
                f"{self._name} has no rows, so there is nothing to encode: check that it is the right file"
            )


def row_of(record: dict[str, Any], number: int, field: str, id_field: str | None) -> Row | str:
    """A row from a record with named values, or what is wrong with it.

    Args:
        record: The values by name.
        number: The running number, the id where no field is named.
        field: Where the text is.
        id_field: Where the id is.
    """
    for name, option in ((field, "--field"), (id_field, "--id-field")):
        if name is not None and name not in record:
            return f"there is no field {name!r} (found: {listed(record)}; {option} names another)"
    text = record[field]
    if not isinstance(text, str):
        return f"the field {field!r} must be a string, got {kind_of(text)}"
    if id_field is None:
        return Row(number, text)
    identifier = record[id_field]
    if identifier is not None and not isinstance(identifier, (str, int, float)):
        return f"the id field {id_field!r} must be a string, number, boolean or null, got {kind_of(identifier)}"
    if isinstance(identifier, float) and not math.isfinite(identifier):
        return f"the id field {id_field!r} must be a finite number, got {identifier}"
    return Row(identifier, text)


def listed(names: Iterable[str]) -> str:
    """Names for a message, shortened."""
    shown = ", ".join(repr(name) for name in names) or "none"
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def kind_of(value: object) -> str:
    """The kind of a value, as JSON calls it."""
    if value is None:
        return "null"
    kinds: dict[type, str] = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def digest_of(rows: Sequence[Row]) -> str:
    """A hash of ids and texts, which tells whether an input is still the same."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps([row.id, row.text]).encode("ascii") + b"\n")
    return digest.hexdigest()


def parse_json(text: str) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: It is not valid JSON (NaN and Infinity are not), or too deep or long to be read.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def json_line(value: object) -> bytes:
    """A value as one line of JSON in UTF-8: readable, and escaped where it holds what UTF-8 cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False).encode() + b"\n"
