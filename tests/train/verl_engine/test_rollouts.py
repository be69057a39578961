"""What the trainer asks of a cluster, with a stand-in for it that generates with the local engine."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grace_st.engines.base import PromptTokens, Sampling
from grace_train.data.batches import BatchSampler
from grace_train.data.loading import load_training_data
from grace_train.local.loading import load_policy
from grace_train.local.policy import Policy
from grace_train.local.rollouts import RolloutBatch
from grace_train.local.scoring import describe, score
from grace_train.verl_engine.jobs import ClusterError, Job, Written
from grace_train.verl_engine.policy import ClusterModule, StartModel
from grace_train.verl_engine.rollouts import ClusterRolloutMaker
from grace_train.verl_engine.rows import EmbedRows
from tests.train.local.conftest import MakeConfig


class StandIn:
    """Two workers and an engine, in this process."""

    world_size = 2

    def __init__(self, policy: Policy, fails: frozenset[int] = frozenset()) -> None:
        self.policy = policy
        self.fails = fails
        self.jobs: list[Job] = []

    def generate(
        self, jobs: Sequence[Job], eos: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> list[list[Written] | str]:
        self.jobs += jobs
        return [
            "EngineDeadError: out of memory" if index in self.fails else self._written(job)
            for index, job in enumerate(jobs)
        ]

    def _written(self, job: Job) -> list[Written]:
        written = []
        for ids, seeds in job.prompts:
            for seed in seeds:
                sampling = Sampling(max_new_tokens=6, do_sample=seed is not None, seed=seed or 0, logprobs=True)
                (found,) = self.policy.module.rollouts([PromptTokens(ids, 0)], sampling)
                end = () if found.stop_id is None else (found.stop_id,)
                written.append(Written(found.ids + end, found.logprobs or ()))
        return written

    def sleep(self) -> None:
        """It has no memory to free."""

    def explained(self, cause: str) -> str:
        return cause

    def call(
        self, method: str, *shared: Any, each: Sequence[EmbedRows], what: str
    ) -> list[tuple[list[int], np.ndarray[Any, Any]]]:
        assert method == "embed"
        assert len({len(rows.ids) for rows in each}) == 1  # FSDP's workers make equally many passes
        answers = []
        for rows in each:
            vectors = []
            for ids, start in zip(rows.ids, rows.starts, strict=True):
                with torch.no_grad():
                    states = self.policy.model.get_decoder()(torch.from_numpy(ids.astype(np.int64))[None])
                vectors.append(states.last_hidden_state[0, start:].mean(0).numpy())
            kept = [index for index, place in enumerate(rows.places) if place >= 0]
            answers.append(([rows.places[index] for index in kept], np.stack(vectors)[kept]))
        return answers


Make = Callable[..., tuple[ClusterRolloutMaker, list[Any], StandIn]]


@pytest.fixture
def make(make_config: MakeConfig, tmp_path: Path) -> Make:
    def build(*changes: str, fails: frozenset[int] = frozenset()) -> tuple[ClusterRolloutMaker, list[Any], StandIn]:
        config = make_config("engine=verl", *changes)
        config = dataclasses.replace(config, compute=dataclasses.replace(config.compute, device=None))
        local = dataclasses.replace(config, compute=dataclasses.replace(config.compute, device="cpu"))
        cluster = StandIn(load_policy(local, keep_reference=False), fails)
        module = ClusterModule(StartModel(config, tmp_path / "start"), cluster, 512)  # type: ignore[arg-type]
        data, _ = load_training_data(config.data, config.mode, seed=0)
        return ClusterRolloutMaker(module, config), BatchSampler(data, config.batch_size, 0).next(), cluster

    return build


def everything(batch: RolloutBatch) -> list[tuple[tuple[int, ...], tuple[int, ...], torch.Tensor]]:
    groups = [*batch.trained, *batch.anchors]
    return [(group.prompt.ids, item.ids, item.vector) for group in groups for item in group.rollouts]


@pytest.mark.parametrize(
    ("changes", "samples"),
    [
        ((), [3, 1, 1]),  # of positive, query, negative
        (("reward.variant=symmetric", "rollout.query_group_size=2"), [3, 2, 1]),
        (("algorithm.name=remax",), [4, 1, 1]),  # with the greedy one
    ],
)
def test_an_instance_is_one_job(make: Make, changes: tuple[str, ...], samples: list[int]) -> None:
    maker, instances, cluster = make(*changes)
    batch = maker.make(instances, 1)
    assert [[len(seeds) for _, seeds in job.prompts] for job in cluster.jobs] == [samples] * 3
    assert len(batch.trained) == len(batch.anchors) == len(batch.negatives) == 3
    assert all(len(group.rollouts) == 3 for group in batch.trained)
    assert all((group.greedy is not None) == ("algorithm.name=remax" in changes) for group in batch.trained)


def test_unsupervised_one_more_rollout_is_the_anchor(make: Make, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text number {index} about something of its own\n" for index in range(6)))
    maker, instances, cluster = make("mode=unsupervised", f"data.train={texts}", f"eval.dev={texts}")
    batch = maker.make(instances, 1)
    assert [[len(seeds) for _, seeds in job.prompts] for job in cluster.jobs] == [[4]] * 3
    assert [len(group.rollouts) for group in (*batch.trained, *batch.anchors)] == [3, 3, 3, 1, 1, 1]
    assert [group.prompt for group in batch.trained] == [group.prompt for group in batch.anchors]


def test_vectors_are_those_of_encoding(make: Make) -> None:
    maker, instances, cluster = make()
    for prompt, ids, vector in everything(maker.make(instances, 1)):
        start = next(
            tokens.pool_start
            for group in [maker.module.prompts_of([item.positive, item.query]) for item in instances]
            for tokens in group
            if tokens.ids == prompt
        )
        (expected,) = cluster.policy.module.rollouts([PromptTokens(prompt, start)], rationales=[ids])
        torch.testing.assert_close(vector, expected.vector, rtol=0, atol=1e-5)


def test_random_numbers_depend_on_step_and_text_alone(make: Make) -> None:
    maker, instances, cluster = make()
    first = everything(maker.make(instances, 1))
    again = everything(maker.make(instances, 1))
    assert [ids for _, ids, _ in first] == [ids for _, ids, _ in again]
    alone = everything(maker.make(instances[::-1], 1))
    assert {(prompt, ids) for prompt, ids, _ in first} == {(prompt, ids) for prompt, ids, _ in alone}
    seeds = {seed for job in cluster.jobs[:3] for _, own in job.prompts for seed in own}
    assert len(seeds) == 3 * 5
    maker.make(instances, 2)
    assert not seeds & {seed for job in cluster.jobs[-3:] for _, own in job.prompts for seed in own}


def test_an_instance_that_failed_is_left_out_whole(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    maker, instances, _ = make("cluster.max_lost=0.5", fails=frozenset({1}))
    with caplog.at_level(logging.WARNING):
        batch = maker.make(instances, 1)
    assert len(batch.trained) == 2
    assert batch.in_batch_mask.shape == (2, 2)
    assert maker.lost == 1
    assert "1 of 3 instances could not be generated: EngineDeadError: out of memory" in caplog.text
    sides = score(batch, maker.config, maker.budget)
    assert all(np.isfinite(value) for value in describe(batch, sides).values())


def test_too_many_failures_end_the_run_with_the_cause(make: Make) -> None:
    maker, instances, _ = make(fails=frozenset({0, 2}))
    with pytest.raises(ClusterError, match=r"2 of 3 instances .*max_lost is 0\.1: EngineDeadError: out of memory"):
        maker.make(instances, 1)


def test_the_start_model_is_written_once(make_config: MakeConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(make_config(), engine="verl")
    first = StartModel(config, tmp_path / "start")
    stamp = (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns
    second = StartModel(config, tmp_path / "start")
    assert first.fingerprint == second.fingerprint
    assert (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns == stamp
    assert not (tmp_path / "start" / "modules.json").exists()  # vLLM would take it for an embedding model
