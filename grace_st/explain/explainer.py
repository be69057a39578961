"""Explaining with a model: texts to rationales, to states, to contributions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from grace_st.encoding import Encoding, check_texts, encode_with_rationales, grace_module, instruction_of
from grace_st.engines.base import Progress, PromptTokens
from grace_st.engines.torch_engine import TorchEngine
from grace_st.explain import attribution
from grace_st.explain.explanation import ExplainedText, Explanation, RationaleEnd
from grace_st.explain.ranking import DocumentId, RankedDocument, RankingExplanation
from grace_st.explain.spans import Span, sentence_spans
from grace_st.module import GenerateThenPool
from grace_st.store import RationaleStore
from grace_st.surrogates import encodable
from grace_st.truncation import one_truncation_warning

MEAN_POOLINGS = ("mean", "mean_penultimate")


def explain_pair(
    model: SentenceTransformer,
    text_a: str,
    text_b: str,
    *,
    rationales: tuple[str | Sequence[int], str | Sequence[int]] | None = None,
    prompt: str | tuple[str | None, str | None] | None = None,
    prompt_name: str | tuple[str | None, str | None] | None = None,
    store: RationaleStore | str | os.PathLike[str] | None = None,
    **options: Any,
) -> Explanation:
    """Why two texts are as close as they are: their cosine, split exactly into contributions of spans.

    The vectors are those that `encode` gives, means of token states, so the cosine is a sum over pairs of tokens; see
    `grace_st.explain.attribution`. It takes one forward pass over prompt and rationale of each text beyond encoding.

    Args:
        model: A model whose first module is a `GenerateThenPool`.
        text_a: The first text.
        text_b: The second text.
        rationales: One for each text, strings or token ids, instead of generating them.
        prompt: Instruction before the texts, or a pair of them.
        prompt_name: Name of one of ``model.prompts``, or a pair: ``("query", "document")``.
        store: Where rationales are kept, see `grace_st.encode_with_rationales`.
        options: Per-call options of `grace_st.encode_with_rationales`.

    Raises:
        ValueError: The pooling is no mean, later modules change the vectors, the engine gives no states of single
            tokens, or an argument is wrong.
    """
    module = explainable_module(model)
    texts = [text_a, text_b]
    check_texts(texts)
    prompts, names = _pair("prompt", prompt), _pair("prompt_name", prompt_name)
    if rationales is not None and (isinstance(rationales, str) or len(rationales) != 2):
        raise ValueError(f"rationales must be a pair, one for each text, got {rationales!r:.80}")
    instructions = [instruction_of(model, *chosen) for chosen in zip(prompts, names, strict=True)]
    # Also refuses what is wrong before work starts.
    budget = module.sampling(**options).max_new_tokens if rationales is None else None
    reader = _Reader(model, module, budget)
    with one_truncation_warning():
        # Together where they can be, so that equal texts are generated once and others side by side.
        together = instructions[0] == instructions[1]
        encodings: list[Encoding] = []
        for chosen in [slice(0, 2)] if together else [slice(0, 1), slice(1, 2)]:
            encodings += encode_with_rationales(
                model,
                texts[chosen],
                rationales=None if rationales is None else list(rationales)[chosen],
                prompt=instructions[chosen.start] or "",
                store=store,
                **options,
            )
        a, b = (
            reader.read(text, instruction, encoding)
            for text, instruction, encoding in zip(texts, instructions, encodings, strict=True)
        )
    return _explanation(module, a, b)


def explain_ranking(
    model: SentenceTransformer,
    query: str,
    documents: Sequence[str],
    *,
    ids: Sequence[DocumentId] | None = None,
    top_k: int = 5,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    store: RationaleStore | str | os.PathLike[str] | None = None,
    show_progress_bar: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> RankingExplanation:
    """Why documents stand in this order for a query.

    All documents are encoded, with and without rationales, and ranked by cosine; the first ones are explained.

    Args:
        model: A model whose first module is a `GenerateThenPool`.
        query: The query.
        documents: The documents; at least one.
        ids: Their ids, which the result repeats.
        top_k: How many of the first are explained.
        query_prompt: Instruction before the query; by default what `encode_query` takes.
        document_prompt: Instruction before the documents; by default what `encode_document` takes.
        store: Where rationales are kept, see `grace_st.encode_with_rationales`.
        show_progress_bar: Show how many documents are finished.
        progress: Called with the number of documents that have just been finished.
        options: Per-call options of `grace_st.encode_with_rationales`.

    Raises:
        ValueError: As for `explain_pair`; or there is no document, or ``top_k`` is no positive integer.
    """
    module = explainable_module(model)
    if not isinstance(query, str):
        raise ValueError(f"the query must be a string, got {type(query).__name__}: {query!r:.80}")
    if isinstance(documents, str) or not len(documents):
        got = "a single string" if isinstance(documents, str) else "none"
        raise ValueError(f"documents must be a list of at least one string, got {got}")
    documents = list(documents)
    check_texts(documents)
    if ids is not None and len(ids) != len(documents):
        raise ValueError(f"ids must have one id for each of the {len(documents)} documents, got {len(ids)}")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise ValueError(f"top_k must be an integer >= 1, got {top_k!r}")
    budget = module.sampling(**options).max_new_tokens
    before_query = _role_instruction(model, query_prompt, ("query",))
    before_document = _role_instruction(model, document_prompt, ("document", "passage", "corpus"))
    reader = _Reader(model, module, budget)
    with one_truncation_warning():
        (asked,) = encode_with_rationales(model, [query], prompt=before_query or "", store=store, **options)
        a = reader.read(query, before_query, asked)
        encodings = encode_with_rationales(
            model,
            documents,
            prompt=before_document or "",
            store=store,
            show_progress_bar=show_progress_bar,
            progress=progress,
            **options,
        )
        order = _ranked(reader.vector(asked), [reader.vector(encoding) for encoding in encodings])
        if budget == 0:
            prompt_order = order
        else:
            plain = encode_with_rationales(model, documents, prompt=before_document or "", max_new_tokens=0)
            prompt_order = _ranked(a.prompt_vector, [reader.vector(encoding) for encoding in plain])
        prompt_ranks = {index: rank for rank, index in enumerate(prompt_order, start=1)}
        explained = []
        for rank, index in enumerate(order[:top_k], start=1):
            b = reader.read(documents[index], before_document, encodings[index])
            explained.append(
                RankedDocument(
                    rank=rank,
                    index=index,
                    id=index if ids is None else ids[index],
                    prompt_rank=prompt_ranks[index],
                    explanation=_explanation(module, a, b),
                )
            )
    return RankingExplanation(documents=tuple(explained), count=len(documents))


def explainable_module(model: SentenceTransformer) -> GenerateThenPool:
    """The generating module of a model whose cosines can be split.

    Raises:
        ValueError: They cannot: says why and what to do.
    """
    module = grace_module(model)
    pooling = module.config.pooling
    if pooling not in MEAN_POOLINGS:
        raise ValueError(
            f"pooling={pooling!r} cannot be explained: only a mean of token states splits into shares of spans "
            f"({' or '.join(repr(name) for name in MEAN_POOLINGS)}). Load the model with pooling='mean' to look at "
            "those vectors; they are others"
        )
    if not isinstance(module.engine, TorchEngine):
        raise ValueError(
            f"{type(module.engine).__name__} gives no states of single tokens: load the model with engine='torch'"
        )
    later = [type(other).__name__ for other in list(model.children())[1:] if not isinstance(other, Normalize)]
    if later:
        raise ValueError(
            f"the module {later[0]} changes the vectors after pooling, so their cosine is no sum over tokens: explain "
            "the model without it"
        )
    return module


@dataclass(frozen=True)
class _Reading:
    """A text as the model has read it: ``states`` ``[n, d]`` are the pooled ones."""

    text: ExplainedText
    states: np.ndarray
    vector: np.ndarray
    prompt_vector: np.ndarray
    rationale_vector: np.ndarray


@dataclass(frozen=True)
class _Reader:
    """Reads texts that have been encoded. ``budget`` is None where rationales were given."""

    model: SentenceTransformer
    module: GenerateThenPool
    budget: int | None

    def vector(self, encoding: Encoding) -> np.ndarray:
        """``[d]``: what `encode` would give."""
        vector: np.ndarray = encoding.embedding[: self.model.truncate_dim]
        return vector

    def read(self, text: str, instruction: str | None, encoding: Encoding) -> _Reading:
        module = self.module
        # Not `prompts_of`: the text has been counted and logged when it was encoded.
        (prompt,) = module.prompt.tokenize([text], max_seq_length=module.config.max_seq_length, instruction=instruction)
        states = module.token_states(prompt, encoding.rationale_ids).double().numpy()[:, : self.model.truncate_dim]
        last = len(prompt.ids) - 1
        engine = module.engine
        assert isinstance(engine, TorchEngine)  # `explainable_module` has refused others
        first = engine.pooled_from(prompt)
        explained = self._explained(text, prompt, encoding, first)
        return _Reading(
            text=explained,
            states=states[first:],
            vector=states[first:].mean(axis=0),
            prompt_vector=states[first : last + 1].mean(axis=0),
            rationale_vector=states[last:].mean(axis=0),
        )

    def _explained(self, text: str, prompt: PromptTokens, encoding: Encoding, first: int) -> ExplainedText:
        renderer = self.module.prompt
        text = encodable(text)
        tail_start = len(prompt.ids) - len(renderer.tail_ids)
        offsets = renderer.text_offsets(text)[: tail_start - prompt.pool_start]
        read = offsets[-1][1] if prompt.truncated and offsets else len(text)
        # Where the text is not pooled, or is empty, the span still holds the last token of the prompt.
        pools_text = first == prompt.pool_start
        spans = sentence_spans("text", text[:read], offsets) if pools_text else []
        template_ids = prompt.ids[max(first, tail_start) if pools_text else first :]
        if template_ids:
            content = str(renderer.tokenizer.decode(list(template_ids), skip_special_tokens=False))
            spans.append(Span("template", content, 0, len(content), len(template_ids)))
        ids = encoding.rationale_ids
        spans += sentence_spans("rationale", encoding.rationale, renderer.rationale_offsets(ids))
        return ExplainedText(
            text=text,
            characters_read=read,
            rationale=encoding.rationale,
            rationale_tokens=len(ids),
            rationale_end=self._end(encoding),
            spans=tuple(spans),
        )

    def _end(self, encoding: Encoding) -> RationaleEnd:
        if self.budget is None:
            return "given"
        if encoding.finished:
            return "eos"
        return "budget" if encoding.rationale_ids else "none"


def _explanation(module: GenerateThenPool, a: _Reading, b: _Reading) -> Explanation:
    sums = [attribution.span_sums(reading.states, reading.text.tokens) for reading in (a, b)]
    return Explanation(
        a=a.text,
        b=b.text,
        # From the vectors, not from the contributions, so that their sum can be checked against it.
        cosine=attribution.cosine(a.vector, b.vector),
        prompt_cosine=attribution.cosine(a.prompt_vector, b.prompt_vector),
        rationale_cosine=attribution.cosine(a.rationale_vector, b.rationale_vector),
        contributions=attribution.contributions(*sums),
        pooling=module.config.pooling,
        pooling_span=module.config.pooling_span,
    )


def _ranked(query: np.ndarray, documents: Sequence[np.ndarray]) -> list[int]:
    """Indices of documents by falling cosine, equal ones in their own order."""
    cosines = [attribution.cosine(query, document) for document in documents]
    return sorted(range(len(documents)), key=lambda index: -cosines[index])


def _pair(name: str, value: str | tuple[str | None, str | None] | None) -> tuple[str | None, str | None]:
    if value is None or isinstance(value, str):
        return (value, value)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be a string or a pair of strings, got {value!r:.80}")
    return (value[0], value[1])


def _role_instruction(model: SentenceTransformer, prompt: str | None, names: Sequence[str]) -> str | None:
    """The instruction that `encode_query` or `encode_document` would take."""
    name = next((name for name in names if name in model.prompts), None)
    return instruction_of(model, prompt, name)
