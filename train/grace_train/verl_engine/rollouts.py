"""Rollouts of a batch on a cluster: all of them at once, an instance whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from grace_st.engines.base import PromptTokens, Rollout
from grace_train.config import TrainConfig
from grace_train.data.batches import in_batch_mask
from grace_train.data.instances import Instance, TextInstance
from grace_train.local.rollouts import Group, RolloutBatch, prompts_by_instruction, role_seed
from grace_train.verl_engine.jobs import ClusterError, Job, Written
from grace_train.verl_engine.policy import ClusterModule

logger = logging.getLogger(__name__)

UNSEEDED = -1


@dataclass(frozen=True)
class Request:
    """The samples of one prompt.

    Attributes:
        role: ``positive``, ``query``, ``negative`` or ``text``: other roles draw other random numbers.
        prompt: The prompt.
        count: How many samples.
        greedy: Also the greedy rollout.
    """

    role: str
    prompt: PromptTokens
    count: int
    greedy: bool = False


class ClusterRolloutMaker:
    """Makes the rollouts of batches.

    Args:
        module: Prompts, and vectors of what was written.
        config: The run.

    Attributes:
        lost: Instances of the last batch that could not be generated.
    """

    def __init__(self, module: ClusterModule, config: TrainConfig) -> None:
        self.module = module
        self.config = config
        self.budget = module.max_new_tokens
        self.lost = 0

    def make(self, batch: Sequence[Instance | TextInstance], step: int) -> RolloutBatch:
        """The rollouts of a batch, supervised or not.

        Args:
            batch: ``B`` instances, all of one kind.
            step: Decides the random numbers, together with the run's seed.

        Raises:
            ClusterError: More instances than ``cluster.max_lost`` allows could not be generated.
        """
        requests = self._requests(batch)
        jobs = [self._job(own, step) for own in requests]
        found = self.module.cluster.generate(jobs, self.module.config.eos_token_ids)
        kept = self._whole(found)
        written = [item for index in kept for item in found[index] if isinstance(item, Written)]
        prompts = [
            request.prompt
            for index in kept
            for request in requests[index]
            for _ in range(request.count + request.greedy)
        ]
        rollouts = iter(self.module.pooled(prompts, written))
        groups = [[_group(request, rollouts) for request in requests[index]] for index in kept]
        return self._batch([batch[index] for index in kept], groups)

    def _whole(self, found: Sequence[list[Written] | str]) -> list[int]:
        """The instances that are complete; a group with a rollout missing would have a wrong mean."""
        causes = [item for item in found if isinstance(item, str)]
        self.lost = len(causes)
        kept = [index for index, item in enumerate(found) if not isinstance(item, str)]
        if causes:
            logger.warning("%d of %d instances could not be generated: %s", len(causes), len(found), causes[0])
        if len(causes) > self.config.cluster.max_lost * len(found) or (len(kept) < 2 <= len(found)):
            raise ClusterError(
                f"{len(causes)} of {len(found)} instances could not be generated, and cluster.max_lost is "
                f"{self.config.cluster.max_lost}: {self.module.cluster.explained(causes[0])}"
            )
        return kept

    def _requests(self, batch: Sequence[Instance | TextInstance]) -> list[list[Request]]:
        size = self.config.rollout.group_size
        greedy = self.config.algorithm.name == "remax"
        instances = [item for item in batch if isinstance(item, Instance)]
        texts = [item for item in batch if isinstance(item, TextInstance)]
        if texts:
            prompts = self._prompts([item.text for item in texts], [item.instruction for item in texts])
            return [[Request("text", prompt, size + 1, greedy)] for prompt in prompts]
        documents = [item.document_instruction for item in instances]
        positives = self._prompts([item.positive for item in instances], documents)
        queries = self._prompts([item.query for item in instances], [item.query_instruction for item in instances])
        negatives = iter(
            self._prompts(
                [text for item in instances for text in item.negatives],
                [item.document_instruction for item in instances for _ in item.negatives],
            )
        )
        return [
            [
                Request("positive", positive, size, greedy),
                Request("query", query, self.config.query_rollouts, greedy and self.config.is_symmetric),
                *(Request("negative", next(negatives), 1) for _ in item.negatives),
            ]
            for item, positive, query in zip(instances, positives, queries, strict=True)
        ]

    def _prompts(self, texts: Sequence[str], instructions: Sequence[str | None]) -> list[PromptTokens]:
        return prompts_by_instruction(self.module.prompts_of, texts, instructions)

    def _job(self, requests: Sequence[Request], step: int) -> Job:
        prompts = []
        for request in requests:
            base = role_seed(self.config.seed, step, request.role)
            seeds: list[int | None] = [
                _sample_seed(base, request.prompt.ids, sample) if self.config.cluster.seeded else UNSEEDED
                for sample in range(request.count)
            ]
            prompts.append((request.prompt.ids, (*seeds, *((None,) if request.greedy else ()))))
        return Job(tuple(prompts))

    def _batch(self, instances: Sequence[Instance | TextInstance], groups: Sequence[list[Group]]) -> RolloutBatch:
        mask = torch.as_tensor(in_batch_mask(instances))
        if self.config.mode == "unsupervised":
            return RolloutBatch.of_texts([group for (group,) in groups], mask)
        return RolloutBatch(
            tuple(own[0] for own in groups),
            tuple(own[1] for own in groups),
            tuple(tuple(group.rollouts[0] for group in own[2:]) for own in groups),
            mask,
        )


def _group(request: Request, rollouts: Iterator[Rollout]) -> Group:
    own = tuple(islice(rollouts, request.count))
    return Group(request.prompt, own, next(rollouts) if request.greedy else None)


def _sample_seed(base: int, prompt: Sequence[int], sample: int) -> int:
    """A seed that depends on the prompt and the sample's index, not on the batch."""
    digest = hashlib.blake2b(struct.pack("<qq", base, sample), digest_size=8)
    digest.update(struct.pack(f"<{len(prompt)}q", *prompt))
    return int.from_bytes(digest.digest(), "little") >> 1
