from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from grace_st.engines.base import PromptTokens, Rollout, Sampling
from grace_train.local.loading import load_policy
from grace_train.local.packing import MicroBatch
from grace_train.local.policy import Policy
from grace_train.local.rollouts import Group
from grace_train.local.scoring import Side
from grace_train.local.update import Learner, Sums, learning_rate, samples_of
from grace_train.report.health import TrainingStopped
from grace_train.sections import OptimizerConfig
from tests.train.local.conftest import MakeConfig

TEXTS = ["cats", "a walk through the gardens of Paris in early spring", "x"]


def side(policy: Policy, **sampling: Any) -> Side:
    module = policy.module
    prompts = module.prompts_of(TEXTS)
    rollouts = module.rollouts(
        prompts, Sampling(max_new_tokens=6, do_sample=True, num_samples=3, logprobs=True, **sampling)
    )
    groups = tuple(Group(prompt, tuple(rollouts[3 * i : 3 * i + 3])) for i, prompt in enumerate(prompts))
    torch.manual_seed(0)
    advantages = torch.randn(3, 3)
    return Side("reward", groups, advantages, {}, advantages, torch.ones(3, dtype=torch.bool))


def gradients(policy: Policy) -> torch.Tensor:
    found = torch.cat([parameter.grad.flatten().double() for parameter in policy.trainable().values()])  # type: ignore[union-attr]
    policy.model.zero_grad()
    return found


