from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grace_st.engines.base import Sampling
from grace_train.advantages import group_advantages
from grace_train.data.instances import Instance, TextInstance
from grace_train.length_penalty import apply_length_penalty, soft_overlong_penalty
from grace_train.local.loading import load_policy
from grace_train.local.policy import Policy
from grace_train.local.rollouts import Group, RolloutBatch, RolloutMaker, role_seed
from grace_train.local.scoring import action_count, describe, rollout_count, score
from grace_train.rewards import contrastive_rewards, self_rewards
from tests.train.local.conftest import MakeConfig


def instance(topic: str, *negatives: str, instruction: str | None = None) -> Instance:
    positive = f"{topic} and what it is"
    return Instance("data", 0, f"about {topic}", positive, negatives, (positive,), instruction, None)


INSTANCES = [instance("cats", "not cats"), instance("rivers"), instance("Paris", "London", "Rome")]
TEXTS = [TextInstance("data", row, text) for row, text in enumerate(["cats", "rivers in spring", "Paris"])]


def rolled(policy: Policy, make_config: MakeConfig, *changes: str, step: int = 1) -> RolloutBatch:
    config = make_config(*changes)
    batch = INSTANCES if config.mode == "supervised" else TEXTS
    return RolloutMaker(policy, config).make(batch, step)


@pytest.fixture
def policy(make_config: MakeConfig) -> Policy:
    return load_policy(make_config(), keep_reference=False)


def test_shapes(policy: Policy, make_config: MakeConfig) -> None:
    batch = rolled(policy, make_config)
    d = policy.module.get_embedding_dimension()
    assert batch.trained_vectors.shape == (3, 3, d)
    assert batch.anchor_vectors.shape == (3, 1, d)
    vectors, mask = batch.negative_vectors()
    assert vectors is not None
    assert mask is not None
    assert vectors.shape == (3, 2, d)
    assert mask.tolist() == [[True, False], [False, False], [True, True]]
    symmetric = rolled(policy, make_config, "reward.variant=symmetric", "rollout.query_group_size=2")
    assert symmetric.anchor_vectors.shape == (3, 2, d)
    texts = rolled(policy, make_config, "mode=unsupervised")
    assert texts.trained_vectors.shape == (3, 3, d)
    assert texts.anchor_vectors.shape == (3, 1, d)
    assert texts.negative_vectors() == (None, None)


def test_vectors_are_those_of_the_rationales(policy: Policy, make_config: MakeConfig) -> None:
    """No second encoding is needed: a full forward over prompt and rationale gives what came with the rollouts."""
    for group in rolled(policy, make_config).trained:
        again = policy.module.rollouts([group.prompt] * 3, rationales=[rollout.ids for rollout in group.rollouts])
        torch.testing.assert_close(group.vectors, torch.stack([rollout.vector for rollout in again]), rtol=0, atol=1e-5)


def test_rollouts_depend_on_seed_step_and_role_alone(policy: Policy, make_config: MakeConfig) -> None:
    def ids(batch: RolloutBatch) -> list[tuple[int, ...]]:
        return [rollout.ids for group in (*batch.trained, *batch.anchors) for rollout in group.rollouts]

    first = ids(rolled(policy, make_config))
    torch.manual_seed(123)  # no global random state is used
    assert ids(rolled(policy, make_config)) == first
    assert ids(rolled(policy, make_config, step=2)) != first
    assert ids(rolled(policy, make_config, "seed=1")) != first
    assert len({role_seed(0, 1, "positive"), role_seed(0, 1, "anchor"), role_seed(0, 2, "positive")}) == 3


def test_instructions_go_before_the_texts_of_their_role(policy: Policy, make_config: MakeConfig) -> None:
    told = instance("cats", instruction="Find: ")
    batch = RolloutMaker(policy, make_config()).make([told, INSTANCES[1]], 1)
    module = policy.module
    assert batch.anchors[0].prompt == module.prompts_of(["about cats"], "Find: ")[0]
    assert batch.anchors[1].prompt == module.prompts_of(["about rivers"])[0]
    assert batch.trained[0].prompt == module.prompts_of(["cats and what it is"])[0]


@pytest.mark.parametrize("variant", ["paper", "per_rollout", "infonce"])
def test_advantages_are_those_of_the_pure_functions(policy: Policy, make_config: MakeConfig, variant: str) -> None:
    config = make_config(f"reward.variant={variant}", "reward.length_penalty=replace")
    batch = RolloutMaker(policy, config).make(INSTANCES, 1)
    (side,) = score(batch, config, budget=6)
    negatives, mask = batch.negative_vectors()
    rewards = contrastive_rewards(batch.anchor_vectors[:, 0], batch.trained_vectors, negatives, mask, variant=variant)
    torch.testing.assert_close(side.rewards, rewards.total)
    finished = torch.tensor([[rollout.finished for rollout in group.rollouts] for group in batch.trained])
    expected = group_advantages(apply_length_penalty(rewards.total, finished, "replace"), "grpo")
    torch.testing.assert_close(side.advantages, expected)


def test_both_sides_of_the_symmetric_reward_are_trained(policy: Policy, make_config: MakeConfig) -> None:
    config = make_config("reward.variant=symmetric", "rollout.query_group_size=2")
    sides = score(RolloutMaker(policy, config).make(INSTANCES, 1), config, budget=6)
    assert [side.name for side in sides] == ["reward", "query_reward"]
    assert [tuple(side.advantages.shape) for side in sides] == [(3, 3), (3, 2)]
    for side in sides:
        torch.testing.assert_close(side.advantages.mean(dim=1), torch.zeros(3), rtol=0, atol=1e-5)


