from __future__ import annotations

import pytest

from grace_train.options import ConfigError, from_mapping
from grace_train.report.config import LogConfig, StopConfig


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (LogConfig, {"every": 0}, "log.every must be at least 1, got 0"),
        (LogConfig, {"samples_every": 0}, "log.samples_every must be at least 1"),
        (LogConfig, {"sample_texts": -1}, "log.sample_texts must be at least 0"),
        (LogConfig, {"sample_texts": ["a", "a"]}, "log.sample_texts must be a list of different texts"),
        (LogConfig, {"sample_texts": "one text"}, "sample_texts must be an integer.*sample_texts must be a list"),
        (LogConfig, {"wandb": ""}, "log.wandb must be the name of a project"),
        (LogConfig, {"tensorbord": True}, "did you mean 'tensorboard'"),
        (StopConfig, {"max_unrelated_similarity": 1.5}, "stop.max_unrelated_similarity must be above 0 and at most 1"),
        (StopConfig, {"collapse_steps": -1}, "stop.collapse_steps must be at least 0"),
        (StopConfig, {"eos_rate_zero_steps": -1}, "stop.eos_rate_zero_steps must be at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(cls: type[object], values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(cls, values)


def test_sample_texts_are_a_number_or_the_texts() -> None:
    data = ["b", "a", "b", "c", "d"]
    assert from_mapping(LogConfig, {"sample_texts": 3}).choose_texts(data) == ("b", "a", "c")
    assert from_mapping(LogConfig, {"sample_texts": 0}).choose_texts(data) == ()
    assert from_mapping(LogConfig, {"sample_texts": ["mine"]}).choose_texts(data) == ("mine",)
