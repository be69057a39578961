"""Rollouts without an end must not pay, whatever the level of the rewards."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grace_train.advantages import group_advantages
from grace_train.length_penalty import apply_length_penalty, soft_overlong_penalty

REWARDS = torch.tensor([[3.0, 1.0, 2.0], [-8.0, -7.0, -9.0], [5.0, 6.0, 7.0]])
FINISHED = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])


def test_below_group() -> None:
    expected = torch.tensor([[3.0, 1.0, 0.5], [-8.0, -9.5, -9.0], [-0.5, -0.5, -0.5]])
    torch.testing.assert_close(apply_length_penalty(REWARDS, FINISHED, gamma=0.5), expected)


def test_replace_is_the_papers() -> None:
    expected = torch.tensor([[3.0, 1.0, -0.5], [-8.0, -0.5, -9.0], [-0.5, -0.5, -0.5]])
    torch.testing.assert_close(apply_length_penalty(REWARDS, FINISHED, "replace", gamma=0.5), expected)


def test_none_changes_nothing() -> None:
    assert torch.equal(apply_length_penalty(REWARDS, FINISHED, "none"), REWARDS)


@st.composite
def groups(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    level, spread = draw(st.floats(-100, 100)), draw(st.floats(0, 20))
    rewards = level + spread * torch.randn(shape, generator=generator)
    finished = torch.rand(shape, generator=generator) < 0.6
    return rewards, finished, draw(st.floats(0.01, 10))


@settings(max_examples=60, deadline=None)
@given(groups())
def test_an_unfinished_rollout_is_never_the_best(case: tuple[Tensor, Tensor, float]) -> None:
    rewards, finished, gamma = case
    final = apply_length_penalty(rewards, finished, gamma=gamma)
    assert torch.equal(final[finished], rewards[finished])
    for algorithm in ("grpo", "rloo", "dapo"):
        advantages = group_advantages(final, algorithm)  # type: ignore[arg-type]
        for values in (final, advantages):
            for row, ended in zip(values, finished, strict=True):
                if ended.any() and not ended.all():
                    assert row[~ended].max() < row[ended].min()
                    assert row[~ended].max() < row[ended].max()


def test_replacing_rewards_that_are_lower_makes_the_unfinished_rollout_the_best() -> None:
    rewards = torch.full((1, 8), -8.0)
    finished = torch.tensor([[False, *[True] * 7]])
    assert group_advantages(apply_length_penalty(rewards, finished, "replace"))[0, 0] > 6
    assert group_advantages(apply_length_penalty(rewards, finished))[0, 0] < 0


def test_the_warning_comes_once_for_each_place(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    finished = torch.ones(3, 3, dtype=torch.bool)
    for _ in range(3):
        apply_length_penalty(REWARDS - 10, finished, "replace")
    assert len(caplog.records) == 1
    assert "'below_group'" in caplog.text and caplog.records[0].filename == "test_length_penalty.py"
    apply_length_penalty(REWARDS - 10, finished, "replace")
    assert len(caplog.records) == 2
    apply_length_penalty(REWARDS, finished, "replace")
    apply_length_penalty(REWARDS - 10, finished)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("penalty", ["below_group", "replace", "none"])
def test_the_dtype_is_kept(penalty: Any, dtype: torch.dtype) -> None:
    assert apply_length_penalty(REWARDS.to(dtype), FINISHED, penalty).dtype == dtype


def test_soft_penalty() -> None:
    lengths = torch.tensor([[0, 80, 90], [95, 100, 300]])
    expected = torch.tensor([[0.0, 0.0, -0.5], [-0.75, -1.0, -1.0]])
    torch.testing.assert_close(soft_overlong_penalty(lengths, 100, 20), expected)
    assert soft_overlong_penalty(torch.tensor([[5]]), 10, 10).item() == -0.5


def test_bad_input_is_refused() -> None:
    def refused(message: str) -> Any:
        return pytest.raises(ValueError, match=re.escape(message))

    with refused("unknown length penalty 'below-group': did you mean 'below_group'"):
        apply_length_penalty(REWARDS, FINISHED, "below-group")  # type: ignore[arg-type]
    with refused("finished must be bool, got torch.float32"):
        apply_length_penalty(REWARDS, REWARDS)
    with refused("finished must be [B, K] = [3, 3], got [2, 3]"):
        apply_length_penalty(REWARDS, FINISHED[:2])
    with refused("rewards must be [B, K], got [3]"):
        apply_length_penalty(REWARDS[0], FINISHED[0])
    with refused("gamma must be a number > 0, got 0.0: to switch the penalty off"):
        apply_length_penalty(REWARDS, FINISHED, gamma=0.0)
    with refused("buffer must be from 1 to max_new_tokens = 10, got 11"):
        soft_overlong_penalty(torch.ones(1, 1), 10, 11)
    with refused("lengths must be [B, K], got [3]"):
        soft_overlong_penalty(torch.ones(3), 10, 5)
