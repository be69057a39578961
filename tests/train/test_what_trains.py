"""The shares in docs/what-the-reward-trains.md, by enumerating every group of a small policy: exact expectations."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from grace_train.advantages import group_advantages
from grace_train.rewards import contrastive_rewards

PAGE = Path(__file__).parents[2] / "docs/what-the-reward-trains.md"
OUTCOMES = 3


def expected_update(logits: Tensor, vectors: Tensor, size: int, algorithm: str) -> Tensor:
    """``[OUTCOMES]``: E[1/K sum_k A_k grad log pi(y_k)] where the reward is the consistency alone."""
    probabilities = torch.softmax(logits, dim=0)
    query = torch.ones(1, vectors.shape[1], dtype=torch.float64)
    total = torch.zeros(OUTCOMES, dtype=torch.float64)
    for group in itertools.product(range(OUTCOMES), repeat=size):
        rollouts = vectors[list(group)][None]
        consistency = contrastive_rewards(query, rollouts, variant="per_rollout").terms["consistency"]
        baseline = torch.zeros(1, dtype=torch.float64) if algorithm == "remax" else None
        advantages = group_advantages(consistency, algorithm, baseline=baseline)[0]
        scores = torch.eye(OUTCOMES, dtype=torch.float64)[list(group)] - probabilities  # grad log pi, by logit
        chance = probabilities[list(group)].prod()
        total += chance * (advantages[:, None] * scores).mean(dim=0)
    return total


def shares() -> dict[tuple[int, str], Fraction]:
    """What the page's table says."""
    rows = re.findall(r"^\| (\d+) \| ([\d/]+) \| ([\d/]+) \| ([\d/]+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    names = ("grpo", "rloo", "remax")
    return {(int(size), name): Fraction(share) for size, *own in rows for name, share in zip(names, own, strict=True)}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "remax"])
def test_the_share_of_the_consistencys_gradient(size: int, algorithm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(OUTCOMES, dtype=torch.float64, generator=generator)
    vectors = torch.randn(OUTCOMES, 4, dtype=torch.float64, generator=generator)
    free = logits.clone().requires_grad_()
    probabilities = torch.softmax(free, dim=0)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    (probabilities @ (unit @ unit.T) @ probabilities).backward()
    assert free.grad is not None and free.grad.abs().max() > 0.01
    found = expected_update(logits, vectors, size, algorithm)
    torch.testing.assert_close(found, float(shares()[size, algorithm]) * free.grad, rtol=0, atol=1e-9)


def test_the_pages_table_is_its_formulas() -> None:
    table = shares()
    assert {size for size, _ in table} == {2, 4, 8, 16}
    for (size, name), share in table.items():
        kept = {"grpo": Fraction(size - 2, size), "rloo": Fraction(size - 2, size - 1), "remax": Fraction(1)}[name]
        assert share == kept / 2


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "dapo", "remax", "reinforce++"])
def test_what_is_left_of_the_papers_negatives(algorithm: str) -> None:
    """Exactly nothing of them, or one number for a whole group."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    query, positives, negatives, greedy = draw(5, 16), draw(5, 4, 16), draw(5, 2, 16), draw(5, 1, 16)

    def advantages(with_negatives: bool) -> Tensor:
        options = {"variant": "paper", "lambda_hard": 0.2 if with_negatives else 0.0}
        others = negatives if with_negatives else None
        rewards = contrastive_rewards(query, positives, others, **options).total
        baseline = None
        if algorithm == "remax":
            baseline = contrastive_rewards(query, greedy, others, **options).total[:, 0]
        return group_advantages(rewards, algorithm, baseline=baseline)

    left = advantages(True) - advantages(False)
    if algorithm in ("grpo", "rloo", "dapo"):
        assert left.abs().max() < 1e-9
        return
    assert left.abs().max() > 0.1

    def within_groups(values: Tensor) -> Tensor:
        return (values - values.mean(dim=1, keepdim=True)).flatten()

    # Of one rollout against another it says nothing; reinforce++ only scales all differences by one number.
    scale = within_groups(advantages(True)) / within_groups(advantages(False))
    assert scale.max() - scale.min() < 1e-9
    assert algorithm == "reinforce++" or abs(scale[0] - 1) < 1e-9


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_mixture_of_paper_and_per_rollout_is_per_rollout_with_smaller_weights(algorithm: str) -> None:
    generator = torch.Generator().manual_seed(2)
    query, positives, negatives = (
        torch.randn(*shape, 16, dtype=torch.float64, generator=generator) for shape in ((5,), (5, 4), (5, 2))
    )

    def rewards(variant: str, lambda_hard: float, with_negatives: bool = True) -> Tensor:
        others = negatives if with_negatives else None
        return contrastive_rewards(query, positives, others, variant=variant, lambda_hard=lambda_hard).total

    share = 0.3
    mixed = share * rewards("paper", 0.2) + (1 - share) * rewards("per_rollout", 0.2)
    smaller = 0.2 * (1 - share)
    negative = rewards("per_rollout", smaller) - rewards("per_rollout", smaller, with_negatives=False)
    weighed = rewards("per_rollout", smaller) - share * negative
    difference = group_advantages(mixed, algorithm) - group_advantages(weighed, algorithm)
    assert difference.abs().max() < 1e-9
    assert (group_advantages(mixed, algorithm) - group_advantages(rewards("paper", 0.2), algorithm)).abs().max() > 0.1
