"""The data that come with the package: what grace-nano is trained and measured on."""

from __future__ import annotations

from typing import Literal, cast

from grace_st.bulk.rows import InputError, Record
from grace_train.data.config import BUNDLED, Mode

TRIPLES = 4096
"""How many triples the bundled training data have."""

_SEED = "data"


def bundled_records(mode: Mode) -> list[Record]:
    """The bundled training data: triples, or the distinct texts of their queries and positives."""
    from grace_train.nano.corpus import Corpus

    values: list[dict[str, str]] = [
        {"query": triple.query, "positive": triple.positive, "negative": triple.negative}
        for triple in Corpus().triples(TRIPLES, _SEED)
    ]
    if mode == "unsupervised":
        texts = dict.fromkeys(row[role] for row in values for role in ("query", "positive"))
        values = [{"text": text} for text in texts]
    return [Record(number, f"row {number}", row) for number, row in enumerate(values)]


def bundled_retrieval(name: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]:
    """A held-out retrieval set: the queries, the documents, and for each query the index of its document.

    Args:
        name: ``nano:dev`` or ``nano:test``.

    Raises:
        InputError: There is no such set.
    """
    split = name.removeprefix(f"{BUNDLED}:")
    if split not in ("dev", "test"):
        raise InputError(f"there is no bundled set {name}: there are {BUNDLED}:dev and {BUNDLED}:test")
    from grace_train.nano.corpus import Corpus

    found = Corpus().retrieval_set(cast(Literal["dev", "test"], split))
    return found.queries, found.documents, found.relevant
