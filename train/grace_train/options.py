"""Settings: dataclasses whose fields carry their own documentation, read from YAML, refused by name when unknown.

Knows nothing about training. ``grace_train.sections`` and ``grace_train.data.config`` declare settings with it.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

REQUIRED: Any = dataclasses.MISSING


class ConfigError(ValueError):
    """A setting that cannot be used as it is. The message names the key, the value and what is expected."""


def option(default: Any = REQUIRED, doc: str = "", *, factory: Callable[[], Any] | None = None) -> Any:
    """A dataclass field with its documentation.

    Args:
        default: The value where none is given.
        doc: One sentence for people who write a configuration, with the unit where there is one.
        factory: Makes the default, for what is mutable.
    """
    metadata = {"doc": " ".join(doc.split())}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def from_mapping(cls: type[T], values: Mapping[str, Any], *, at: str = "") -> T:
    """Build a settings dataclass from nested mappings, as YAML gives them.

    Numbers are taken where they mean the same (``1`` for a float, ``1e-4`` that YAML reads as a string), nothing
    else is converted.

    Args:
        cls: A dataclass made of `option` fields. A field whose type is such a dataclass takes a mapping.
        values: By key.
        at: The dotted place of ``values`` in the whole, for messages.

    Raises:
        ConfigError: An unknown key (with the nearest known one), a missing one, or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{at or 'the configuration'} must be a mapping of keys to values, got {values!r:.80}")
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    for key in values:
        if key not in fields:
            raise ConfigError(_unknown(cls, str(key), at))
    arguments = {key: _convert(hints[key], value, _join(at, key)) for key, value in values.items()}
    for name, field in fields.items():
        if name not in arguments and field.default is REQUIRED and field.default_factory is REQUIRED:
            raise ConfigError(f"{_join(at, name)} is missing: {field.metadata.get('doc', 'it has no default')}")
    return cls(**arguments)


def keys_of(cls: type[Any], at: str = "") -> Iterator[str]:
    """Every dotted key of a settings dataclass."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner = _settings_class(hints[field.name])
        if inner is None:
            yield _join(at, field.name)
        else:
            yield from keys_of(inner, _join(at, field.name))


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Refuse a value.

    Raises:
        ConfigError: ``condition`` is False.
    """
    if not condition:
        raise ConfigError(f"{key} must be {expected}, got {value!r}")


def require_text(key: str, value: str | None, expected: str) -> None:
    """Refuse a text that is empty or white space only; None passes.

    Raises:
        ConfigError: It is.
    """
    require(value is None or bool(value.strip()), key, value, expected)


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _settings_class(hint: Any) -> type[Any] | None:
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def _unknown(cls: type[Any], key: str, at: str) -> str:
    here = [_join(at, field.name) for field in dataclasses.fields(cls)]
    everything = list(keys_of(cls, at))
    # Also against the last part: `rate` is nearer to `optimizer.rate` than its whole name tells.
    by_leaf = {name.rsplit(".", 1)[-1]: name for name in reversed(everything)}
    wanted = _join(at, key)
    near = difflib.get_close_matches(wanted, [*here, *everything], n=1) or difflib.get_close_matches(key, by_leaf, n=1)
    hint = f"did you mean {by_leaf.get(near[0], near[0])!r}?" if near else f"known keys: {', '.join(here)}"
    return f"unknown key {wanted!r}; {hint}"


def _convert(hint: Any, value: Any, at: str) -> Any:
    inner = _settings_class(hint)
    if inner is not None:
        return value if isinstance(value, inner) else from_mapping(inner, value, at=at)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, at)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f"{at} must be one of {', '.join(map(repr, arguments))}, got {value!r}{_near(value, hint)}"
            )
        return value
    if origin in (tuple, list, Sequence):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{at} must be a list, got {value!r}")
        item = arguments[0] if arguments else Any
        made = [_convert(item, part, f"{at}[{index}]") for index, part in enumerate(value)]
        return tuple(made) if origin is tuple else made
    return _convert_plain(hint, value, at)


def _convert_union(arguments: tuple[Any, ...], value: Any, at: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    candidates = [item for item in arguments if item is not type(None)]
    if isinstance(value, (list, tuple, Mapping)):
        # What is wrong inside a list is the message, not that it is no string either.
        candidates = [item for item in candidates if _takes(item, value)] or candidates
    messages = []
    for candidate in candidates:
        try:
            return _convert(candidate, value, at)
        except ConfigError as error:
            messages.append(str(error))
    raise ConfigError(messages[-1] if len(messages) == 1 else "; or ".join(messages))


def _takes(hint: Any, value: Any) -> bool:
    if isinstance(value, Mapping):
        return _settings_class(hint) is not None
    return get_origin(hint) in (tuple, list, Sequence)


def _convert_plain(hint: Any, value: Any, at: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 takes 1e-4 for a string
        except (ValueError, OverflowError):  # an integer of hundreds of digits
            pass
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    fits = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if not fits:
        raise ConfigError(f"{at} must be {names.get(hint, str(hint))}, got {value!r}")
    return value


def _near(value: Any, hint: Any) -> str:
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
    near = difflib.get_close_matches(str(value), choices, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
