"""Losses: their values and gradients, padding without influence, and micro-batches that add up."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grace_train.losses import AGGREGATIONS, aggregate, entropy_terms, kl_terms, policy_terms

NAN, INF = float("nan"), float("inf")


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities, older ones, advantages and a mask with at least one token each."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    logprobs = -torch.rand(rows, length, generator=generator, dtype=torch.float64) * 3
    old = logprobs + torch.randn(rows, length, generator=generator, dtype=torch.float64) * 0.4
    mask = torch.rand(rows, length, generator=generator) < 0.7
    mask[:, 0] = True
    return logprobs, old, torch.randn(rows, generator=generator, dtype=torch.float64), mask


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    function(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


@settings(max_examples=25, deadline=None)
@given(rollouts())
def test_on_policy_the_gradient_is_that_of_the_log_probability(case: tuple[Tensor, ...]) -> None:
    logprobs, _, advantages, mask = case
    made = gradient(lambda x: policy_terms(x, advantages, mask).per_token.sum(), logprobs)
    torch.testing.assert_close(made, -advantages.unsqueeze(1) * mask)
    terms = policy_terms(logprobs, advantages, mask)
    torch.testing.assert_close(terms.per_token, -advantages.unsqueeze(1) * mask)
    assert not terms.clipped.any()
    same = policy_terms(logprobs, advantages, mask, old_logprobs=logprobs)
    assert torch.equal(same.per_token, terms.per_token)


@settings(max_examples=40, deadline=None)
@given(rollouts(), st.sampled_from([(0.2, 0.2), (0.2, 0.28), (0.0, 0.0), (1.0, 3.0)]))
def test_the_clipped_loss_written_out(case: tuple[Tensor, ...], clip: tuple[float, float]) -> None:
    logprobs, old, advantages, mask = case
    low, high = clip
    terms = policy_terms(logprobs, advantages, mask, old_logprobs=old, clip_low=low, clip_high=high)
    grads = gradient(
        lambda x: policy_terms(x, advantages, mask, old_logprobs=old, clip_low=low, clip_high=high).per_token.sum(),
        logprobs,
    )
    for n, t in torch.cartesian_prod(torch.arange(mask.shape[0]), torch.arange(mask.shape[1])).tolist():
        ratio, advantage = math.exp(logprobs[n, t] - old[n, t]), advantages[n].item()
        loss, clipped, slope = 0.0, False, 0.0
        if mask[n, t]:
            clipped = ratio > 1 + high if advantage > 0 else ratio < 1 - low
            bounded = min(max(ratio, 1 - low), 1 + high)
            loss = -min(ratio * advantage, bounded * advantage)
            slope = 0.0 if clipped else -ratio * advantage
        assert terms.per_token[n, t].item() == pytest.approx(loss, abs=1e-9)
        assert terms.clipped[n, t].item() == clipped
        assert grads[n, t].item() == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("junk", [NAN, INF, -INF])
@settings(max_examples=10, deadline=None)
@given(case=rollouts())
def test_masked_positions_have_no_influence(junk: float, case: tuple[Tensor, ...]) -> None:
    logprobs, old, advantages, mask = case
    bad, bad_old = logprobs.masked_fill(~mask, junk), old.masked_fill(~mask, junk)

    def losses(x: Tensor, others: Tensor) -> Tensor:
        terms = [
            policy_terms(x, advantages, mask).per_token,
            policy_terms(x, advantages, mask, old_logprobs=others).per_token,
            kl_terms(x, others, mask),
        ]
        assert all((term[~mask] == 0).all() for term in terms)
        return sum((aggregate(term, mask) for term in terms), start=torch.zeros(()))

    torch.testing.assert_close(losses(bad, bad_old), losses(logprobs, old))
    made = gradient(lambda x: losses(x, bad_old), bad)
    assert (made[~mask] == 0).all()
    torch.testing.assert_close(made, gradient(lambda x: losses(x, old), logprobs))
    assert aggregate(bad, mask).isfinite()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@settings(max_examples=25, deadline=None)
@given(case=rollouts(), size=st.integers(1, 3))
def test_micro_batches_add_up(aggregation: Any, case: tuple[Tensor, ...], size: int) -> None:
    logprobs, old, advantages, mask = case

    def loss(x: Tensor, rows: slice, count: float | None) -> Tensor:
        terms = policy_terms(x[rows], advantages[rows], mask[rows], old_logprobs=old[rows])
        return aggregate(terms.per_token, mask[rows], aggregation, count=count)

    count = int(mask.sum()) if aggregation == "token-mean" else len(mask)
    parts = [slice(start, start + size) for start in range(0, len(mask), size)]
    everything = slice(None)
    pieces = [loss(logprobs, part, count) for part in parts]
    torch.testing.assert_close(torch.stack(pieces).sum(), loss(logprobs, everything, None))
    made = sum(gradient(lambda x, part=part: loss(x, part, count), logprobs) for part in parts)
    torch.testing.assert_close(made, gradient(lambda x: loss(x, everything, None), logprobs))


def test_the_two_aggregations() -> None:
    per_token = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert aggregate(per_token, mask).item() == 10 / 4
    assert aggregate(per_token, mask, "seq-sum").item() == 10 / 2
    assert aggregate(per_token, ~mask, "seq-sum", count=3).item() == 18 / 3
    assert aggregate(per_token, torch.zeros_like(mask), count=3).item() == 0


def test_a_wild_ratio_leaves_gradients_finite() -> None:
    logprobs, old = torch.zeros(2, 1), torch.full((2, 1), -500.0)
    advantages, mask = torch.tensor([1.0, -1.0]), torch.ones(2, 1, dtype=torch.bool)
    made = gradient(lambda x: policy_terms(x, advantages, mask, old_logprobs=old).per_token.sum(), logprobs)
    assert made.isfinite().all()
    assert gradient(lambda x: kl_terms(x, -old, mask).sum(), logprobs).isfinite().all()


def test_advantages_and_older_policies_get_no_gradient() -> None:
    logprobs, advantages = torch.zeros(1, 2, requires_grad=True), torch.ones(1, requires_grad=True)
    old, mask = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, dtype=torch.bool)
    terms = policy_terms(logprobs, advantages, mask, old_logprobs=old).per_token
    (terms.sum() + kl_terms(logprobs, old, mask).sum()).backward()
    assert advantages.grad is None and old.grad is None and logprobs.grad is not None


def test_k3_is_unbiased_and_not_negative() -> None:
    policy = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    reference = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64).log()
    terms = kl_terms(policy.unsqueeze(1), reference.unsqueeze(1), torch.ones(3, 1, dtype=torch.bool)).squeeze(1)
    assert (terms >= 0).all() and terms[2] == 0
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * terms).sum(), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entropy(dtype: torch.dtype) -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [1e4, 0.0, -1e4, 0.0], [3.0, 3.0, -INF, -INF]]], dtype=dtype)
    made = entropy_terms(logits)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, torch.tensor([[math.log(4), 0.0, math.log(2)]]))
    assert gradient(lambda x: entropy_terms(x).sum(), logits).isfinite().all()
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) + 500
    expected = torch.distributions.Categorical(logits=logits.double()).entropy()
    torch.testing.assert_close(entropy_terms(logits), expected.float())


def test_half_precision_is_computed_in_float32() -> None:
    logprobs = torch.full((1, 2), -0.5, dtype=torch.bfloat16)
    advantages, mask = torch.ones(1, dtype=torch.bfloat16), torch.ones(1, 2, dtype=torch.bool)
    assert policy_terms(logprobs, advantages, mask).per_token.dtype == torch.float32
    assert kl_terms(logprobs, logprobs, mask).dtype == torch.float32
    assert aggregate(logprobs, mask).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, a, m: policy_terms(x[0], a, m), "logprobs must be [N, T], got [3]"),
        (lambda x, a, m: policy_terms(x, a, m.float()), "mask must be bool, got torch.float32"),
        (lambda x, a, m: policy_terms(x, a, m[:, :2]), "mask must be [N, T] = [2, 3], got [2, 2]"),
        (lambda x, a, m: policy_terms(x, x, m), "advantages must be [N] = [2], got [2, 3]"),
        (lambda x, a, m: policy_terms(x, a, m, old_logprobs=x[:1]), "must have one shape, got [2, 3] and [1, 3]"),
        (lambda x, a, m: policy_terms(x, a, m, clip_low=1.1), "clip_low must be from 0 to 1, got 1.1"),
        (lambda x, a, m: policy_terms(x, a, m, clip_high=-0.1), "clip_high must be a number >= 0, got -0.1"),
        (lambda x, a, m: kl_terms(x, x[:1], m), "must have one shape, got [2, 3] and [1, 3]"),
        (lambda x, a, m: entropy_terms(x), "logits must be [N, T, V], got [2, 3]"),
        (lambda x, a, m: aggregate(x, m, "token_mean"), "unknown aggregation 'token_mean': did you mean 'token-mean'"),
        (lambda x, a, m: aggregate(x, ~m), "there is no token to take the mean of"),
        (lambda x, a, m: aggregate(x, m, count=0), "count must be a number > 0, got 0"),
    ],
)
def test_bad_input_is_refused(call: Callable[[Tensor, Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(torch.zeros(2, 3), torch.zeros(2), torch.ones(2, 3, dtype=torch.bool))
