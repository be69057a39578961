"""What a row of training data is, how a record becomes one, and when two texts are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from grace_st.bulk.rows import InputError, kind_of, listed
from grace_st.surrogates import encodable
from grace_train.data.config import Mode, SourceConfig

_SINGULAR_OR_PLURAL = {"positive": ("positive", "positives"), "negative": ("negative", "negatives")}

OptionName = Callable[[str, str], str]
"""How a message names a setting and its value."""


def data_option(name: str, value: str) -> str:
    """A setting as a configuration names it."""
    return f"data.{name}={value}"


def text_key(text: str) -> int:
    """64 bits that are equal for equal texts. White space at the ends and the length of a gap make no difference."""
    digest = hashlib.blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True, slots=True)
class Instance:
    """One visit of a supervised row.

    Attributes:
        source: Name of the source.
        row: The row's number in its file, from 0.
        query: The query.
        positive: The positive that was drawn for this visit.
        negatives: The negatives that were drawn for this visit, perhaps none.
        positives: All positives of the row.
        query_instruction: Goes before the query.
        document_instruction: Goes before positives and negatives.
    """

    source: str
    row: int
    query: str
    positive: str
    negatives: tuple[str, ...]
    positives: tuple[str, ...]
    query_instruction: str | None = None
    document_instruction: str | None = None


@dataclass(frozen=True, slots=True)
class TextInstance:
    """One visit of an unsupervised row.

    Attributes:
        source: Name of the source.
        row: The row's number in its file, from 0.
        text: The text.
        instruction: Goes before the text.
    """

    source: str
    row: int
    text: str
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A row as it was read and found usable.

    Attributes:
        query: The query, or the text of an unsupervised row.
        positives: One or more, none of them twice; empty for an unsupervised row.
        negatives: Those that can be used: not empty, not twice, and not the query or a positive of the row.
        keys: `text_key` of the query and of each positive, in this order, none twice.
        empty_negatives: How many negatives were left out for being empty.
        false_negatives: How many were left out for being the query or a positive of the row.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    keys: tuple[int, ...]
    empty_negatives: int = 0
    false_negatives: int = 0


class BadRecordError(ValueError):
    """A record that holds no usable row. The message says what is wrong with it, not where it is."""


class RecordParser:
    """Makes rows of the records of one source.

    Args:
        config: The source, whose fields are named.
        mode: Which fields are expected.
        option_name: How messages name a setting.
    """

    def __init__(self, config: SourceConfig, mode: Mode, option_name: OptionName = data_option) -> None:
        self._path = config.path
        self._option_name = option_name
        self._mode = mode
        self._settled: dict[str, str] = {}  # field by role: the same one in the whole file
        self._has_negatives = False
        self._named: dict[str, str | None] = (
            {"text": config.text_field or "text"}
            if mode == "unsupervised"
            else {
                "query": config.query_field or "query",
                "positive": config.positive_field,
                "negative": config.negative_field,
            }
        )

    @property
    def fields(self) -> frozenset[str]:
        """The fields that were read so far."""
        return frozenset(self._settled.values())

    def check_columns(self, columns: list[str]) -> list[str]:
        """The columns that are needed, of those that a file has.

        Raises:
            InputError: One is missing, or there twice.
        """
        wanted = []
        for role, named in self._named.items():
            field = self._field(role, columns)
            if field is None and role == "negative" and named is None:
                continue
            if field is None:
                raise InputError(f"{self._path} has the fields {listed(columns)}; {self._expected(role)}")
            if columns.count(field) > 1:
                raise InputError(f"{self._path} has more than one column {field!r}: rename all but one")
            wanted.append(field)
        return list(dict.fromkeys(wanted))

    def parse(self, values: Mapping[str, Any]) -> Example:
        """A row from a record.

        Raises:
            BadRecordError: The record holds none.
            InputError: The file mixes ``positive`` with ``positives``, or the same of negatives.
        """
        if self._mode == "unsupervised":
            text = self._text("text", values)
            return Example(text, (), (), (text_key(text),))
        query = self._text("query", values)
        positives = _by_key(self._positives(values))
        given = self._negatives(values)
        negatives = _by_key(text for text in given if text.strip())
        keys = tuple(dict.fromkeys([text_key(query), *positives]))
        usable = {key: text for key, text in negatives.items() if key not in keys}
        return Example(
            query=query,
            positives=tuple(positives.values()),
            negatives=tuple(usable.values()),
            keys=keys,
            empty_negatives=sum(not text.strip() for text in given),
            false_negatives=len(negatives) - len(usable),
        )

    def finish(self) -> None:
        """To be called when all records were parsed.

        Raises:
            InputError: A field is named for the negatives, and no row has it.
        """
        named = self._named.get("negative")
        if named is not None and not self._has_negatives:
            raise InputError(f"no row of {self._path} has the field {named!r}; {self._expected('negative')}")

    def _field(self, role: str, names: Collection[str]) -> str | None:
        """The field of a role among some names."""
        named = self._named[role]
        candidates: tuple[str, ...] = _SINGULAR_OR_PLURAL[role] if named is None else (named,)
        found = [name for name in candidates if name in names]
        if not found:
            return None
        if len(found) > 1 or self._settled.setdefault(role, found[0]) != found[0]:
            raise InputError(
                f"{self._path} has both {' and '.join(map(repr, candidates))}: name the one to use with "
                f"{self._option_name(f'{role}_field', found[0])}"
            )
        return found[0]

    def _expected(self, role: str) -> str:
        wanted = self._named[role] or " or ".join(_SINGULAR_OR_PLURAL[role])
        return f"{wanted} is expected: name it with {self._option_name(f'{role}_field', '...')}"

    def _value(self, role: str, values: Mapping[str, Any]) -> tuple[str, Any]:
        field = self._field(role, values.keys())
        if field is None:
            raise BadRecordError(f"the fields are {listed(values)}; {self._expected(role)}")
        return field, values[field]

    def _text(self, role: str, values: Mapping[str, Any]) -> str:
        field, value = self._value(role, values)
        if not isinstance(value, str):
            raise BadRecordError(f"the field {field!r} must be a string, got {kind_of(value)}")
        if not value.strip():
            raise BadRecordError(f"the field {field!r} is empty")
        return _without_surrogates(value)

    def _positives(self, values: Mapping[str, Any]) -> list[str]:
        field, value = self._value("positive", values)
        texts = _texts(field, value)
        if not texts:
            raise BadRecordError(f"the field {field!r} is an empty list")
        for index, text in enumerate(texts):
            if not text.strip():
                raise BadRecordError(f"the field {field!r} is empty" + f" at item {index}" * isinstance(value, list))
        return texts

    def _negatives(self, values: Mapping[str, Any]) -> list[str]:
        field = self._field("negative", values.keys())
        if field is None:
            return []
        self._has_negatives = True
        return [] if values[field] is None else _texts(field, values[field])


def _by_key(texts: Iterable[str]) -> dict[int, str]:
    """The distinct texts, the first of equal ones, in their order."""
    found: dict[int, str] = {}
    for text in texts:
        found.setdefault(text_key(text), text)
    return found


def _texts(field: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise BadRecordError(f"the field {field!r} must be a string or a list of strings, got {kind_of(value)}")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadRecordError(f"item {index} of the field {field!r} must be a string, got {kind_of(text)}")
    return [_without_surrogates(text) for text in texts]


def _without_surrogates(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return encodable(text)
    return text
