"""Advantages against their formulas written out, and the gradients they give a policy that can be enumerated."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grace_train.advantages import ALGORITHMS, EPSILON, group_advantages, informative_groups
from grace_train.choices import GROUP_BASELINES
from grace_train.losses import aggregate, policy_terms


def written_out(rewards: list[list[float]], algorithm: str, baseline: list[float]) -> list[list[float]]:
    everything = [reward for group in rewards for reward in group]
    rows = []
    for i, group in enumerate(rewards):
        mean = sum(group) / len(group)
        row = []
        for k, reward in enumerate(group):
            others = [r for j, r in enumerate(group) if j != k]
            row.append(
                {
                    "grpo": lambda: reward - mean,  # noqa: B023
                    "rloo": lambda: reward - sum(others) / len(others),  # noqa: B023
                    "dapo": lambda: (reward - mean) / (statistics.stdev(group) + 1e-6),  # noqa: B023
                    "reinforce++": lambda: (
                        (reward - sum(everything) / len(everything)) / (statistics.stdev(everything) + 1e-6)  # noqa: B023
                    ),
                    "remax": lambda: reward - baseline[i],  # noqa: B023
                }[algorithm]()
            )
        rows.append(row)
    return rows


@st.composite
def rewards(draw: st.DrawFn) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    return torch.randn(shape, generator=generator, dtype=torch.float64) * draw(st.floats(0.1, 20)) - 5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=25, deadline=None)
@given(values=rewards())
def test_the_formulas(algorithm: Any, values: Tensor) -> None:
    baseline = values[:, 0] / 2
    made = group_advantages(values, algorithm, baseline=baseline if algorithm == "remax" else None)
    expected = torch.tensor(written_out(values.tolist(), algorithm, baseline.tolist()), dtype=torch.float64)
    torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(rewards())
def test_grpo_with_std_is_dapo(values: Tensor) -> None:
    assert torch.equal(group_advantages(values, normalize_std=True), group_advantages(values, "dapo"))
    assert torch.equal(group_advantages(values, "dapo", normalize_std=True), group_advantages(values, "dapo"))


@settings(max_examples=25, deadline=None)
@given(values=rewards(), factor=st.floats(0.5, 20), level=st.floats(-50, 50))
def test_scale_and_level_of_rewards(values: Tensor, factor: float, level: float) -> None:
    moved = values * factor + level
    for algorithm in ("grpo", "rloo"):
        torch.testing.assert_close(group_advantages(moved, algorithm), factor * group_advantages(values, algorithm))
    # The deviation divides the scale away, but for the epsilon beside it, which counts where rewards are nearly equal.
    for algorithm, spread in (("dapo", values.std(dim=1, keepdim=True)), ("reinforce++", values.std())):
        spread = spread.nan_to_num(0.0)  # of a single reward
        torch.testing.assert_close(
            group_advantages(moved, algorithm) * (factor * spread + EPSILON),
            factor * group_advantages(values, algorithm) * (spread + EPSILON),
        )
    baseline = values.mean(dim=1)
    torch.testing.assert_close(
        group_advantages(moved, "remax", baseline=baseline * factor + level),
        factor * group_advantages(values, "remax", baseline=baseline),
    )


@settings(max_examples=25, deadline=None)
@given(rewards())
def test_the_mean_advantage_is_zero(values: Tensor) -> None:
    for algorithm in GROUP_BASELINES:
        assert group_advantages(values, algorithm).mean(dim=1).abs().max() < 1e-9
    assert group_advantages(values, "reinforce++").mean().abs() < 1e-9


@pytest.mark.parametrize("algorithm", [*GROUP_BASELINES, "reinforce++"])
def test_equal_rewards_give_exactly_zero(algorithm: Any) -> None:
    assert (group_advantages(torch.full((3, 7), 1000.1), algorithm) == 0).all()


def test_a_common_level_costs_no_digits() -> None:
    differences = torch.tensor([[0.0, 0.25, 0.5]])
    assert torch.equal(group_advantages(differences + 4096), group_advantages(differences))


def test_single_rollouts() -> None:
    one = torch.tensor([[3.0], [5.0]])
    assert (group_advantages(one) == 0).all()
    assert (group_advantages(one, "dapo") == 0).all()
    assert (group_advantages(one[:1], "reinforce++") == 0).all()
    assert group_advantages(one, "reinforce++")[1] > 0
    with pytest.raises(ValueError, match="K = 1: use K >= 2"):
        group_advantages(one, "rloo")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_dtype_is_kept(algorithm: Any, dtype: torch.dtype) -> None:
    baseline = torch.zeros(2, dtype=dtype) if algorithm == "remax" else None
    assert group_advantages(torch.ones(2, 3, dtype=dtype), algorithm, baseline=baseline).dtype == dtype


def test_informative_groups() -> None:
    values = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.5, 1.2], [1.0, 3.0, 1.0]])
    assert informative_groups(values, 0.0).tolist() == [False, True, True]
    assert informative_groups(values, 0.5).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: group_advantages(r, "gpro"), "unknown algorithm 'gpro': did you mean 'grpo'"),
        (lambda r: group_advantages(r[0]), "rewards must be [B, K], got [3]"),
        (lambda r: group_advantages(r.long()), "rewards must be floating-point, got torch.int64"),
        (lambda r: group_advantages(r[:0]), "rewards must not be empty, got [0, 3]"),
        (lambda r: group_advantages(r / 0), "rewards is inf at [0, 0]"),
        (lambda r: group_advantages(r, "rloo", normalize_std=True), "normalize_std=True is for 'grpo'"),
        (lambda r: group_advantages(r, "remax"), "algorithm 'remax' needs baseline [B]"),
        (lambda r: group_advantages(r, baseline=r[:, 0]), "baseline is for 'remax', and 'grpo' takes its own"),
        (lambda r: group_advantages(r, "remax", baseline=r), "baseline must be [B] = [2], got [2, 3]"),
        (lambda r: group_advantages(r, "remax", baseline=r[:, 0] / 0), "baseline is inf at [0]"),
        (lambda r: informative_groups(r * float("nan"), 0.1), "rewards is nan at [0, 0]"),
    ],
)
def test_bad_input_is_refused(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(torch.ones(2, 3))


# The expected gradient, exactly: all K-tuples of three actions, each with its probability.

REWARD = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64)
AGREEMENT = torch.tensor([[1.0, 0.2, -0.5], [0.2, 0.3, 0.9], [-0.5, 0.9, 2.0]], dtype=torch.float64)


def policy() -> Tensor:
    return torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64, requires_grad=True)


def expected_gradient(count: int, reward: Callable[[Tensor], Tensor], algorithm: Any, baseline: float = 0.0) -> Tensor:
    """Of the trainer's own loss, over everything that a group of ``count`` rollouts can be."""
    logits = policy()
    logprobs = logits.log_softmax(dim=0)
    groups = torch.tensor(list(itertools.product(range(3), repeat=count)))  # [S, K]
    probability = logprobs[groups].sum(dim=1).exp().detach()
    baselines = torch.full((len(groups),), baseline, dtype=torch.float64) if algorithm == "remax" else None
    advantages = group_advantages(reward(groups), algorithm, baseline=baselines)
    tokens = torch.ones(groups.numel(), 1, dtype=torch.bool)
    terms = policy_terms(logprobs[groups].reshape(-1, 1), advantages.flatten(), tokens).per_token
    weighted = terms * probability.repeat_interleave(count).unsqueeze(1)
    # The mean over the K rollouts of a group, and the expectation over groups.
    aggregate(weighted, tokens, "seq-sum", count=count).backward()
    assert logits.grad is not None
    return -logits.grad


