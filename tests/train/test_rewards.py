"""Rewards against their formulas written out, their symmetries and bounds, and what they train."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grace_train.advantages import group_advantages
from grace_train.length_penalty import apply_length_penalty
from grace_train.metrics import within_group_std
from grace_train.rewards import TERMS, VARIANTS, Rewards, contrastive_rewards, self_rewards
from tests.train import naive

L1, L2 = 0.3, 0.7


@dataclass
class Case:
    query: Tensor  # [B, d], or [B, Kq, d]
    positives: Tensor
    negatives: Tensor
    negative_mask: Tensor
    in_batch_mask: Tensor

    @property
    def arguments(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def naive(self) -> naive.Batch:
        query = self.query if self.query.ndim == 3 else self.query.unsqueeze(1)
        real = [
            vectors[keep].tolist() for vectors, keep in zip(self.negatives.double(), self.negative_mask, strict=True)
        ]
        others = [[j for j, ok in enumerate(row) if ok and j != i] for i, row in enumerate(self.in_batch_mask.tolist())]
        return naive.Batch(query.double().tolist(), self.positives.double().tolist(), real, others)


def random_case(
    seed: int = 0,
    *,
    size: int = 4,
    rollouts: int = 3,
    queries: int = 0,
    negatives: int = 2,
    ragged: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Vectors with a common direction, so that similarities are not all near 0. ``queries`` > 0: that many rollouts."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(*shape: int) -> Tensor:
        made = torch.randn(*shape, 5, generator=generator, dtype=torch.float64) + 0.7
        return (made * torch.rand(*shape, 1, generator=generator, dtype=torch.float64) * 9).to(dtype)

    def mask(rows: int, columns: int) -> Tensor:
        return torch.rand(rows, columns, generator=generator) < (0.6 if ragged else 2.0)

    return Case(
        vectors(size, queries) if queries else vectors(size),
        vectors(size, rollouts),
        vectors(size, negatives),
        mask(size, negatives),
        mask(size, size),
    )


@st.composite
def cases(draw: st.DrawFn, symmetric: bool = False) -> Case:
    case = random_case(
        draw(st.integers(0, 2**31)),
        size=draw(st.integers(1, 4)),
        rollouts=draw(st.integers(1, 4)),
        queries=draw(st.integers(1, 3)) if symmetric else 0,
        negatives=draw(st.integers(0, 3)),
        ragged=draw(st.booleans()),
    )
    if draw(st.booleans()):
        case.positives[0, 0] = 0.0
    return case


def check(total: Tensor | None, terms: dict[str, Tensor] | None, expected: dict[str, naive.Term], scale: float) -> None:
    assert total is not None and terms is not None
    assert list(terms) == list(TERMS)
    for name in TERMS:
        wanted = torch.tensor(expected[name], dtype=torch.float64)
        torch.testing.assert_close(terms[name], wanted, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: name + text)
    wanted = torch.tensor(naive.total(expected, scale, L1, L2), dtype=torch.float64)
    torch.testing.assert_close(total, wanted, rtol=1e-9, atol=1e-9)


def run(case: Case, variant: str, **options: Any) -> Rewards:
    return contrastive_rewards(**case.arguments, variant=variant, lambda_consistency=L1, lambda_hard=L2, **options)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_the_papers_reward(case: Case) -> None:
    made = run(case, "paper")
    check(made.total, made.terms, naive.paper(case.naive()), 10.0)
    assert made.query_total is None and made.query_terms is None


@pytest.mark.parametrize("hard_reduction", ["mean", "max"])
@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_per_rollout(hard_reduction: str, case: Case) -> None:
    made = run(case, "per_rollout", hard_reduction=hard_reduction, scale=2.5)
    check(made.total, made.terms, naive.per_rollout(case.naive(), hard_reduction), 2.5)


@pytest.mark.parametrize("hard_reduction", ["mean", "max"])
@settings(max_examples=25, deadline=None)
@given(case=cases(symmetric=True))
def test_symmetric(hard_reduction: str, case: Case) -> None:
    made = run(case, "symmetric", hard_reduction=hard_reduction)
    check(made.total, made.terms, naive.per_rollout(case.naive(), hard_reduction), 10.0)
    check(made.query_total, made.query_terms, naive.query_side(case.naive()), 10.0)


@pytest.mark.parametrize("other_positives", [False, True])
@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_infonce(other_positives: bool, case: Case) -> None:
    made = run(case, "infonce", temperature=0.2, other_positives=other_positives)
    check(made.total, made.terms, naive.infonce(case.naive(), 0.2, other_positives), 1.0)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_unsupervised(case: Case) -> None:
    made = self_rewards(
        case.query, case.positives, lambda_consistency=L1, lambda_hard=L2, in_batch_mask=case.in_batch_mask
    )
    batch = case.naive()
    batch.negatives = [[] for _ in batch.negatives]
    check(made.total, made.terms, naive.per_rollout(batch), 10.0)


def test_the_first_instance_by_hand() -> None:
    # q = (1, 0); rollouts along (1, 0) and (0, 1); one negative at 45 degrees; the other instance is its mirror image.
    root = 0.5**0.5
    query = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    positives = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    negatives = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]]])
    paper = contrastive_rewards(query, positives, negatives)
    torch.testing.assert_close(paper.total[0], 10 * torch.tensor([1 - root - 0.2, 0 - root - 0.2]))
    rollout = contrastive_rewards(query, positives, negatives, variant="per_rollout")
    torch.testing.assert_close(rollout.total[0], 10 * torch.tensor([1 - root, 0 - root - 0.2]))


def sides(made: Rewards) -> dict[str, Tensor]:
    parts = {"total": made.total, **made.terms}
    if made.query_total is not None and made.query_terms is not None:
        parts |= {"query total": made.query_total, **{f"query {k}": v for k, v in made.query_terms.items()}}
    return parts


def assert_same(made: Rewards, expected: dict[str, Tensor], **tolerance: float) -> None:
    assert sides(made).keys() == expected.keys()
    for name, value in sides(made).items():
        torch.testing.assert_close(value, expected[name], **tolerance)


def options_of(variant: str) -> dict[str, Any]:
    return {"hard_reduction": "max"} if variant in ("per_rollout", "symmetric") else {}


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_does_not_matter(variant: str) -> None:
    case = random_case(1, size=5, rollouts=4, queries=3 if variant == "symmetric" else 0, negatives=3)
    generator = torch.Generator().manual_seed(0)
    instances, rollouts, negatives, queries = (torch.randperm(n, generator=generator) for n in (5, 4, 3, 3))
    shuffled = Case(
        case.query[instances][:, queries] if variant == "symmetric" else case.query[instances],
        case.positives[instances][:, rollouts],
        case.negatives[instances][:, negatives],
        case.negative_mask[instances][:, negatives],
        case.in_batch_mask[instances][:, instances],
    )
    expected = {
        name: value[instances][:, queries if name.startswith("query") else rollouts]
        for name, value in sides(run(case, variant)).items()
    }
    assert_same(run(shuffled, variant), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_has_no_influence(variant: str) -> None:
    case = random_case(2, queries=2 if variant == "symmetric" else 0)
    expected = sides(run(case, variant))
    padding = torch.full((4, 2, 5), float("nan"), dtype=torch.float64)
    case.negatives = torch.cat(
        [case.negatives.masked_fill(~case.negative_mask.unsqueeze(-1), float("inf")), padding], 1
    )
    case.negative_mask = torch.cat([case.negative_mask, torch.zeros(4, 2, dtype=torch.bool)], 1)
    assert_same(run(case, variant), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_lengths_of_vectors_do_not_matter(variant: str) -> None:
    case = random_case(3, queries=2 if variant == "symmetric" else 0, dtype=torch.float32)
    expected = sides(run(case, variant))
    case.query, case.positives, case.negatives = case.query * 1e30, case.positives * 1e-35, case.negatives * 1e-30
    assert_same(run(case, variant), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_instances_count_as_absent(variant: str) -> None:
    case = random_case(4, size=3, queries=2 if variant == "symmetric" else 0)
    case.in_batch_mask = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    pair = Case(case.query[:2], case.positives[:2], case.negatives[:2], case.negative_mask[:2], torch.ones(2, 2).bool())
    alone = Case(
        case.query[2:], case.positives[2:], case.negatives[2:], case.negative_mask[2:], torch.ones(1, 1).bool()
    )
    expected = {
        name: torch.cat([value, sides(run(alone, variant))[name]]) for name, value in sides(run(pair, variant)).items()
    }
    assert_same(run(case, variant), expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_kept(variant: str, dtype: torch.dtype) -> None:
    case = random_case(5, queries=2 if variant == "symmetric" else 0, dtype=dtype)
    made = sides(run(case, variant, **options_of(variant)))
    assert {value.dtype for value in made.values()} == {dtype}
    double = Case(case.query.double(), case.positives.double(), case.negatives.double(), *list(vars(case).values())[3:])
    step = torch.finfo(dtype).eps
    for name, value in sides(run(double, variant, **options_of(variant))).items():
        # one rounding, not the sum of many
        torch.testing.assert_close(made[name].double(), value, rtol=step, atol=20 * torch.finfo(torch.float32).eps)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_bounds(case: Case) -> None:
    rooms = 1 + 1e-9
    count = case.negatives.shape[1]
    for variant in ("paper", "per_rollout"):
        terms = run(case, variant).terms
        for name in ("positive", "consistency", "hard"):
            assert terms[name].abs().max() <= rooms
        assert terms["negative"].abs().max() <= (count if variant == "paper" else 1) * rooms
    infonce = run(case, "infonce", temperature=0.05).terms["positive"]
    assert infonce.max() <= 0
    # Each contrast can be at most exp(2 / t) times the positive.
    others = count + case.query.shape[0] - 1
    assert infonce.min() >= -(2 / 0.05 + torch.tensor(others + 1.0).log())


@pytest.mark.parametrize("variant", VARIANTS)
def test_degenerate_sizes(variant: str) -> None:
    case = random_case(6, size=1, rollouts=1, queries=1 if variant == "symmetric" else 0)
    made = contrastive_rewards(case.query, case.positives, variant=variant)
    parts = {name: value for name, value in sides(made).items() if "total" not in name and "positive" not in name}
    assert all((value == 0).all() for value in parts.values())
    if variant == "infonce":
        assert made.total.item() == 0
    else:
        cosine = torch.cosine_similarity(case.query.flatten(), case.positives.flatten(), dim=0)
        torch.testing.assert_close(made.total, 10 * cosine.reshape(1, 1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_vectors(variant: str) -> None:
    zeros = Case(*(torch.zeros_like(value) for value in random_case(7, ragged=False).arguments.values()))
    zeros.negative_mask[:], zeros.in_batch_mask[:] = True, True
    if variant == "symmetric":
        zeros.query = zeros.query.unsqueeze(1)
    made = run(zeros, variant, **({"temperature": 1.0} if variant == "infonce" else {}))
    expected = -torch.tensor(1.0 + 3 + 2).log().item() if variant == "infonce" else 0.0
    torch.testing.assert_close(made.total, torch.full((4, 3), expected, dtype=torch.float64))


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_and_without_gradients(variant: str) -> None:
    case = random_case(8, queries=2 if variant == "symmetric" else 0)
    case.positives.requires_grad_()
    made = run(case, variant)
    made.total.sum().backward()
    assert case.positives.grad is not None and case.positives.grad.isfinite().all()
    with torch.no_grad():
        assert_same(run(case, variant), {name: value.detach() for name, value in sides(made).items()})


# What the paper's supervised reward really trains: rewards whose negatives and hard term the group mean removes.


def with_and_without(variant: str, seed: int = 9) -> tuple[Tensor, Tensor]:
    """Totals with all terms, and with the negative and the hard term left out."""
    case = random_case(seed, size=8, rollouts=8, ragged=False)
    full = contrastive_rewards(**case.arguments, variant=variant)
    parts = full.terms
    return full.total, 10 * (parts["positive"] + 0.2 * parts["consistency"])


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "dapo", "remax"])
def test_negatives_cancel_under_group_baselines(algorithm: Any) -> None:
    full, without = with_and_without("paper")
    assert (full - without).abs().min() > 1  # the rewards differ by much
    # ReMax's baseline is the reward of one more rollout: it has the same negatives and the same hard term.
    baselines: list[Tensor | None] = [None, None]
    if algorithm == "remax":
        baselines = [full[:, 0], without[:, 0]]
    made = [group_advantages(r, algorithm, baseline=b) for r, b in zip((full, without), baselines, strict=True)]
    torch.testing.assert_close(made[0], made[1], rtol=1e-9, atol=1e-9)
    full, without = with_and_without("per_rollout")
    if algorithm != "remax":
        assert (group_advantages(full, algorithm) - group_advantages(without, algorithm)).abs().max() > 0.1


def test_negatives_act_through_an_unfinished_rollout_that_is_replaced() -> None:
    finished = torch.ones(8, 8, dtype=torch.bool)
    finished[0, 3] = False
    advantages = [
        group_advantages(apply_length_penalty(rewards, finished, "replace")) for rewards in with_and_without("paper")
    ]
    difference = (advantages[0] - advantages[1]).abs()
    assert difference[0].min() > 0.1
    torch.testing.assert_close(difference[1:], torch.zeros(7, 8, dtype=torch.float64), rtol=0, atol=1e-9)
    below = [group_advantages(apply_length_penalty(rewards, finished)) for rewards in with_and_without("paper")]
    torch.testing.assert_close(below[0], below[1], rtol=1e-9, atol=1e-9)


def test_under_reinforce_plus_plus_negatives_say_nothing_about_a_rollout() -> None:
    full, without = (group_advantages(rewards, "reinforce++") for rewards in with_and_without("paper"))
    assert (full - without).abs().max() > 0.1  # they move whole groups ...
    within = [made - made.mean(dim=1, keepdim=True) for made in (full, without)]
    ratio = within[0] / within[1]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand(8, 8))  # ... and only shrink what differs within one
    assert (full.mean(dim=1).std() > without.mean(dim=1).std()) and ratio[0, 0] < 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_which_terms_train(variant: str) -> None:
    case = random_case(10, rollouts=8, queries=2 if variant == "symmetric" else 0, ragged=False, dtype=torch.float32)
    spread = {name: within_group_std(term).item() for name, term in run(case, variant).terms.items()}
    assert spread["positive"] > 0.01 and spread["consistency"] > 0.01
    for name in ("negative", "hard"):
        assert (spread[name] == 0) == (variant in ("paper", "infonce"))  # exactly 0, not rounding


# Bad input


def bad(message: str, **change: Any) -> Any:
    return pytest.param(change, message, id=message[:40])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        bad("unknown variant 'per-rollout': did you mean 'per_rollout'", variant="per-rollout"),
        bad("unknown hard_reduction 'min'", variant="per_rollout", hard_reduction="min"),
        bad("hard_reduction='max' has no meaning for variant='paper'", hard_reduction="max"),
        bad("other_positives=True has no meaning for variant='paper'", other_positives=True),
        bad("temperature must be a number > 0, got 0", variant="infonce", temperature=0),
        bad("scale must be a number > 0, got nan", scale=float("nan")),
        bad("lambda_hard must be a finite number, got inf", lambda_hard=float("inf")),
        bad("query (for variant='symmetric') must be [B, Kq, d], got [4, 5]", variant="symmetric"),
        bad("query (for variant='paper') must be [B, d], got [4, 2, 5]", query=torch.ones(4, 2, 5)),
        bad("positives must be [B, K, d], got [4, 5]", positives=torch.ones(4, 5)),
        bad("query has 3 instances of dimension 5", query=torch.ones(3, 5)),
        bad("negatives has 4 instances of dimension 6", negatives=torch.ones(4, 2, 6)),
        bad("negatives is torch.float64 and positives is torch.float32", negatives=torch.ones(4, 2, 5).double()),
        bad("positives must be floating-point, got torch.int64", positives=torch.ones(4, 3, 5).long()),
        bad("must not be empty", positives=torch.ones(4, 0, 5)),
        bad("negative_mask must be bool, got torch.float32", negative_mask=torch.ones(4, 2)),
        bad("negative_mask must be [B, M] = [4, 2], got [4, 3]", negative_mask=torch.ones(4, 3).bool()),
        bad("negative_mask was given without negatives", negatives=None),
        bad("in_batch_mask must be [B, B] = [4, 4], got [4, 2]", in_batch_mask=torch.ones(4, 2).bool()),
        bad("query (for variant='paper') is nan at [0, 0]", query=torch.full((4, 5), float("nan"))),
        bad("negatives is inf at [0, 0, 0]", negatives=torch.full((4, 2, 5), float("inf"))),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = random_case(11, ragged=False, dtype=torch.float32).arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        contrastive_rewards(**{**arguments, **change})


def test_self_rewards_names_its_own_arguments() -> None:
    with pytest.raises(ValueError, match=re.escape("anchor must be [B, d], got [4, 1, 5]")):
        self_rewards(torch.ones(4, 1, 5), torch.ones(4, 3, 5))
    with pytest.raises(ValueError, match=re.escape("anchor has 3 instances of dimension 5, and rollouts [4, 3, 5]")):
        self_rewards(torch.ones(3, 5), torch.ones(4, 3, 5))
    with pytest.raises(ValueError, match="scale must be a number > 0"):
        self_rewards(torch.ones(4, 5), torch.ones(4, 3, 5), scale=-1.0)


def test_the_snippets_about_rewards_run() -> None:
    page = Path(__file__).parents[2] / "docs/rewards.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(block, scope)
    assert scope["advantages"].shape == (4, 8)
