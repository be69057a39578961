"""Encoding: a vector together with the rationale that it was pooled from; and how to get one for each text."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from grace_st.engines.base import Rollout
from grace_st.module import GenerateThenPool


@dataclass(frozen=True, eq=False)
class Encoding:
    """What a text was encoded to.

    Attributes:
        embedding: ``[d]`` float32, not normalised.
        rationale: The rationale as text, special tokens left out.
        rationale_ids: Its token ids, without the terminating EOS.
        finished: Whether the model ended the rationale itself (EOS was produced). False where the budget cut it
            off, where it was empty by request, and where it was given.
    """

    embedding: np.ndarray
    rationale: str
    rationale_ids: list[int]
    finished: bool


def encode_with_rationales(
    model: SentenceTransformer,
    texts: str | Sequence[str],
    *,
    rationales: Sequence[str | Sequence[int]] | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    show_progress_bar: bool = False,
    **options: Any,
) -> list[Encoding]:
    """Encode texts and keep their rationales.

    Gives the vectors that ``model.encode`` gives (before ``truncate_dim``, ``normalize_embeddings`` and
    ``precision``), and works on stock `SentenceTransformer` objects. All texts go to the engine at once.

    Args:
        model: A model whose first module is a `GenerateThenPool`.
        texts: Texts; a single string counts as a list of one.
        rationales: Instead of generating, pool the states of these rationales, one for each text: token ids
            (exact, e.g. from an `Encoding`) or strings.
        prompt: Instruction that goes before each text.
        prompt_name: Name of one of ``model.prompts``, used when ``prompt`` is None.
        show_progress_bar: Show how many texts are finished.
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
    given = None if rationales is None else _given_ids(module, rationales, len(texts), options)
    sampling = module.sampling(**options)
    if not texts:
        return []
    instruction = _instruction(model, prompt, prompt_name)
    prompts = module.prompts_of(texts, instruction)
    model.eval()
    with tqdm(total=len(texts), desc="Texts", unit="text", disable=not show_progress_bar) as bar:
        rollouts = module.rollouts(prompts, sampling, rationales=given, progress=lambda n: _advance(bar, n))
    vectors = _through_later_modules(model, rollouts)
    return [
        Encoding(vector, module.prompt.decode(rollout.ids), list(rollout.ids), rollout.finished)
        for vector, rollout in zip(vectors, rollouts, strict=True)
    ]


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
        result.append(ids[:-1] if ids and ids[-1] in stops else ids)
    return result


def _instruction(model: SentenceTransformer, prompt: str | None, prompt_name: str | None) -> str | None:
    if prompt is not None:
        return prompt
    name = prompt_name if prompt_name is not None else model.default_prompt_name
    if name is None:
        return None
    if name not in model.prompts:
        raise ValueError(f"prompt_name {name!r} is not one of the model's prompts: {', '.join(model.prompts)}")
    return model.prompts[name]


def _advance(bar: Any, count: int) -> None:
    bar.update(count)


def _through_later_modules(model: SentenceTransformer, rollouts: Sequence[Rollout]) -> np.ndarray:
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
