"""Encoding: a vector together with the rationale that it was pooled from; and how to get one for each text."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from grace_st.engines.base import Progress, Rollout
from grace_st.module import GenerateThenPool
from grace_st.store import RationaleStore
from grace_st.truncation import one_truncation_warning

WINDOW = 4096
"""Texts handed to the engine at once. Its slots stand idle only at the end of a window."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """What a text was encoded to.

    Attributes:
        embedding: ``[d]`` float32, not normalised.
        rationale: The rationale as text, special tokens left out.
        rationale_ids: Its token ids, without the terminating EOS.
        finished: Whether the model ended the rationale itself (EOS was produced). False where the budget cut it
            off, where it was empty by request, and where it was given.
        truncated: Whether the text was cut to fit into ``max_seq_length``.
    """

    embedding: np.ndarray
    rationale: str
    rationale_ids: list[int]
    finished: bool
    truncated: bool = False


def encode_with_rationales(
    model: SentenceTransformer,
    texts: str | Sequence[str],
    *,
    rationales: Sequence[str | Sequence[int]] | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    show_progress_bar: bool = False,
    progress: Progress | None = None,
    store: RationaleStore | str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Encoding]:
    """Encode texts and keep their rationales.

    Gives the vectors that ``model.encode`` gives (before ``truncate_dim``, ``normalize_embeddings`` and
    ``precision``), and works on stock `SentenceTransformer` objects. Texts go to the engine in large windows, longest
    first; memory beyond the result does not grow with their number.

    Args:
        model: A model whose first module is a `GenerateThenPool`.
        texts: Texts; a single string counts as a list of one.
        rationales: Instead of generating, pool the states of these rationales, one for each text: token ids
            (exact, e.g. from an `Encoding`) or strings.
        prompt: Instruction that goes before each text.
        prompt_name: Name of one of ``model.prompts``, used when ``prompt`` is None.
        show_progress_bar: Show how many texts are finished.
        progress: Called with the number of texts that have just been finished.
        store: A `RationaleStore` or its path. What it holds is not generated again, and what is generated is kept in
            it batch by batch, so that a call that was killed goes on where it was.
        options: Per-call options: ``max_new_tokens``, ``do_sample``, ``temperature``, ``top_p``, ``top_k``,
            ``repetition_penalty``, ``seed``. With ``rationales`` none of them applies.

    Returns:
        One encoding per text, in order.

    Raises:
        ValueError: An option, a text or the number of rationales is wrong, or the model cannot generate.
    """
    module = grace_module(model)
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, (bytes, Mapping)):
        raise ValueError(f"texts must be a list of strings, got {type(texts).__name__}: {texts!r:.80}")
    texts = list(texts)
    check_texts(texts)
    given = None if rationales is None else _given_ids(module, rationales, len(texts), options)
    sampling = module.sampling(**options)
    if not texts:
        return []
    instruction = instruction_of(model, prompt, prompt_name)
    model.eval()
    encodings: dict[int, Encoding] = {}
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))

    def advance(count: int) -> None:
        bar.update(count)
        if progress is not None:
            progress(count)

    with (
        one_truncation_warning(),
        tqdm(total=len(texts), desc="Texts", unit="text", disable=not show_progress_bar) as bar,
    ):
        for first in range(0, len(order), WINDOW):
            window = order[first : first + WINDOW]
            prompts = module.prompts_of([texts[index] for index in window], instruction)
            rollouts = module.rollouts(
                prompts,
                sampling,
                rationales=None if given is None else [given[index] for index in window],
                progress=advance,
                store=store,
            )
            vectors = through_later_modules(model, rollouts)
            for index, tokens, rollout, vector in zip(window, prompts, rollouts, vectors, strict=True):
                rationale = module.prompt.decode(rollout.ids)
                encodings[index] = Encoding(vector, rationale, list(rollout.ids), rollout.finished, tokens.truncated)
    return [encodings[index] for index in range(len(texts))]


def check_texts(texts: Sequence[Any]) -> None:
    """Refuse what is not a text before work starts.

    Raises:
        ValueError: Names the place and the value.
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {index} must be a string, got {type(text).__name__}: {text!r:.80}")


def grace_module(model: SentenceTransformer) -> GenerateThenPool:
    """The generating module of a model.

    Raises:
        ValueError: The model has none.
    """
    first = model[0]
    if not isinstance(first, GenerateThenPool):
        raise ValueError(
            f"the first module is {type(first).__name__}, which writes no rationales: convert a causal LM with "
            "grace_st.convert and load the folder"
        )
    return first


def _given_ids(
    module: GenerateThenPool, rationales: Sequence[str | Sequence[int]], count: int, options: dict[str, Any]
) -> list[tuple[int, ...]]:
    if not isinstance(rationales, str):
        rationales = list(rationales)
    if isinstance(rationales, str) or len(rationales) != count:
        got = "a single string" if isinstance(rationales, str) else str(len(rationales))
        raise ValueError(f"rationales must be a list with one rationale for each of the {count} texts, got {got}")
    if options:
        raise ValueError(f"{sorted(options)[0]!r} has no effect on given rationales: leave it out")
    stops = set(module.config.eos_token_ids)
    vocabulary_size = module.vocabulary_size
    result = []
    for index, rationale in enumerate(rationales):
        try:
            ids = (
                module.prompt.rationale_ids(rationale)
                if isinstance(rationale, str)
                else tuple(operator.index(token_id) for token_id in rationale)
            )
        except TypeError as error:
            raise ValueError(
                f"rationale {index} must be a string or a list of token ids, got {rationale!r:.80}"
            ) from error
        unknown = next((token_id for token_id in ids if not 0 <= token_id < vocabulary_size), None)
        if unknown is not None:
            raise ValueError(
                f"rationale {index} has the token id {unknown}, but the model has embeddings for 0 to "
                f"{vocabulary_size - 1} only: it was made by another model, or its tokenizer has grown"
            )
        result.append(ids[:-1] if ids and ids[-1] in stops else ids)
    return result


def instruction_of(model: SentenceTransformer, prompt: str | None, prompt_name: str | None) -> str | None:
    """The instruction that goes before a text: the given one, or one of the model's prompts by its name.

    Raises:
        ValueError: The model has no prompt of that name.
    """
    if prompt is not None:
        return prompt
    name = prompt_name if prompt_name is not None else model.default_prompt_name
    if name is None:
        return None
    if name not in model.prompts:
        raise ValueError(f"prompt_name {name!r} is not one of the model's prompts: {', '.join(model.prompts)}")
    return model.prompts[name]


def through_later_modules(model: SentenceTransformer, rollouts: Sequence[Rollout]) -> np.ndarray:
    """``[N, d]`` float32: what modules after ours (a projection, say) make of the pooled vectors."""
    vectors = torch.stack([rollout.vector for rollout in rollouts])
    later = list(model.children())[1:]
    if later:
        features: dict[str, Any] = {"sentence_embedding": vectors.to(model.device)}
        with torch.no_grad():
            for module in later:
                features = module(features)
        vectors = features["sentence_embedding"].float().cpu()
    return vectors.numpy()
