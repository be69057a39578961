"""GraceConfig: what a model folder says about prompt, limits and pooling (``grace_config.json``).

Knows nothing about tokenizers or weights: only names, types and the rules between them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Pooling = Literal["mean", "mean_penultimate", "max", "last"]
PoolingSpan = Literal["text_and_rationale", "rationale"]
TemplateKind = Literal["chat", "chat_user", "plain"]

POOLINGS: tuple[str, ...] = get_args(Pooling)
POOLING_SPANS: tuple[str, ...] = get_args(PoolingSpan)
TEMPLATE_KINDS: tuple[str, ...] = get_args(TemplateKind)

CONFIG_NAME = "grace_config.json"
FORMAT_VERSION = 1

DEFAULT_SYSTEM_PROMPT = (
    "Read and analyze the following text, then you need to provide your reasoning within <think></think> tags. "
    "Finally, generate a comprehensive understanding of this text."
)
"""The system message of the published GRACE runs, used for queries and documents alike."""


class ConfigError(ValueError):
    """A GRACE configuration that cannot be used as it is."""


@dataclass(frozen=True, kw_only=True)
class GraceConfig:
    """How a model folder turns a text into a vector.

    Attributes:
        system_prompt: The system message, or None where the template's own was kept.
        template: ``"chat"`` (the message is a system turn), ``"chat_user"`` (the template has no system role:
            the message stands before the user's text) or ``"plain"`` (no chat template).
        head: Rendered template before the user's text. Rendered once, at conversion, so that a template that
            prints today's date cannot change vectors.
        tail: Rendered template after the user's text, up to where the rationale begins.
        eos_token_ids: Token ids that end a rationale, ascending.
        pad_token_id: The id that fills unused positions. Padding is never pooled.
        max_seq_length: Longest prompt in tokens: head, instruction, text and tail. Only the text is truncated.
        max_new_tokens: Default budget of the rationale in tokens; 0 pools the prompt alone.
        pooling: ``"mean"`` of the last layer (Eq. 11), ``"mean_penultimate"`` (the hidden states before the
            last decoder layer), ``"max"``, or ``"last"`` (the state of the span's last token).
        pooling_span: ``"text_and_rationale"`` (Eq. 11) or ``"rationale"``, which starts at the last token of
            the prompt, the state that the rationale starts from, so it is never empty.
        format_version: Version of this file format.

    Raises:
        ConfigError: A value is of the wrong type or outside its range; the message names the field.
    """

    system_prompt: str | None
    template: TemplateKind
    head: str
    tail: str
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    max_seq_length: int
    max_new_tokens: int
    pooling: Pooling
    pooling_span: PoolingSpan
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.system_prompt is not None:
            valid = isinstance(self.system_prompt, str) and bool(self.system_prompt.strip())
            _require(valid, "system_prompt", self.system_prompt, "a text that is not blank, or null")
        for name in ("head", "tail"):
            _require(isinstance(getattr(self, name), str), name, getattr(self, name), "a string")
        object.__setattr__(self, "eos_token_ids", _token_ids(self.eos_token_ids))
        _require(_is_int(self.pad_token_id, 0), "pad_token_id", self.pad_token_id, "a token id (an integer >= 0)")
        _require(_is_int(self.max_seq_length, 1), "max_seq_length", self.max_seq_length, "an integer >= 1")
        _require(_is_int(self.max_new_tokens, 0), "max_new_tokens", self.max_new_tokens, "an integer >= 0")
        _require_choice("template", self.template, TEMPLATE_KINDS)
        _require_choice("pooling", self.pooling, POOLINGS)
        _require_choice("pooling_span", self.pooling_span, POOLING_SPANS)
        if self.format_version != FORMAT_VERSION or not _is_int(self.format_version, 0):
            newer = _is_int(self.format_version, FORMAT_VERSION + 1)
            raise ConfigError(
                f"{CONFIG_NAME} has format_version {self.format_version!r}; this grace-st reads {FORMAT_VERSION}. "
                + ("Upgrade: pip install -U grace-st" if newer else "Convert the model again: grace-st convert")
            )

    def replace(self, **overrides: Any) -> GraceConfig:
        """A copy with some fields changed.

        Raises:
            ConfigError: An override names no field, or its value is refused.
        """
        _refuse_unknown(overrides, "override")
        return dataclasses.replace(self, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {**dataclasses.asdict(self), "eos_token_ids": list(self.eos_token_ids)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = CONFIG_NAME) -> GraceConfig:
        """Build a config from JSON values.

        Args:
            values: Field names to values; every field must be there and nothing else.
            source: Where the values come from, for messages.

        Raises:
            ConfigError: A key is unknown (with the nearest known one), missing, or its value is refused.
        """
        version = values.get("format_version")
        if _is_int(version, FORMAT_VERSION + 1):
            # Said first: the keys of a newer format would only look unknown.
            raise ConfigError(
                f"{source} was written by a newer grace-st (format_version {version}, this one reads "
                f"{FORMAT_VERSION}). Upgrade: pip install -U grace-st"
            )
        _refuse_unknown(values, source)
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in values]
        if missing:
            raise ConfigError(f"{source} lacks {', '.join(missing)}. Convert the model again: grace-st convert")
        return cls(**values)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``grace_config.json`` into a folder, atomically. Returns its path."""
        path = Path(folder) / CONFIG_NAME
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
        return path

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> GraceConfig:
        """Read a ``grace_config.json``.

        Raises:
            ConfigError: The file is not JSON, or its content is refused.
            FileNotFoundError: There is no such file.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid JSON ({error}). Convert the model again") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold a JSON object, got {type(values).__name__}")
        return cls.from_dict(values, source=str(path))


def _is_int(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {expected}, got {value!r}")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    _require(value in choices, name, value, "one of " + ", ".join(repr(choice) for choice in choices))


def _token_ids(value: object) -> tuple[int, ...]:
    valid = isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_int(item, 0) for item in value)
    if not valid:
        raise ConfigError(f"eos_token_ids must be a list of at least one token id, got {value!r}")
    assert isinstance(value, (list, tuple))
    return tuple(sorted(set(value)))


def _refuse_unknown(values: Mapping[str, Any], source: str) -> None:
    known = [field.name for field in dataclasses.fields(GraceConfig)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"{source} has the unknown key {key!r}; {hint}")
