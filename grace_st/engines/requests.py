"""What all engines do alike with the prompts of a call, most of it before work starts. Knows token ids only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grace_st.config import PoolingSpan
from grace_st.engines.base import Engine, OnRollout, Progress, PromptTokens, Rollout, Sampling


def check_requests(
    prompts: Sequence[PromptTokens],
    budgets: Sequence[int],
    rationales: Sequence[Sequence[int]] | None = None,
    *,
    context_length: int | None,
    vocabulary_size: int,
) -> None:
    """Refuse prompts that a model cannot take.

    Args:
        prompts: The prompts.
        budgets: Tokens that follow each of them.
        rationales: Given ones, if any.
        context_length: Longest sequence in tokens; None where there is no limit.
        vocabulary_size: How many token ids have an embedding.

    Raises:
        ValueError: There is not one rationale for each prompt, a token id has no embedding, a prompt is empty, or one
            is too long with its budget.
    """
    if rationales is not None and len(prompts) != len(rationales):
        raise ValueError(f"got {len(prompts)} prompts and {len(rationales)} rationales: one of each is needed")
    for kind, sequences in (("prompt", [prompt.ids for prompt in prompts]), ("rationale", rationales or ())):
        for index, ids in enumerate(sequences):
            if ids and not (min(ids) >= 0 and max(ids) < vocabulary_size):
                wrong = next(item for item in ids if not 0 <= item < vocabulary_size)
                raise ValueError(
                    f"{kind} {index} has the token id {wrong}, but the model has embeddings for 0 to "
                    f"{vocabulary_size - 1} only: resize its embeddings, or remove what was added to the tokenizer"
                )
    for index, (prompt, budget) in enumerate(zip(prompts, budgets, strict=True)):
        if not prompt.ids:
            raise ValueError(f"prompt {index} has no tokens, so there is no state to pool")
        if context_length is not None and len(prompt.ids) + budget > context_length:
            raise ValueError(
                f"a prompt of {len(prompt.ids)} tokens and {budget} for its rationale exceed the model's context "
                f"of {context_length}: lower max_new_tokens, or max_seq_length so that texts are truncated"
            )


def pooled_from(prompt: PromptTokens, pooling_span: PoolingSpan) -> int:
    """Index of the first pooled token of a prompt.

    The last token of the prompt is always inside: a rationale starts from its state, and an empty text after
    a template without a tail still has a vector.
    """
    last = len(prompt.ids) - 1
    return last if pooling_span == "rationale" else min(prompt.pool_start, last)


def without_rationales(
    engine: Engine,
    prompts: Sequence[PromptTokens],
    sampling: Sampling,
    *,
    progress: Progress | None = None,
    on_rollout: OnRollout | None = None,
) -> list[Rollout]:
    """What `Engine.generate` gives where the budget is 0: the vector of each prompt alone, as often as it is asked for.

    See there for arguments, result and errors.
    """
    rollouts = engine.embed(prompts, [()] * len(prompts), progress=progress)
    if sampling.logprobs:
        rollouts = [replace(rollout, logprobs=()) for rollout in rollouts]
    repeated = [rollout for rollout in rollouts for _ in range(sampling.num_samples)]
    if on_rollout is not None:
        for place, rollout in enumerate(repeated):
            on_rollout(place, rollout)
    return repeated


def check_context(max_seq_length: int, max_new_tokens: int, context_length: int | None) -> None:
    """Refuse limits that the model's context cannot hold.

    Raises:
        ValueError: Names values that fit.
    """
    if context_length is None or max_seq_length + max_new_tokens <= context_length:
        return
    fits = max(1, context_length - max_new_tokens)
    if max_new_tokens < context_length:
        advice = f"max_seq_length={fits} fits this budget"
    else:
        advice = f"for example max_seq_length={context_length // 2}, max_new_tokens={context_length // 4}"
    raise ValueError(
        f"max_seq_length={max_seq_length} and max_new_tokens={max_new_tokens} exceed the model's context of "
        f"{context_length} tokens: {advice}"
    )
