"""The columns of the table, of one model folder: held-out texts, greedy rationales, the vectors that are served."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import AutoTokenizer

import grace_st
from grace_st.engines.base import Sampling
from grace_st.module import GenerateThenPool
from grace_st.template import render_template
from grace_train.local.evaluation import unrelated_similarity
from grace_train.metrics import distinct_share
from grace_train.nano.corpus import Corpus, RetrievalSet
from grace_train.nano.evaluate import swapped
from grace_train.nano.knowledge import Entity
from grace_train.retrieval import ndcg, retrieval_ranks
from harness.perplexity import perplexity
from reward_choice.rows import BUDGET, Row
from reward_choice.settings import Settings

SPLITS: tuple[Literal["dev", "test"], ...] = ("dev", "test")
SLOTS = 64
GROUP = 8


def measure(folder: Path, row: Row, settings: Settings) -> dict[str, Any]:
    """Everything about a model folder.

    Returns:
        ``dev`` and ``test`` with ``ndcg@10``, ``recall@1``, ``unrelated_similarity``, ``swapped_ndcg@10`` (where there
        are rationales) and ``per_query`` (nDCG@10 of each query); ``perplexity``; ``rationales`` (None where none
        are written). A model that was trained on the prompt alone has ``with_rationales`` as well.
    """
    corpus = Corpus()
    model = _load(folder, row)
    module = model[0]
    assert isinstance(module, GenerateThenPool)  # what grace_st.load gives
    found: dict[str, Any] = _retrieval(model, corpus, settings, row.budget)
    found["perplexity"] = perplexity(module, plain_texts(corpus, settings.perplexity_texts))
    if row.budget:
        found["distinct"] = distinct(
            module, corpus.retrieval_set("dev").documents[: settings.sampled_texts], row.budget
        )
    elif row.is_trained:
        found["with_rationales"] = _retrieval(model, corpus, settings, BUDGET)
    return found


def _load(folder: Path, row: Row) -> grace_st.GraceModel:
    options: dict[str, Any] = {"pooling_span": row.span, "max_new_tokens": BUDGET}
    if not row.system_prompt:
        rendered = render_template(AutoTokenizer.from_pretrained(folder), None)
        options |= {"system_prompt": None, "head": rendered.head, "tail": rendered.tail, "template": rendered.kind}
    return grace_st.load(folder, engine_kwargs={"slots": SLOTS}, device="cpu", **options)


def _retrieval(model: grace_st.GraceModel, corpus: Corpus, settings: Settings, budget: int) -> dict[str, Any]:
    sets = {split: _subset(corpus.retrieval_set(split), settings.queries) for split in SPLITS}
    documents = list(sets["dev"].documents)  # those of both splits
    written = model.encode_with_rationales(documents, max_new_tokens=budget)
    document_vectors = _vectors(written)
    about, rationales = list(corpus.entities), [encoding.rationale for encoding in written]
    lengths = [len(encoding.rationale_ids) for encoding in written]
    finished = [encoding.finished for encoding in written]
    result: dict[str, Any] = {}
    for split, data in sets.items():
        encodings = model.encode_with_rationales(list(data.queries), max_new_tokens=budget)
        vectors = _vectors(encodings)
        scores = ndcg(retrieval_ranks(vectors, document_vectors, data.relevant))
        result[split] = {
            "ndcg@10": float(scores.mean()),
            "recall@1": float((scores == 1).mean()),
            "unrelated_similarity": unrelated_similarity(
                vectors, document_vectors, [[index] for index in data.relevant]
            ),
            "per_query": [round(float(value), 4) for value in scores],
        }
        if budget:
            donors = swapped(data, corpus)["swapped_any"]
            borrowed = [encodings[donor].rationale_ids for donor in donors]
            changed = _vectors(model.encode_with_rationales(list(data.queries), rationales=borrowed))
            ranks = retrieval_ranks(changed, document_vectors, data.relevant)
            result[split]["swapped_ndcg@10"] = float(ndcg(ranks).mean())
            own = [corpus.entities[position] for position in data.relevant]
            result[split]["right_name"] = facts(own, [encoding.rationale for encoding in encodings]).right_name
            about += own
            rationales += [encoding.rationale for encoding in encodings]
            lengths += [len(encoding.rationale_ids) for encoding in encodings]
            finished += [encoding.finished for encoding in encodings]
    result["rationales"] = None
    if budget:
        result["rationales"] = {
            "length": float(np.mean(lengths)),
            "eos_rate": float(np.mean(finished)),
            **vars(facts(about, rationales)),
        }
    return result


def _subset(data: RetrievalSet, count: int | None) -> RetrievalSet:
    """At most so many queries, evenly spaced; all documents."""
    total = len(data.queries)
    wanted = total if count is None else min(count, total)
    chosen = [index * total // wanted for index in range(wanted)]
    return replace(
        data,
        queries=tuple(data.queries[index] for index in chosen),
        relevant=tuple(data.relevant[index] for index in chosen),
    )


def _vectors(encodings: Sequence[grace_st.Encoding]) -> np.ndarray:
    return np.stack([encoding.embedding for encoding in encodings])


# -------------------------------------------------------------------- what rationales say


@dataclass(frozen=True)
class Facts:
    """What rationales say about the entities that their texts are about.

    Attributes:
        right_name: Share that hold the entity's name.
        attributes: Mean number of its attributes that are stated.
        repeated: Share that state one of its attributes more than once.
    """

    right_name: float
    attributes: float
    repeated: float


def facts(entities: Sequence[Entity], rationales: Sequence[str]) -> Facts:
    """See `Facts`; the two sequences are aligned."""
    named, stated, repeated = [], [], []
    for entity, rationale in zip(entities, rationales, strict=True):
        text = rationale.lower()
        counts = [_occurrences(value.lower(), text) for value in entity.values]
        named.append(_occurrences(entity.bare_name.lower(), text) > 0)
        stated.append(sum(count > 0 for count in counts))
        repeated.append(any(count > 1 for count in counts))
    return Facts(float(np.mean(named)), float(np.mean(stated)), float(np.mean(repeated)))


def _occurrences(phrase: str, text: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text))


# -------------------------------------------------------------------- the backbone


def plain_texts(corpus: Corpus, count: int) -> list[str]:
    """Texts of the kinds that pre-training has seen, drawn anew: the backbone predicted such texts, too."""
    return [sample.text for sample in corpus.samples(count, "perplexity")]


def distinct(module: GenerateThenPool, texts: Sequence[str], budget: int) -> float:
    """Share of different rationales among 8 that are sampled at T = 1, mean over texts."""
    sampling = Sampling(max_new_tokens=budget, do_sample=True, temperature=1.0, seed=0, num_samples=GROUP)
    rollouts = module.rollouts(module.prompts_of(texts), sampling)
    groups = [rollouts[index : index + GROUP] for index in range(0, len(rollouts), GROUP)]
    return float(distinct_share([[rollout.ids for rollout in group] for group in groups]))
