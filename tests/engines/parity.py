"""One identical batch through the verl engine and the local one; prints how far they are apart, as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import torch
from torch import Tensor

from grace_st.engines.base import Rollout
from grace_train.config import TrainConfig
from grace_train.config_files import load_config
from grace_train.local.loading import load_policy
from grace_train.local.policy import Policy
from grace_train.local.rollouts import Group, RolloutBatch
from grace_train.local.run_folder import RunFolder
from grace_train.local.scoring import score
from grace_train.local.update import Learner
from grace_train.local.views import Views
from grace_train.sections import ClusterConfig
from grace_train.verl_engine.trainer import VerlTrainer


def main(path: str) -> dict[str, Any]:
    config = load_config(path)
    folder = RunFolder(config, resume=False, overwrite=True)
    with Views(config, folder, quiet=True) as views:
        trainer = VerlTrainer(config, folder, views)
        try:
            return compare(trainer, config)
        finally:
            assert trainer.cluster is not None
            trainer.cluster.close()


def compare(trainer: VerlTrainer, config: TrainConfig) -> dict[str, Any]:
    local = dataclasses.replace(
        config,
        engine="local",
        verl={},
        cluster=ClusterConfig(),
        compute=dataclasses.replace(config.compute, device="cpu"),
    )
    policy = load_policy(local, keep_reference=True)
    learner = Learner(policy, local, total_steps=1)
    # 1. The same rollouts, with vectors of one and of the other.
    batch = trainer.maker.make(trainer.sampler.next(), 1)
    again = repooled(batch, policy)
    sides, others = score(batch, config, 6), score(again, local, 6)
    # 2. The same update.
    values, expected = trainer.learner.update(sides, 1), learner.update(others, 1)
    after = apart(vectors(repooled(again, policy)), cluster_vectors(trainer, again))
    divergence = trainer.learner.divergence_from_start(sides)
    # 3. Weights that are written and read again.
    kept = cluster_vectors(trainer, again)
    assert trainer.cluster is not None
    file = str(trainer.folder.training / "weights.pt")
    trainer.cluster.call("save_weights", file, 1, what="weights")
    trainer.learner.update(sides, 2)
    left = apart(kept, cluster_vectors(trainer, again))
    trainer.cluster.call("load_weights", file, what="weights")
    return {
        "left": left,
        "restored": apart(kept, cluster_vectors(trainer, again)),
        "vectors": apart(vectors(batch), vectors(again)),
        "rewards": max(apart(a.rewards, b.rewards) for a, b in zip(sides, others, strict=True)),
        "advantages": max(apart(a.advantages, b.advantages) for a, b in zip(sides, others, strict=True)),
        "grad_norm": abs(values["loss/grad_norm"] / expected["loss/grad_norm"] - 1),
        "loss": abs(values["loss/policy"] - expected["loss/policy"]),
        "surprise": abs(values["loss/surprise"] / expected["loss/surprise"] - 1),
        "gap": values["loss/logprob_gap"],
        "names": sorted(set(values) ^ set(expected)),
        "vectors_after_update": after,
        "moved": apart(vectors(again), vectors(repooled(again, policy))),
        "divergence": divergence,
        "divergence_local": learner.divergence_from_start(others),
    }


def repooled(batch: RolloutBatch, policy: Policy) -> RolloutBatch:
    def group(own: Group) -> Group:
        return dataclasses.replace(own, rollouts=tuple(rollout(own, item) for item in own.rollouts))

    def rollout(own: Group, item: Rollout) -> Rollout:
        found = policy.module.rollouts([own.prompt], rationales=[item.ids])[0]
        return dataclasses.replace(item, vector=found.vector)

    return dataclasses.replace(
        batch, trained=tuple(map(group, batch.trained)), anchors=tuple(map(group, batch.anchors))
    )


def cluster_vectors(trainer: VerlTrainer, batch: RolloutBatch) -> Tensor:
    groups = [*batch.trained, *batch.anchors]
    prompts = [group.prompt for group in groups for _ in group.rollouts]
    rationales = [item.ids for group in groups for item in group.rollouts]
    return torch.from_numpy(trainer.module.vectors(prompts, rationales))


def vectors(batch: RolloutBatch) -> Tensor:
    return torch.cat([group.vectors for group in (*batch.trained, *batch.anchors)])


def apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


if __name__ == "__main__":
    found = main(sys.argv[1])
    sys.stdout.write("\nPARITY " + json.dumps(found) + "\n")
