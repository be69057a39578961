"""grace_config.json: what is written is read, and nothing doubtful is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grace_st import ConfigError, GraceConfig


def values(**changes: Any) -> dict[str, Any]:
    return {
        "system_prompt": "Think.",
        "template": "chat",
        "head": "<s>",
        "tail": "</s>",
        "eos_token_ids": [7, 2],
        "pad_token_id": 0,
        "max_seq_length": 64,
        "max_new_tokens": 8,
        "pooling": "mean",
        "pooling_span": "text_and_rationale",
        "format_version": 1,
        **changes,
    }


def test_round_trip(tmp_path: Path) -> None:
    config = GraceConfig.from_dict(values(system_prompt=None, head="日本\n"))
    assert config.eos_token_ids == (2, 7)
    assert GraceConfig.from_file(config.save(tmp_path)) == config
    assert [path.name for path in tmp_path.iterdir()] == ["grace_config.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poolin": "max"}, "unknown key 'poolin'; did you mean 'pooling'"),
        ({"zzz": 1}, "unknown key 'zzz'; known keys: system_prompt"),
        ({"pooling": "median"}, "pooling must be one of 'mean', .* got 'median'"),
        ({"pooling_span": "text"}, "pooling_span must be one of"),
        ({"template": "html"}, "template must be one of"),
        ({"max_new_tokens": -1}, "max_new_tokens must be an integer >= 0, got -1"),
        ({"max_new_tokens": True}, "max_new_tokens must be an integer"),
        ({"max_seq_length": 0}, "max_seq_length must be an integer >= 1"),
        ({"max_seq_length": "64"}, "max_seq_length must be an integer >= 1, got '64'"),
        ({"eos_token_ids": []}, "at least one token id"),
        ({"eos_token_ids": 2}, "at least one token id"),
        ({"eos_token_ids": [2, None]}, "at least one token id"),
        ({"pad_token_id": None}, "pad_token_id must be a token id"),
        ({"head": 3}, "head must be a string"),
        ({"system_prompt": 3}, "system_prompt must be a text that is not blank, or null"),
        ({"system_prompt": " "}, "system_prompt must be a text that is not blank"),
        ({"format_version": True}, "format_version True"),
        ({"format_version": 2, "new_key": 1}, "newer grace-st .*pip install -U grace-st"),
        ({"format_version": 0}, "format_version 0; this grace-st reads 1"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GraceConfig.from_dict(values(**changes))


@pytest.mark.parametrize("name", sorted(values()))
def test_a_missing_key_is_named(name: str) -> None:
    rest = {key: value for key, value in values().items() if key != name}
    with pytest.raises(ConfigError, match=f"lacks {name}"):
        GraceConfig.from_dict(rest)


def test_replace() -> None:
    config = GraceConfig.from_dict(values())
    assert config.replace(pooling="max").pooling == "max"
    with pytest.raises(ConfigError, match="did you mean 'pooling_span'"):
        config.replace(pooling_spam="rationale")


@pytest.mark.parametrize("text", ["{", "[1]", json.dumps("a"), "\xff"])
def test_a_damaged_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grace_config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"grace_config\.json (is not valid JSON|must hold a JSON object)"):
        GraceConfig.from_file(path)