def test_the_unsupervised_anchor_is_one_more_rollout(policy: Policy, make_config: MakeConfig) -> None:
    config = make_config("mode=unsupervised")
    batch = RolloutMaker(policy, config).make(TEXTS, 1)
    (side,) = score(batch, config, budget=6)
    expected = self_rewards(batch.anchor_vectors[:, 0], batch.trained_vectors, lambda_hard=3)
    torch.testing.assert_close(side.rewards, expected.total)
    for group, anchor in zip(batch.trained, batch.anchors, strict=True):
        assert group.prompt == anchor.prompt


def test_remax_compares_with_the_greedy_rollout(policy: Policy, make_config: MakeConfig) -> None:
    config = make_config("algorithm.name=remax", "reward.length_penalty=none")
    batch = RolloutMaker(policy, config).make(INSTANCES, 1)
    prompts = [group.prompt for group in batch.trained]
    greedy = policy.module.rollouts(prompts, Sampling(max_new_tokens=6))
    negatives, mask = batch.negative_vectors()
    queries = batch.anchor_vectors[:, 0]
    baseline = contrastive_rewards(
        queries, torch.stack([rollout.vector for rollout in greedy])[:, None], negatives, mask, variant="per_rollout"
    ).total[:, 0]
    (side,) = score(batch, config, budget=6)
    torch.testing.assert_close(side.advantages, side.rewards - baseline[:, None])


def repeating(group: Group) -> Group:
    """The group, with a first rollout that says one thing three times."""
    first = replace(group.rollouts[0], ids=(7, 8, 7, 7))
    return replace(group, rollouts=(first, *group.rollouts[1:]), greedy=group.greedy and first)


@pytest.mark.parametrize("change", ["reward.variant=symmetric", "mode=unsupervised"])
def test_repetition_costs_its_share_on_every_side(policy: Policy, make_config: MakeConfig, change: str) -> None:
    changes = (change, "reward.length_penalty=none")
    batch = rolled(policy, make_config, *changes)
    batch = replace(batch, trained=tuple(map(repeating, batch.trained)), anchors=tuple(map(repeating, batch.anchors)))
    plain = score(batch, make_config(*changes), budget=6)
    told = score(batch, make_config(*changes, "reward.repetition=4", "reward.repetition_ngram=1"), budget=6)
    for before, after in zip(plain, told, strict=True):
        shares = torch.tensor(
            [[1 - len(set(one.ids)) / len(one.ids) for one in group.rollouts] for group in before.groups]
        )
        assert shares[:, 0].tolist() == [0.5] * 3
        torch.testing.assert_close(after.rewards, before.rewards - 4 * shares)
        torch.testing.assert_close(after.advantages, group_advantages(after.rewards, "grpo"))
        torch.testing.assert_close(after.terms["repetition"], -shares)
    values = describe(batch, told)
    assert values["reward/repetition_std"] > 0
    assert "reward/repetition" not in describe(batch, plain)
    assert 0 <= values["rollout/repetition"] < 1


def test_the_greedy_baseline_pays_for_repetition_too(policy: Policy, make_config: MakeConfig) -> None:
    changes = ("algorithm.name=remax", "reward.length_penalty=none")
    batch = RolloutMaker(policy, make_config(*changes)).make(INSTANCES, 1)
    batch = replace(batch, trained=tuple(map(repeating, batch.trained)))
    (plain,) = score(batch, make_config(*changes), budget=6)
    (told,) = score(batch, make_config(*changes, "reward.repetition=4", "reward.repetition_ngram=1"), budget=6)
    assert told.terms["repetition"][:, 0].tolist() == [-0.5] * 3
    torch.testing.assert_close(told.advantages, plain.advantages + 4 * (told.terms["repetition"] + 0.5))


def test_dapo_penalises_softly_and_drops_groups_that_agree(policy: Policy, make_config: MakeConfig) -> None:
    config = make_config("algorithm.name=dapo", "algorithm.min_spread=1000", "reward.length_penalty=soft")
    batch = RolloutMaker(policy, config).make(INSTANCES, 1)
    (side,) = score(batch, config, budget=6)
    assert not side.kept.any()
    assert describe(batch, [side])["reward/dropped_groups"] == 1
    lengths = torch.tensor([[action_count(rollout) for rollout in group.rollouts] for group in batch.trained])
    expected = group_advantages(side.rewards + soft_overlong_penalty(lengths, 6, 1), "dapo")
    torch.testing.assert_close(side.advantages, expected)


def test_the_log_shows_every_term_with_its_deviation(policy: Policy, make_config: MakeConfig) -> None:
    config = make_config("reward.variant=paper")
    batch = RolloutMaker(policy, config).make(INSTANCES, 1)
    values = describe(batch, score(batch, config, budget=6))
    for term in ("positive", "negative", "consistency", "hard"):
        assert f"reward/{term}" in values
        assert f"reward/{term}_std" in values
    assert values["reward/positive_std"] > 1e-4
    assert values["reward/negative_std"] < 1e-6  # the paper's negatives train nothing
    assert values["reward/hard_std"] < 1e-6
    assert 1 <= values["vectors/effective_rank"] <= 3
    assert values["rollout/distinct"] > 0
    assert rollout_count(batch)[0] == 9 + 3 + 3
