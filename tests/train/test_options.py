from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from grace_train.options import ConfigError, from_mapping, keys_of, option


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = option(0.5, "A rate.")
    kind: Literal["one", "two"] = option("one", "A kind.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = option(doc="A name.")
    count: int | None = option(None, "A count.")
    pair: tuple[float, ...] = option((1.0, 2.0), "A pair.")
    parts: str | tuple[Inner | str, ...] = option("x", "Parts.")
    inner: Inner = option(factory=Inner)


def test_values_are_read_and_defaults_filled_in() -> None:
    made = from_mapping(Outer, {"name": "a", "count": 3, "pair": [1, 2.5], "inner": {"rate": "1e-4"}})
    assert made == Outer(name="a", count=3, pair=(1.0, 2.5), inner=Inner(rate=1e-4))
    assert from_mapping(Outer, {"name": "a", "count": None, "parts": ["y", {"rate": 1}]}).parts == (
        "y",
        Inner(rate=1.0),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "name is missing: A name."),
        ({"name": "a", "nmae": 1}, "unknown key 'nmae'; did you mean 'name'"),
        ({"name": "a", "iner": {"rate": 1}}, "unknown key 'iner'; did you mean 'inner'"),
        ({"name": "a", "rate": 1}, "unknown key 'rate'; did you mean 'inner.rate'"),
        ({"name": "a", "inner": {"rat": 1}}, "unknown key 'inner.rat'; did you mean 'inner.rate'"),
        ({"name": "a", "zzzzzz": 1}, "known keys: name, count, pair, parts, inner"),
        ({"name": 3}, "name must be a string, got 3"),
        ({"name": "a", "count": True}, "count must be an integer, got True"),
        ({"name": "a", "count": 1.5}, "count must be an integer, got 1.5"),
        ({"name": "a", "pair": 3}, "pair must be a list, got 3"),
        ({"name": "a", "inner": {"rate": "fast"}}, "inner.rate must be a number, got 'fast'"),
        ({"name": "a", "inner": {"kind": "too"}}, r"inner.kind must be one of 'one', 'two', got 'too' \(did you mean"),
        ({"name": "a", "inner": 3}, "inner must be a mapping of keys to values, got 3"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Outer, values)


def test_keys_are_dotted() -> None:
    assert list(keys_of(Outer)) == ["name", "count", "pair", "parts", "inner.rate", "inner.kind"]
