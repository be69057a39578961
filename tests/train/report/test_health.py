from __future__ import annotations

import json
import logging
import math

import pytest

from grace_train.report.config import StopConfig
from grace_train.report.health import HealthMonitor, TrainingStopped

WEIGHTS = {"positive": 1.0, "negative": 1.0, "consistency": 0.2, "hard": 0.2}
HEALTHY = {
    "reward/total": 6.0,
    "reward/total_std": 0.4,
    **{f"reward/{term}": 0.5 for term in WEIGHTS},
    **{f"reward/{term}_std": 0.02 for term in WEIGHTS},
    "rollout/eos_rate": 0.9,
    "rollout/max_length": 64.0,
    "vectors/unrelated_similarity": 0.5,
    "loss/policy": -0.01,
}


def monitor(weights: dict[str, float] | None = None, **stop: float) -> HealthMonitor:
    return HealthMonitor(StopConfig(**stop), WEIGHTS if weights is None else weights)  # type: ignore[arg-type]


def test_a_healthy_run_goes_on_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    healthy = monitor()
    for step in range(1, 50):
        healthy.check(step, HEALTHY)
        healthy.check(step, {"eval/ndcg@10": 0.7})
    assert caplog.records == []


@pytest.mark.parametrize("name", ["reward/total", "query_reward/hard_std", "loss/grad_norm", "vectors/effective_rank"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_at_once(name: str, value: float) -> None:
    with pytest.raises(TrainingStopped, match=f"step 3: {name} is .*lower learning rate") as stopped:
        monitor().check(3, {**HEALTHY, name: value})
    assert stopped.value.reason == str(stopped.value)


def test_other_values_may_be_undefined() -> None:
    monitor().check(1, {**HEALTHY, "time/left": math.inf, "eval/ndcg@10": math.nan})


def test_a_collapse_stops_after_some_steps_in_a_row() -> None:
    watched = monitor(max_unrelated_similarity=0.99, collapse_steps=3)
    for similarity in (0.995, 0.999, 0.5, 0.999, 0.99):
        watched.check(1, {**HEALTHY, "vectors/unrelated_similarity": similarity})
    watched.check(1, {"reward/total": 1.0})  # a step that does not tell changes nothing
    with pytest.raises(TrainingStopped, match=r"is 0\.9950, and for 3 steps it was at least 0\.99 .*per_rollout"):
        watched.check(7, {**HEALTHY, "vectors/unrelated_similarity": 0.995})


def test_rollouts_that_never_end_stop_after_some_steps_in_a_row() -> None:
    watched = monitor(eos_rate_zero_steps=2)
    for rate in (0.0, 0.001, 0.0):
        watched.check(1, {**HEALTHY, "rollout/eos_rate": rate})
    with pytest.raises(TrainingStopped, match=r"no rollout has ended by itself for 2 steps\. .*cut off at 64 tokens"):
        watched.check(4, {**HEALTHY, "rollout/eos_rate": 0.0})


def test_a_budget_that_many_rollouts_reach_is_told_at_the_first_step(caplog: pytest.LogCaptureFixture) -> None:
    cut = {**HEALTHY, "rollout/eos_rate": 0.83}
    monitor().check(2, cut)  # it ended before
    HealthMonitor(StopConfig(), WEIGHTS, penalizes_unfinished=False).check(1, cut)
    assert caplog.records == []
    monitor().check(1, cut)
    assert "17% of the rollouts reach the budget of 64 tokens" in caplog.text
    assert "prompt.max_new_tokens" in caplog.text


def test_stopping_can_be_switched_off() -> None:
    watched = monitor(collapse_steps=0, eos_rate_zero_steps=0)
    for step in range(1, 30):
        watched.check(step, {**HEALTHY, "rollout/eos_rate": 0.0, "vectors/unrelated_similarity": 1.0})


def test_a_term_that_trains_nothing_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    watched = monitor()
    # -5.6 eight times in float32: the deviation is rounding, not a signal.
    step = {**HEALTHY, "reward/negative": -5.6, "reward/negative_std": 4.8e-7, "reward/hard_std": 0.0}
    for number in range(1, 5):
        watched.check(number, step)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "term 'negative' is the same for all rollouts of a group" in caplog.messages[0]
    assert "docs/rewards.md" in caplog.messages[0]
    assert "'hard'" in caplog.messages[1]


def test_each_side_of_symmetric_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    monitor().check(1, {**HEALTHY, "query_reward/negative": -0.4, "query_reward/negative_std": 0.0})
    (message,) = caplog.messages
    assert "query reward term 'negative'" in message


@pytest.mark.parametrize(
    "values",
    [
        {"reward/negative": 0.0, "reward/negative_std": 0.0},  # no negatives in the data
        {"reward/negative_std": 1e-4},  # small is not nothing
    ],
)
def test_terms_without_input_and_small_ones_do_not_nag(
    values: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    monitor().check(1, {**HEALTHY, **values})
    assert caplog.messages == []


def test_a_term_without_weight_does_not_nag(caplog: pytest.LogCaptureFixture) -> None:
    monitor({**WEIGHTS, "hard": 0.0}).check(1, {**HEALTHY, "reward/hard_std": 0.0})
    assert caplog.messages == []


def test_equal_rollouts_are_one_warning_and_not_one_for_each_term(caplog: pytest.LogCaptureFixture) -> None:
    zero = {name: 0.0 for name in HEALTHY if name.endswith("_std")}
    monitor().check(1, {**HEALTHY, **zero})
    (message,) = caplog.messages
    assert "nothing is trained" in message and "temperature" in message


def test_counters_survive_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    sick = {**HEALTHY, "vectors/unrelated_similarity": 1.0, "rollout/eos_rate": 0.0, "reward/hard_std": 0.0}
    first = monitor(collapse_steps=3)
    first.check(1, sick)
    first.check(2, sick)
    resumed = monitor(collapse_steps=3)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    with pytest.raises(TrainingStopped, match="for 3 steps"):
        resumed.check(3, sick)
    assert [message[:28] for message in caplog.messages] == [
        "step 1: 100% of the rollouts",
        "step 1: the reward term 'har",
    ]