def true_gradient(objective: Callable[[Tensor], Tensor]) -> Tensor:
    logits = policy()
    objective(logits.softmax(dim=0)).backward()
    assert logits.grad is not None
    return logits.grad


def own_consistency(groups: Tensor) -> Tensor:
    """Eq. 14 for actions: the mean agreement with the other rollouts of the group."""
    count = groups.shape[1]
    pairs = AGREEMENT[groups.unsqueeze(2), groups.unsqueeze(1)]
    return (pairs.sum(dim=2) - pairs.diagonal(dim1=1, dim2=2)) / (count - 1)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_leave_one_out_is_unbiased_and_the_group_mean_shrinks(count: int) -> None:
    true = true_gradient(lambda p: (p * REWARD).sum())
    assert true.abs().max() > 0.1

    def reward(groups: Tensor) -> Tensor:
        return REWARD[groups]

    torch.testing.assert_close(expected_gradient(count, reward, "rloo"), true)
    torch.testing.assert_close(expected_gradient(count, reward, "grpo"), (count - 1) / count * true)
    torch.testing.assert_close(expected_gradient(count, reward, "remax", baseline=0.7), true)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_own_consistency_is_half_of_the_gradient_and_a_group_baseline_takes_more(count: int) -> None:
    true = true_gradient(lambda p: p @ AGREEMENT @ p)
    assert true.abs().max() > 0.1
    torch.testing.assert_close(expected_gradient(count, own_consistency, "remax", baseline=0.7), true / 2)
    # The others' consistency, which is the baseline, contains the agreement with the rollout itself.
    rloo = expected_gradient(count, own_consistency, "rloo")
    torch.testing.assert_close(rloo, (count - 2) / (count - 1) * true / 2, atol=1e-12, rtol=1e-9)
    grpo = expected_gradient(count, own_consistency, "grpo")
    torch.testing.assert_close(grpo, (count - 2) / count * true / 2, atol=1e-12, rtol=1e-9)
