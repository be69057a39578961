"""Generation with a store: what it holds is read, the rest is generated in batches, each kept when it is finished."""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from grace_st.engines.base import OnRollout, Progress, PromptTokens, Rollout, Sampling
from grace_st.store import RationaleStore, StoreBusyError, StoredRollout

logger = logging.getLogger(__name__)

CPU_BATCH = 512
"""Prompts between two writes on a CPU: so many are lost at most when a run is killed. Slots idle only at their end."""

ACCELERATOR_BATCH = 4096

WRITE_EVERY = 256
"""Finished rollouts between two writes where all prompts are generated at once."""

Generate = Callable[[Sequence[PromptTokens], Progress | None, OnRollout | None], list[Rollout]]


@cache
def _opened(path: Path) -> RationaleStore:
    return RationaleStore(path)


def store_of(store: RationaleStore | str | os.PathLike[str]) -> RationaleStore:
    """A store, or the store at a path.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(store, RationaleStore):
        return store
    if not isinstance(store, (str, os.PathLike)):
        raise ValueError(f"store must be a path or a RationaleStore, got {type(store).__name__}: {store!r:.80}")
    # One for each file and process: it is asked for again with each batch.
    return _opened(Path(store).expanduser().absolute())


def check_sampling(sampling: Sampling) -> None:
    """Refuse what a store does not keep.

    Raises:
        ValueError: Several samples or log-probabilities are asked for.
    """
    if sampling.num_samples > 1 or sampling.logprobs:
        what = "logprobs" if sampling.logprobs else f"num_samples={sampling.num_samples}"
        raise ValueError(f"a store keeps one rationale and its vector for each prompt, so {what} needs store=None")


def canonical_sampling(sampling: Sampling) -> dict[str, Any]:
    """What of it rollouts depend on, as JSON values of one type each: 1 and 1.0 are one temperature.

    A seed without sampling, and all but the budget where that is 0, change nothing.
    """
    budget = int(sampling.max_new_tokens)
    if budget == 0:
        return {"max_new_tokens": 0}
    values: dict[str, Any] = {
        "max_new_tokens": budget,
        "do_sample": sampling.do_sample,
        "repetition_penalty": float(sampling.repetition_penalty),
    }
    if sampling.do_sample:
        values |= {
            "temperature": float(sampling.temperature),
            "top_p": float(sampling.top_p),
            "top_k": int(sampling.top_k),
            "seed": int(sampling.seed),
        }
    return values


def prompt_key(prompt: PromptTokens) -> bytes:
    """``[32]`` bytes that two prompts share only when they are the same."""
    return hashlib.sha256(array("q", [prompt.pool_start, *prompt.ids]).tobytes()).digest()


def generate_with_store(
    prompts: Sequence[PromptTokens],
    sampling: Sampling,
    *,
    generate: Generate,
    store: RationaleStore,
    settings: Mapping[str, Any],
    batch_size: int | None,
    progress: Progress | None = None,
) -> list[Rollout]:
    """Rollouts of prompts, each generated only where the store has none.

    Args:
        prompts: The prompts.
        sampling: One greedy or sampled rationale each.
        generate: Generates for some prompts.
        store: The store.
        settings: What all vectors depend on, but for sampling and prompts.
        batch_size: Prompts generated, and then kept, at once; None generates all at once, and keeps finished ones every
            now and then, also where an error ends it.
        progress: Called with the number of prompts that have just been finished.

    Returns:
        One rollout per prompt. Those that another process kept from being written are among them, with a warning.

    Raises:
        StoreNotWritableError: The store is only read, and lacks some; before any is generated.
        StoreFileError: The disk is full.
    """
    check_sampling(sampling)
    space = {**settings, "sampling": canonical_sampling(sampling)}
    keys = [prompt_key(prompt) for prompt in prompts]
    found = {key: _rollout(entry) for key, entry in store.get(space, keys).items()}
    if progress is not None and found:
        progress(sum(key in found for key in keys))
    waiting: dict[bytes, list[int]] = {}
    for index, key in enumerate(keys):
        if key not in found:
            waiting.setdefault(key, []).append(index)
    if waiting:
        store.check_writable()  # before the work, not after it
    order = sorted(waiting, key=lambda key: -len(prompts[waiting[key][0]].ids))  # longest first, as the engine does
    for first in range(0, len(order), batch_size or max(1, len(order))):
        batch = order[first : first + batch_size] if batch_size else order
        work = [prompts[waiting[key][0]] for key in batch]
        if batch_size:
            rollouts = generate(work, progress, None)
            _keep(store, space, dict(zip(batch, rollouts, strict=True)))
        else:
            rollouts = _generate_and_keep(work, batch, generate, store, space, progress)
        found |= dict(zip(batch, rollouts, strict=True))
        if progress is not None:
            progress(sum(len(waiting[key]) - 1 for key in batch))  # repeated texts
    return [found[key] for key in keys]


def _generate_and_keep(
    work: list[PromptTokens],
    keys: list[bytes],
    generate: Generate,
    store: RationaleStore,
    space: Mapping[str, Any],
    progress: Progress | None,
) -> list[Rollout]:
    fresh: dict[bytes, Rollout] = {}

    def finished(place: int, rollout: Rollout) -> None:
        fresh[keys[place]] = rollout
        if len(fresh) >= WRITE_EVERY:
            _keep(store, space, fresh)
            fresh.clear()

    try:
        return generate(work, progress, finished)
    finally:
        if fresh:
            _keep(store, space, fresh)


def _keep(store: RationaleStore, space: Mapping[str, Any], fresh: Mapping[bytes, Rollout]) -> None:
    try:
        store.put(space, {key: _entry(rollout) for key, rollout in fresh.items()})
    except StoreBusyError as error:
        # They are worth more than their copy.
        logger.warning("%d rationales are not kept: %s", len(fresh), error)


def _rollout(entry: StoredRollout) -> Rollout:
    return Rollout(entry.ids, entry.stop_id, torch.from_numpy(entry.vector))


def _entry(rollout: Rollout) -> StoredRollout:
    return StoredRollout(rollout.ids, rollout.stop_id, rollout.vector.numpy())
