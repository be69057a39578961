"""Rollouts of a batch: the roles of its instances, their prompts, and what the engine makes of them.

The engine pools while it generates, so the vectors that rewards need are there when the rationales are: nothing is
encoded again. Texts become prompts exactly as in ``encode``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grace_st.engines.base import PromptTokens, Rollout, Sampling
from grace_train.config import TrainConfig
from grace_train.data.batches import in_batch_mask
from grace_train.data.instances import Instance, TextInstance
from grace_train.local.policy import Policy


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt.

    Attributes:
        prompt: What they answer.
        rollouts: ``K`` of them.
        greedy: The greedy rollout, where the algorithm needs it as a baseline.
    """

    prompt: PromptTokens
    rollouts: tuple[Rollout, ...]
    greedy: Rollout | None = None

    @property
    def vectors(self) -> Tensor:
        """``[K, d]``."""
        return torch.stack([rollout.vector for rollout in self.rollouts])


@dataclass(frozen=True, eq=False)
class RolloutBatch:
    """The rollouts of ``B`` instances.

    Attributes:
        trained: ``B`` groups of ``K`` rollouts: of the positives, or of the texts when unsupervised.
        anchors: ``B`` groups: of the queries (``Kq`` rollouts when they are trained as well, else one), or one more
            rollout of each text when unsupervised.
        negatives: Per instance one rollout of each of its negatives; empty when unsupervised.
        in_batch_mask: ``[B, B]`` bool, True where the second instance may be a negative of the first.
    """

    trained: tuple[Group, ...]
    anchors: tuple[Group, ...]
    negatives: tuple[tuple[Rollout, ...], ...]
    in_batch_mask: Tensor

    @classmethod
    def of_texts(cls, groups: Sequence[Group], in_batch_mask: Tensor) -> RolloutBatch:
        """Unsupervised: the last of each group's ``K + 1`` rollouts is the anchor of the others (Eq. 21).

        Args:
            groups: ``B`` of them.
            in_batch_mask: ``[B, B]`` bool.
        """
        return cls(
            tuple(Group(group.prompt, group.rollouts[:-1], group.greedy) for group in groups),
            tuple(Group(group.prompt, group.rollouts[-1:]) for group in groups),
            tuple(() for _ in groups),
            in_batch_mask,
        )

    @property
    def anchor_vectors(self) -> Tensor:
        """``[B, Kq, d]``."""
        return torch.stack([group.vectors for group in self.anchors])

    @property
    def trained_vectors(self) -> Tensor:
        """``[B, K, d]``."""
        return torch.stack([group.vectors for group in self.trained])

    def negative_vectors(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """``[B, M, d]`` and their mask ``[B, M]``; None where no instance has a negative."""
        most = max((len(row) for row in self.negatives), default=0)
        if most == 0:
            return None, None
        vectors = torch.zeros((len(self.negatives), most, self.trained[0].rollouts[0].vector.shape[0]))
        mask = torch.zeros(vectors.shape[:2], dtype=torch.bool)
        for index, row in enumerate(self.negatives):
            for place, rollout in enumerate(row):
                vectors[index, place] = rollout.vector
                mask[index, place] = True
        return vectors, mask


def role_seed(seed: int, step: int, role: str) -> int:
    """The base seed of the rollouts of one role in one step: other steps and roles get other random numbers."""
    digest = hashlib.blake2b(struct.pack("<qq", seed, step) + role.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def prompts_by_instruction(
    prompts_of: Callable[[Sequence[str], str | None], list[PromptTokens]],
    texts: Sequence[str],
    instructions: Sequence[str | None],
) -> list[PromptTokens]:
    """Prompts of texts that have each an instruction of their own.

    Args:
        prompts_of: Makes the prompts of texts with one instruction.
        texts: ``n`` texts.
        instructions: ``n`` instructions.
    """
    prompts: list[PromptTokens | None] = [None] * len(texts)
    for instruction in dict.fromkeys(instructions):
        places = [place for place, other in enumerate(instructions) if other == instruction]
        made = prompts_of([texts[place] for place in places], instruction)
        for place, prompt in zip(places, made, strict=True):
            prompts[place] = prompt
    return [prompt for prompt in prompts if prompt is not None]


class RolloutMaker:
    """Makes the rollouts of batches.

    Args:
        policy: The model.
        config: The run.
    """

    def __init__(self, policy: Policy, config: TrainConfig) -> None:
        self.policy = policy
        self.config = config
        self.budget = policy.module.max_new_tokens

    def make(self, batch: Sequence[Instance | TextInstance], step: int) -> RolloutBatch:
        """The rollouts of a batch, supervised or not.

        Args:
            batch: ``B`` instances, all of one kind.
            step: Decides the random numbers, together with the run's seed.
        """
        instances = [item for item in batch if isinstance(item, Instance)]
        texts = [item for item in batch if isinstance(item, TextInstance)]
        return self._supervised(instances, step) if instances else self._unsupervised(texts, step)

    def _supervised(self, instances: Sequence[Instance], step: int) -> RolloutBatch:
        """One group for each positive and query, one rollout for each negative."""
        documents = [instance.document_instruction for instance in instances]
        positives = self._prompts([instance.positive for instance in instances], documents)
        queries = self._prompts(
            [instance.query for instance in instances], [instance.query_instruction for instance in instances]
        )
        negatives = self._prompts(
            [text for instance in instances for text in instance.negatives],
            [instance.document_instruction for instance in instances for _ in instance.negatives],
        )
        trained = self._groups(positives, self.config.rollout.group_size, step, "positive")
        if self.config.is_symmetric:
            anchors = self._groups(queries, self.config.query_rollouts, step, "query")
            written = self._generate(negatives, 1, role_seed(self.config.seed, step, "negative"))
        else:
            # Together, so that the engine's slots are full.
            rollouts = self._generate([*queries, *negatives], 1, role_seed(self.config.seed, step, "anchor"))
            anchors = tuple(
                Group(prompt, (rollout,)) for prompt, rollout in zip(queries, rollouts[: len(queries)], strict=True)
            )
            written = rollouts[len(queries) :]
        remaining = iter(written)
        return RolloutBatch(
            trained,
            anchors,
            tuple(tuple(next(remaining) for _ in instance.negatives) for instance in instances),
            torch.as_tensor(in_batch_mask(instances)),
        )

    def _unsupervised(self, texts: Sequence[TextInstance], step: int) -> RolloutBatch:
        """``K`` rollouts of each text, and one more that is the anchor."""
        prompts = self._prompts([item.text for item in texts], [item.instruction for item in texts])
        groups = self._groups(prompts, self.config.rollout.group_size + 1, step, "text")
        return RolloutBatch.of_texts(groups, torch.as_tensor(in_batch_mask(texts)))

    def _prompts(self, texts: Sequence[str], instructions: Sequence[str | None]) -> list[PromptTokens]:
        return prompts_by_instruction(self.policy.module.prompts_of, texts, instructions)

    def _groups(self, prompts: Sequence[PromptTokens], size: int, step: int, role: str) -> tuple[Group, ...]:
        rollouts = self._generate(prompts, size, role_seed(self.config.seed, step, role))
        greedy: Sequence[Rollout | None] = [None] * len(prompts)
        if self.config.algorithm.name == "remax":
            greedy = self._call(prompts, Sampling(max_new_tokens=self.budget))
        return tuple(
            Group(prompt, tuple(rollouts[index * size : (index + 1) * size]), greedy[index])
            for index, prompt in enumerate(prompts)
        )

    def _generate(self, prompts: Sequence[PromptTokens], count: int, seed: int) -> list[Rollout]:
        temperature = self.config.rollout.temperature
        sampling = Sampling(
            max_new_tokens=self.budget,
            do_sample=True,
            temperature=temperature,
            seed=seed,
            num_samples=count,
            logprobs=True,
        )
        return self._call(prompts, sampling)

    def _call(self, prompts: Sequence[PromptTokens], sampling: Sampling) -> list[Rollout]:
        if not prompts:
            return []
        with self.policy.autocast():
            return self.policy.module.rollouts(prompts, sampling)
