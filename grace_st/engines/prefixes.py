"""The vectors of a rationale's beginnings, all from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from grace_st.engines.base import PromptTokens, checked
from grace_st.engines.forward import FEED_TOKENS
from grace_st.engines.torch_engine import TorchEngine
from grace_st.pooling import RunningPool


def embed_prefixes(
    engine: TorchEngine,
    prompts: Sequence[PromptTokens],
    rationales: Sequence[Sequence[int]],
    budgets: Sequence[int],
) -> Tensor:
    """The vectors that the first tokens of given rationales have, for several numbers of tokens.

    A token's state depends on nothing behind it, so a shorter rationale has the states that the whole one begins with:
    one pass gives what `TorchEngine.embed` gives of each cut rationale.

    Args:
        engine: Computes and pools.
        prompts: ``N`` prompts.
        rationales: Their rationales, ids without EOS; may be empty.
        budgets: ``B`` numbers of tokens, ascending; a rationale that is shorter counts whole. 0 pools the prompt.

    Returns:
        ``[B, N, d]`` float32 on the CPU, not normalised.

    Raises:
        ValueError: The budgets are not ascending, there is not one rationale for each prompt, a token has no embedding,
            or prompt and rationale do not fit the context.
        NonFiniteVectorError: A vector is not finite.
    """
    if not budgets or budgets[0] < 0 or any(first >= second for first, second in pairwise(budgets)):
        raise ValueError(f"budgets must be ascending integers >= 0, at least one, got {list(budgets)}")
    # What is behind the largest budget is in no vector.
    given = [tuple(rationale)[: budgets[-1]] for rationale in rationales]
    engine.check(prompts, [len(ids) for ids in given], given)
    sequences = [prompt.ids + ids for prompt, ids in zip(prompts, given, strict=True)]
    result = torch.empty(len(budgets), len(prompts), engine.embedding_dimension)
    queue = sorted(range(len(prompts)), key=lambda index: -len(sequences[index]))

    def pool_next(count: int) -> None:
        batch = queue[:count]
        lengths = [(len(prompts[index].ids), len(sequences[index])) for index in batch]
        ends = [[min(prompt + budget, whole) for budget in budgets] for prompt, whole in lengths]
        starts = [engine.pooled_from(prompts[index]) for index in batch]
        pooled = _pool(engine, [sequences[index] for index in batch], starts, ends)
        for row, index in enumerate(batch):
            for place in range(len(budgets)):
                result[place, index] = checked(pooled[place, row], index)
        del queue[: len(batch)]

    with engine.inference():
        while queue:
            width = len(sequences[queue[0]])
            count = min(engine.slots_for(width), max(1, FEED_TOKENS // width), len(queue))
            engine.attempt(partial(pool_next, count), count)
    return result


def _pool(engine: TorchEngine, sequences: list[tuple[int, ...]], starts: list[int], ends: list[list[int]]) -> Tensor:
    """``[B, N, d]`` vectors of the spans from ``starts`` to each of the ``B`` ascending ``ends`` of a sequence."""
    ids, _ = engine.forward.right_padded(sequences)
    hidden, _ = engine.forward.feed(ids, torch.ones_like(ids, dtype=torch.bool), 0, None, want_logits=False)
    columns = torch.arange(ids.shape[1], device=ids.device)
    running = RunningPool.empty(engine.pooling, len(sequences), hidden.shape[2], hidden.device)
    begin = torch.tensor(starts, device=ids.device).unsqueeze(-1)
    pooled = []
    for end in torch.tensor(ends, device=ids.device).T:
        running.add(hidden, (columns >= begin) & (columns < end.unsqueeze(-1)))
        begin = end.unsqueeze(-1)
        pooled.append(running.value().cpu())
    return torch.stack(pooled)