def naive(policy: Policy, some_side: Side, aggregation: str, kl: float = 0.0) -> torch.Tensor:
    """Eq. 19 written out: one plain forward for each rollout."""
    total = torch.zeros(())
    tokens = count = 0
    for group, advantages in zip(some_side.groups, some_side.advantages, strict=True):
        for rollout, advantage in zip(group.rollouts, advantages, strict=True):
            actions = [*rollout.ids, *([] if rollout.stop_id is None else [rollout.stop_id])]
            ids = torch.tensor([[*group.prompt.ids, *actions]])
            logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(group.prompt.ids) - 1 : -1]
            logprobs = logits.log_softmax(-1).gather(1, torch.tensor(actions)[:, None])
            total = total - advantage * logprobs.sum()
            tokens, count = tokens + len(actions), count + 1
    (total / (tokens if aggregation == "token-mean" else count)).backward()
    return gradients(policy)


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-sum"])
@pytest.mark.parametrize("limit", [10_000, 60, 1])
def test_gradients_are_those_of_the_formula_for_any_micro_batch(
    make_config: MakeConfig, aggregation: str, limit: int
) -> None:
    config = make_config(f"algorithm.aggregation={aggregation}", f"compute.tokens_per_microbatch={limit}")
    policy = load_policy(config, keep_reference=False)
    some_side = side(policy)
    sums = Sums()
    Learner(policy, config, 10).accumulate(samples_of([some_side], range(3)), None, sums)
    actual, expected = gradients(policy), naive(policy, some_side, aggregation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_one_micro_batch_is_held_at_a_time(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("compute.tokens_per_microbatch=1")
    policy = load_policy(config, keep_reference=False)
    made: weakref.WeakSet[MicroBatch] = weakref.WeakSet()
    held = []
    move = MicroBatch.to

    def count(self: MicroBatch, device: torch.device) -> MicroBatch:
        moved = move(self, device)
        made.add(moved)
        held.append(len(made))
        return moved

    monkeypatch.setattr(MicroBatch, "__hash__", object.__hash__)
    monkeypatch.setattr(MicroBatch, "to", count)
    Learner(policy, config, 10).accumulate(samples_of([side(policy)], range(3)), None, Sums())
    assert len(held) == 9
    assert max(held) <= 2  # the next one is made while the last one still has its name


def test_penalty_and_entropy_do_not_depend_on_the_micro_batch(make_config: MakeConfig) -> None:
    found = []
    for limit in (10_000, 1):
        config = make_config("algorithm.kl=0.5", "algorithm.entropy=0.1", f"compute.tokens_per_microbatch={limit}")
        policy = load_policy(config, keep_reference=True)
        with torch.no_grad():
            for parameter in policy.trainable().values():
                parameter.mul_(1.01)
        sums = Sums()
        Learner(policy, config, 10).accumulate(samples_of([side(policy)], range(3)), None, sums)
        found.append((gradients(policy), sums.loss, sums.kl, sums.entropy))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-5 * float(found[0][0].abs().max()))
    assert found[0][1:] == pytest.approx(found[1][1:], rel=1e-4)
    assert found[0][2] > 0
    assert found[0][3] > 0


def test_one_step_at_the_papers_rate_changes_the_weights(make_config: MakeConfig) -> None:
    config = make_config("optimizer.learning_rate=1e-6", "compute.precision=bf16")
    policy = load_policy(config, keep_reference=False)
    before = policy.state_dict()
    values = Learner(policy, config, 10).update([side(policy)], 1)
    after = policy.state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert len(moved) == len(after)
    assert values["loss/grad_norm"] > 0


def test_the_engines_logprobs_are_those_of_the_update(make_config: MakeConfig) -> None:
    config = make_config()
    policy = load_policy(config, keep_reference=False)
    values = Learner(policy, config, 10).update([side(policy)], 1)
    assert values["loss/logprob_gap"] < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_several_updates_weigh_by_importance_and_clip(make_config: MakeConfig, temperature: float) -> None:
    config = make_config(
        "algorithm.updates_per_batch=3",
        "algorithm.clip_low=0.01",
        "algorithm.clip_high=0.01",
        "optimizer.learning_rate=1e-2",
        f"rollout.temperature={temperature}",
    )
    policy = load_policy(config, keep_reference=False)
    values = Learner(policy, config, 10).update([side(policy, temperature=temperature)], 1)
    # The first part is still on-policy, the others have moved away: some of their tokens are clipped.
    assert 0 < values["loss/clip_fraction"] < 1


def test_the_distance_to_the_start_does_not_depend_on_dropped_groups(make_config: MakeConfig) -> None:
    config = make_config()
    policy = load_policy(config, keep_reference=True)
    some_side = side(policy)
    learner = Learner(policy, config, 10)
    learner.update([some_side], 1)
    distance = learner.divergence_from_start([some_side])
    some_side.kept[:] = False
    assert learner.divergence_from_start([some_side]) == distance > 0


def test_dropped_groups_train_nothing(make_config: MakeConfig) -> None:
    config = make_config()
    policy = load_policy(config, keep_reference=False)
    some_side = side(policy)
    some_side.kept[:] = False
    before = policy.state_dict()
    values = Learner(policy, config, 10).update([some_side], 1)
    assert values["loss/updates"] == 0
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_gradients_that_are_not_finite_stop_the_run_and_spare_the_weights(make_config: MakeConfig) -> None:
    config = make_config()
    policy = load_policy(config, keep_reference=False)
    some_side = side(policy)
    some_side.advantages[0, 0] = float("inf")
    before = policy.state_dict()
    with pytest.raises(TrainingStopped, match="step 4 are not finite"):
        Learner(policy, config, 10).update([some_side], 4)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_rationale_that_ends_at_once_is_one_action(make_config: MakeConfig) -> None:
    rollout = Rollout((), 2, torch.zeros(4), (-0.5,))
    group = Group(PromptTokens((5, 6), 0), (rollout,))
    one = torch.ones(1, 1)
    (sample,) = samples_of([Side("reward", (group,), one, {}, one, torch.ones(1, dtype=torch.bool))], range(1))
    assert sample.actions == (2,)
    assert sample.old_logprobs.tolist() == [-0.5]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_learning_rate(schedule: Any, expected: list[float]) -> None:
    settings = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule=schedule)
    rates = [learning_rate(settings, step, 6) for step in range(1, 7)]
    assert rates == pytest.approx(expected)
