"""Configurations as YAML: found by name or path, changed by ``key=value``, and shown with their documentation."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from grace_train.config import TrainConfig
from grace_train.extras import require_packages
from grace_train.options import ConfigError

OPEN = "???"
"""In a documented configuration: what it leaves to be given."""


def bundled_names() -> list[str]:
    """Names of the configurations that come with the package."""
    folder = resources.files("grace_train") / "configs"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def read_values(name: str) -> dict[str, Any]:
    """The values of a configuration: a YAML file, or a bundled one by its name.

    Raises:
        ConfigError: There is none of that name, or it is not a YAML mapping.
    """
    path = Path(name).expanduser()
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{name} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
            ) from error
    elif name in bundled_names():
        text = (resources.files("grace_train") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        near = difflib.get_close_matches(name, bundled_names(), n=1)
        hint = f"did you mean {near[0]!r}? Bundled are" if near else "bundled are"
        raise ConfigError(
            f"there is no configuration {name!r}, as a file or by name; {hint} {', '.join(bundled_names())}"
        )
    values = _parse(text, name)
    if not isinstance(values, dict):
        raise ConfigError(f"{name} must hold keys and values, got {type(values).__name__}")
    return values


def load_config(name: str, changes: Sequence[str] = ()) -> TrainConfig:
    """A configuration with some values changed.

    Args:
        name: A YAML file, or the name of a bundled configuration.
        changes: ``key=value`` with dotted keys and YAML values, e.g. ``reward.variant=paper``.

    Raises:
        ConfigError: The name, a change or a value is refused.
    """
    values = read_values(name)
    for change in changes:
        apply_change(values, change)
    for key in ("model", "output"):
        if values.get(key) == OPEN:
            raise ConfigError(f"{key} is {OPEN}, which stands for what is yet to be given: set it, as in {key}=...")
    return TrainConfig.from_dict(values)


def apply_change(values: dict[str, Any], change: str) -> None:
    """Set one ``key=value`` in nested values, in place.

    Raises:
        ConfigError: It has no ``=``, or its key goes through something that has no keys.
    """
    key, equals, text = change.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{change!r} is not key=value, as in optimizer.learning_rate=1e-5")
    *parents, leaf = key.split(".")
    place = values
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{change!r}: {parent} is {inner!r:.60}, which has no keys")
        place = inner
    place[leaf] = _parse(text, change)


def dump(config: TrainConfig) -> str:
    """The configuration as YAML."""
    return dump_values(config.to_dict())


def dump_values(values: Mapping[str, Any]) -> str:
    """Nested values as YAML, in their order."""
    text: str = _yaml().safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)
    return text


def documented(name: str) -> str:
    """A configuration as YAML in which each key is preceded by what it means.

    What the configuration leaves open (``model``, ``output``, ``data.train``) is shown as ``???``.

    Raises:
        ConfigError: See `read_values`; an unknown key is refused as well.
    """
    values = read_values(name)
    filled = {key: values.get(key, OPEN) for key in ("model", "output")}
    data = {"train": OPEN, **values.get("data", {})}
    config = TrainConfig.from_dict({**values, **filled, "data": data})
    return "\n".join(_documented_lines(config, "")) + "\n"


def _documented_lines(settings: Any, indent: str) -> Iterator[str]:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        documentation = field.metadata.get("doc", "")
        if dataclasses.is_dataclass(value):
            summary = documentation or (type(value).__doc__ or "").strip().splitlines()[0]
            yield ""
            yield f"{indent}# {summary}"
            yield f"{indent}{field.name}:"
            yield from _documented_lines(value, f"{indent}  ")
        else:
            if documentation:
                yield f"{indent}# {documentation}"
            yield f"{indent}{field.name}: {_inline(value)}"


def _inline(value: Any) -> str:
    if value == OPEN:
        return OPEN
    if isinstance(value, tuple):
        value = [dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item for item in value]  # type: ignore[arg-type]
    text: str = _yaml().safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _parse(text: str, name: str) -> Any:
    yaml = _yaml()
    try:
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader), name)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{name} is nested too deeply to be a configuration") from error
    except ConfigError:
        raise
    except ValueError as error:  # 2024-99-99 reads like a date
        raise ConfigError(f"{name:.200} has a value that YAML cannot take ({error}): put it in quotes") from error


def _refuse_repeated_keys(root: Any, name: str) -> None:
    """YAML forbids them, PyYAML takes the last one without a word."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if node is None or node.id == "scalar" or id(node) in seen:
            continue
        seen.add(id(node))
        if node.id == "sequence":
            pending.extend(node.value)
            continue
        keys = [key.value for key, _ in node.value if key.id == "scalar"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            line = max(key.start_mark.line for key, _ in node.value if key.value == twice) + 1
            raise ConfigError(f"{name}: the key {twice!r} is there twice, again in line {line}: leave one of them")
        pending.extend(value for _, value in node.value)


def _yaml() -> ModuleType:
    require_packages("yaml")
    return importlib.import_module("yaml")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ between two nested mappings, with both values."""
    found: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*old, *new]):
        place = f"{at}.{key}" if at else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found.extend(differences(before, after, place))
        elif before != after:
            found.append((place, before, after))
    return found
