"""Steps of this package's local engine, one at a time; started by `train_step.py`.

The trainer is the one of ``grace-st train``, log and health checks included. What differs: no rationale ends before its
budget, nothing is evaluated or saved, and with ``anchors`` off the queries and negatives are left out, so that a step
samples and trains the same rollouts as one of TRL's.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import CallTimer
from stepping import Channel, never_ends, peak_bytes

import grace_st
from grace_st.engines import decoding
from grace_train.config import TrainConfig
from grace_train.data.batches import BatchSampler, in_batch_mask
from grace_train.data.instances import Instance, TextInstance
from grace_train.data.loading import load_training_data
from grace_train.local import trainer as training
from grace_train.local.rollouts import Group, RolloutBatch, RolloutMaker
from grace_train.local.run_folder import RunFolder
from grace_train.local.scoring import rollout_count
from grace_train.local.views import Views


def config_of(spec: Mapping[str, Any], output: str) -> TrainConfig:
    """The training run that a specification describes."""
    return TrainConfig.from_dict(
        {
            "model": "grace-nano",
            "output": output,
            "seed": spec["seed"],
            "steps": spec["steps"],
            "batch_size": spec["batch"],
            "data": {"train": "nano", "negatives": spec["negatives"]},
            "prompt": {"max_new_tokens": spec["tokens"]},
            "rollout": {"group_size": spec["group"]},
            # Every rationale fills its budget here, so a penalty for that would say nothing.
            "reward": {"variant": "per_rollout", "length_penalty": "none"},
            "optimizer": {"learning_rate": spec["learning_rate"], "max_grad_norm": 1.0},
            "compute": {"device": "cpu", "precision": "fp32", "threads": spec["threads"]},
            "eval": {"every": 0},
            "log": {"tensorboard": False, "curves": False, "sample_texts": 0},
            "stop": {"eos_rate_zero_steps": 0, "collapse_steps": 0},
        }
    )


def workload(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompts of each step, as the trainer will draw them: text, token ids and first pooled token.

    Returns:
        Per step ``positives`` (``B`` of them), ``queries`` (``B``) and ``negatives`` (a list for each instance).
    """
    config = config_of(spec, "unused")
    data, _ = load_training_data(config.data, config.mode, seed=config.seed, max_queries=None)
    sampler = BatchSampler(data, config.batch_size, config.seed)
    module = grace_st.load(grace_st.nano_path())[0]
    head, tail = module.config.head, module.config.tail

    def prompt(text: str) -> dict[str, Any]:
        (made,) = module.prompts_of([text])
        if made.truncated:
            raise RuntimeError(f"a text of the bundled data does not fit into the prompt: {text!r:.80}")
        return {"text": f"{head}{text}{tail}", "ids": list(made.ids), "pool_start": made.pool_start}

    steps = []
    for _ in range(config.steps or 0):
        batch = [item for item in sampler.next() if isinstance(item, Instance)]
        steps.append(
            {
                "positives": [prompt(item.positive) for item in batch],
                "queries": [prompt(item.query) for item in batch],
                "negatives": [[prompt(text) for text in item.negatives] for item in batch],
            }
        )
    return steps


class CountedRollouts(RolloutMaker):
    """Rollouts as in training, and how many it were."""

    sampled = 0

    def make(self, batch: Sequence[Instance | TextInstance], step: int) -> RolloutBatch:
        """As the base class."""
        made = super().make(batch, step)
        self.sampled, _ = rollout_count(made)
        return made


class TrainedRollouts(CountedRollouts):
    """Rollouts of the positives alone; the first one of each group stands in for the query in the reward."""

    def make(self, batch: Sequence[Instance | TextInstance], step: int) -> RolloutBatch:
        """As the base class; what stands in was not sampled for that."""
        made = super().make(batch, step)
        self.sampled -= sum(len(group.rollouts) for group in made.anchors)
        return made

    def _supervised(self, instances: Sequence[Instance], step: int) -> RolloutBatch:
        prompts = self._prompts(
            [instance.positive for instance in instances], [instance.document_instruction for instance in instances]
        )
        trained = self._groups(prompts, self.config.rollout.group_size, step, "positive")
        anchors = tuple(Group(group.prompt, group.rollouts[:1]) for group in trained)
        nobody: tuple[tuple[Any, ...], ...] = tuple(() for _ in instances)
        return RolloutBatch(trained, anchors, nobody, torch.as_tensor(in_batch_mask(instances)))


class SteppedTrainer(training.Trainer):
    """The trainer, with a step as something that can be asked for."""

    def prepare(self, *, anchors: bool) -> None:
        """Before the first step."""
        never_ends(self.policy.model, self.policy.module.config.eos_token_ids)
        self.rollouts = (CountedRollouts if anchors else TrainedRollouts)(self.policy, self.config)
        self.maker = self.rollouts
        self.folder.begin(self.config)
        self.views.start(self.total)

    def advance(self) -> dict[str, Any]:
        """A step, with its log, and what it cost."""
        score = CallTimer([(training, "score"), (training, "describe")], False)
        pool = decoding.RunningPool
        pooling = CallTimer([(pool, "add"), (pool, "select"), (pool, "replace"), (pool, "value")], False)
        update = CallTimer([(self.learner, "update")], False)
        make = CallTimer([(self.maker, "make")], False)
        with score, pooling, update, make:
            started, started_cpu = time.perf_counter(), time.process_time()
            sides = self._advance()
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
        rollouts = [rollout for side in sides for group in side.groups for rollout in group.rollouts]
        if any(len(rollout.ids) != self.config.prompt.max_new_tokens for rollout in rollouts):
            raise RuntimeError("a rationale did not fill its budget")
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "sampled": self.rollouts.sampled,
            "updated": len(rollouts),
            "parts": {
                "sampling": make.seconds - pooling.seconds,
                "pooling": pooling.seconds,
                "reward": score.seconds,
                "update": update.seconds,
            },
            "peak_bytes": peak_bytes(),
        }


class Trainers:
    """The trainers of the sizes, made when they are first needed.

    Args:
        spec: What is measured.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self._made: dict[int, tuple[SteppedTrainer, Views]] = {}

    def of(self, number: int) -> SteppedTrainer:
        """That of a size. Where steps of the sizes come one after the other, the one before makes room."""
        if number not in self._made:
            if not self.spec["keep_sizes"]:
                self.close()
            self._made[number] = self._make(number)
        return self._made[number][0]

    def _make(self, number: int) -> tuple[SteppedTrainer, Views]:
        config = config_of(
            {**self.spec, **self.spec["sizes"][number]}, str(Path(self.spec["folder"]) / f"run-{number}")
        )
        folder = RunFolder(config, resume=False, overwrite=False)
        views = Views(config, folder, quiet=True)
        trainer = SteppedTrainer(config, folder, views)
        trainer.prepare(anchors=self.spec["anchors"])
        return trainer, views

    def close(self) -> None:
        """Close the logs of all trainers, and let go of them."""
        for _, views in self._made.values():
            views.__exit__()
        self._made.clear()
        gc.collect()


def main() -> None:
    """Take steps as told."""
    channel = Channel()
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    trainers = Trainers(spec)
    parameters = sum(parameter.numel() for parameter in trainers.of(0).policy.model.parameters())
    channel.send({"parameters": parameters})
    while (number := channel.next_size()) is not None:
        channel.send(trainers.of(number).advance())
    trainers.close()


if __name__ == "__main__":
    main()
