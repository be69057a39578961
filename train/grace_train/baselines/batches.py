"""The batches of `grace_train.data` as sentence-transformers takes them: columns of anchors, positives and negatives.

They are the ones that GRACE would train on with the same seed. No text is in a batch twice, so in-batch negatives are
never false.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset

from grace_st.module import GenerateThenPool
from grace_train.data.batches import BatchSampler
from grace_train.data.instances import Instance, TextInstance, text_key
from grace_train.local.rollouts import prompts_by_instruction


class StepBatches(Dataset[dict[str, Tensor]]):
    """The features of the steps that are left, one batch each, in order.

    Args:
        sampler: Where it is after the steps that are done.
        steps: How many are left.
        module: Makes prompts.
    """

    def __init__(self, sampler: BatchSampler, steps: int, module: GenerateThenPool) -> None:
        self._sampler = sampler
        self._steps = steps
        self._module = module
        self._given = 0

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The next batch.

        Raises:
            IndexError: There is none.
            RuntimeError: It is not the next one: a sampler only goes forward.
        """
        if index >= self._steps:
            raise IndexError(index)
        if index != self._given:
            raise RuntimeError(f"batches are drawn in order: {self._given} comes next, and {index} was asked for")
        self._given += 1
        return columns(self._module, self._sampler.next())


def columns(module: GenerateThenPool, batch: Sequence[Instance | TextInstance]) -> dict[str, Tensor]:
    """The features of a batch of ``B`` instances.

    Returns:
        ``anchor_``, ``positive_`` (``[B, ...]`` each) and, where there are negatives, ``negative_`` (``[N, ...]``, all
        of the batch together: each is a negative of every anchor) before the names of `GenerateThenPool.preprocess`.
        A text alone is anchor and positive.
    """
    texts = [item for item in batch if isinstance(item, TextInstance)]
    pairs = [item for item in batch if isinstance(item, Instance)]
    roles: dict[str, list[tuple[str, str | None]]]
    if texts:
        same = [(item.text, item.instruction) for item in texts]
        roles = {"anchor": same, "positive": same}
    else:
        # The negative of one row may be what another row looks for.
        taken = {text_key(text) for item in pairs for text in (item.query, *item.positives)}
        roles = {
            "anchor": [(item.query, item.query_instruction) for item in pairs],
            "positive": [(item.positive, item.document_instruction) for item in pairs],
            "negative": [
                (text, item.document_instruction)
                for item in pairs
                for text in item.negatives
                if text_key(text) not in taken
            ],
        }
    features: dict[str, Tensor] = {}
    for role, entries in roles.items():
        if entries:
            prompts = prompts_by_instruction(
                module.prompts_of, [text for text, _ in entries], [instruction for _, instruction in entries]
            )
            features |= {f"{role}_{name}": value for name, value in module.features_of(prompts).items()}
    return features
