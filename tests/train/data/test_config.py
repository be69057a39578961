"""Settings of the data: defaults that sources take over, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from grace_train.data.config import DataConfig, SourceConfig
from grace_train.options import ConfigError, from_mapping


def _config(**values: Any) -> DataConfig:
    return from_mapping(DataConfig, values, at="data")


def test_one_path_is_one_source_with_the_fields_of_data() -> None:
    (source,) = _config(train="a.jsonl", query_field="question", query_instruction="Q: ").sources()
    assert (source.path, source.label, source.weight) == ("a.jsonl", "a.jsonl", 1.0)
    assert (source.query_field, source.text_field, source.split) == ("question", "text", "train")
    assert (source.query_instruction, source.document_instruction) == ("Q: ", None)


def test_a_source_keeps_what_it_says_itself() -> None:
    config = _config(
        train=["a.jsonl", {"path": "b.csv", "name": "faq", "weight": 2, "query_field": "question"}],
        query_field="ask",
        document_instruction="D: ",
    )
    first, second = config.sources()
    assert (first.query_field, second.query_field) == ("ask", "question")
    assert (second.label, second.weight, second.document_instruction) == ("faq", 2.0, "D: ")


def test_the_bundled_data_keep_their_fields() -> None:
    _, nano = _config(train=["a.jsonl", "nano"], query_field="question", query_instruction="Q: ").sources()
    assert (nano.query_field, nano.query_instruction) == (None, "Q: ")


def test_data_sets_at_a_revision_have_names_of_their_own() -> None:
    config = _config(train=["org/a@refs/convert/parquet", "org/b@refs/convert/parquet", "org/c"])
    assert [source.label for source in config.sources()] == [
        "a@refs/convert/parquet",
        "b@refs/convert/parquet",
        "c",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "data.train is missing"),
        ({"train": ""}, "data.train must be"),
        ({"train": []}, "data.train must be"),
        ({"train": "a", "negatives": -1}, "data.negatives must be an integer >= 0, got -1"),
        ({"train": "a", "holdout": -1}, "data.holdout must be"),
        ({"train": "a", "on_bad_row": "ignore"}, "data.on_bad_row must be one of 'error', 'skip'"),
        ({"train": "a", "format": "json"}, "data.format must be one of .*did you mean 'jsonl'"),
        ({"train": "a", "query_feild": "q"}, "did you mean 'data.query_field'"),
        ({"train": "a", "query_field": " "}, "data.query_field must be a name"),
        ({"train": [{"path": "a", "weight": 0}]}, "weight must be a number > 0, got 0"),
        ({"train": [{"path": "a", "weight": float("nan")}]}, "weight must be a number > 0"),
        ({"train": [{"path": "a", "wieght": 2}]}, r"unknown key 'data.train\[0\].wieght'; did you mean"),
        ({"train": ["x/a.csv", "y/a.csv"]}, "two sources of data.train are called 'a.csv'"),
    ],
)
def test_what_cannot_be_used_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _config(**values)


def test_settings_can_be_made_without_yaml() -> None:
    config = DataConfig(train=(SourceConfig(path="a.jsonl"), SourceConfig(path="b.jsonl", query_field="x")))
    assert [source.query_field for source in config.sources()] == ["query", "x"]
