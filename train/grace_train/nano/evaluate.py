"""Evaluate a model folder on held-out retrieval: does the rationale help, and does it matter which one?

Uses the public interface of ``grace_st`` only. Four representations of the same texts are compared: the
prompt alone, generate-then-pool with both pooling spans, and rationales that belong to another query
(documents keep theirs).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

import grace_st
from grace_train.files import write_atomically
from grace_train.nano.corpus import Corpus, RetrievalSet
from grace_train.retrieval import CUTOFF, estimate, ndcg, retrieval_ranks

SPLITS: tuple[Literal["dev", "test"], ...] = ("dev", "test")


def swapped(retrieval: RetrievalSet, corpus: Corpus, seed: int = 0) -> dict[str, list[int]]:
    """For each query, the query whose rationale it gets: any other, and another of the same category."""
    rng = random.Random(f"swap/{seed}")
    count = len(retrieval.queries)
    category = [corpus.entities[position].category for position in retrieval.relevant]
    anyone, same = [], []
    for own in range(count):
        others = [other for other in range(count) if other != own]
        anyone.append(rng.choice(others))
        same.append(rng.choice([other for other in others if category[other] == category[own]] or others))
    return {"swapped_any": anyone, "swapped_same_category": same}


def evaluate_split(
    folder: Path, corpus: Corpus, split: Literal["dev", "test"], *, slots: int = 64, device: str | None = None
) -> dict[str, Any]:
    """Every figure of one split.

    Args:
        folder: a model folder of ``grace_st.convert``.
        corpus: where the retrieval sets come from.
        split: ``"dev"`` or ``"test"``.
        slots: rows that the engine decodes at once.
        device: where to compute; the best there is by default.
    """
    retrieval = corpus.retrieval_set(split)
    queries, texts = list(retrieval.queries), [*retrieval.queries, *retrieval.documents]
    count = len(queries)

    def load(span: str) -> Any:
        return grace_st.load(folder, pooling_span=span, engine_kwargs={"slots": slots}, device=device)

    def score(query_vectors: np.ndarray, document_vectors: np.ndarray) -> dict[str, Any]:
        ranks = retrieval_ranks(query_vectors, document_vectors, retrieval.relevant)
        recall = (ranks == 0).astype(float)
        return {f"ndcg@{CUTOFF}": asdict(estimate(ndcg(ranks))), "recall@1": asdict(estimate(recall))}

    model = load("text_and_rationale")
    written = model.encode_with_rationales(texts)
    rationales = [encoding.rationale_ids for encoding in written]
    prompts = _vectors(model.encode_with_rationales(texts, max_new_tokens=0))
    representations = {"prompt": score(prompts[:count], prompts[count:])}
    for span in ("text_and_rationale", "rationale"):
        model = load(span)
        vectors = _vectors(model.encode_with_rationales(texts, rationales=rationales))
        representations[span] = score(vectors[:count], vectors[count:])
        for name, donors in swapped(retrieval, corpus).items():
            borrowed = [rationales[donor] for donor in donors]
            changed = _vectors(model.encode_with_rationales(queries, rationales=borrowed))
            representations[f"{span}/{name}"] = score(changed, vectors[count:])

    about = [corpus.entities[position] for position in retrieval.relevant] + list(corpus.entities)
    named = np.array(
        [
            float(entity.bare_name.lower() in encoding.rationale.lower())
            for entity, encoding in zip(about, written, strict=True)
        ]
    )
    return {
        "queries": count,
        "documents": len(retrieval.documents),
        "representations": representations,
        "rationales": {
            "finished": float(np.mean([encoding.finished for encoding in written])),
            "mean_tokens": float(np.mean([len(encoding.rationale_ids) for encoding in written])),
            "right_name_in_query_rationale": asdict(estimate(named[:count])),
            "right_name_in_document_rationale": asdict(estimate(named[count:])),
        },
    }


def _vectors(encodings: Sequence[grace_st.Encoding]) -> np.ndarray:
    return np.stack([encoding.embedding for encoding in encodings])


def evaluate(folder: Path, corpus: Corpus, *, slots: int = 64, device: str | None = None) -> dict[str, Any]:
    """Evaluate a model folder on both splits.

    Returns:
        What ``results.json`` holds: the hashes of weights and knowledge, and the figures of each split.
    """
    return {
        "weights_sha256": weights_sha256(folder),
        "knowledge_sha256": corpus.knowledge.sha256(),
        "splits": {split: evaluate_split(folder, corpus, split, slots=slots, device=device) for split in SPLITS},
    }


def weights_sha256(folder: Path) -> str:
    """The hash that ties results to weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def write_results(results: dict[str, Any], table: str, folder: Path) -> None:
    """Write ``results.json`` and ``results.md``, the table, into a folder."""
    text = json.dumps(results, indent=2) + "\n"
    write_atomically(folder / "results.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_atomically(folder / "results.md", lambda path: path.write_text(table, encoding="utf-8"))


_ROWS = {
    "prompt": "prompt pooling (no rationale)",
    "text_and_rationale": "generate-then-pool, text and rationale",
    "rationale": "generate-then-pool, rationale alone",
    "text_and_rationale/swapped_any": "text and rationale; another query's rationale",
    "text_and_rationale/swapped_same_category": "text and rationale; that of another query of the category",
    "rationale/swapped_any": "rationale alone; another query's rationale",
    "rationale/swapped_same_category": "rationale alone; that of another query of the category",
}


def markdown_table(results: dict[str, Any]) -> str:
    """The results as Markdown, for a person to read."""
    splits = results["splits"]
    header = "".join(f" {split} nDCG@{CUTOFF} | {split} recall@1 |" for split in splits)
    lines = [f"| representation |{header}", "|---|" + "---|---|" * len(splits)]
    for key, label in _ROWS.items():
        cells = [
            _interval(split["representations"][key][metric])
            for split in splits.values()
            for metric in (f"ndcg@{CUTOFF}", "recall@1")
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines.append("")
    for name, split in splits.items():
        facts = split["rationales"]
        lines.append(
            f"{name}: {split['queries']} queries, {split['documents']} documents; "
            f"{facts['finished']:.1%} of the rationales end by themselves, {facts['mean_tokens']:.1f} tokens on "
            f"average; the right name is in {_interval(facts['right_name_in_query_rationale'])} of the queries' "
            f"rationales and in "
            f"{_interval(facts['right_name_in_document_rationale'])} of the documents'.\n"
        )
    return "\n".join(lines)


def _interval(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f}-{value['high']:.3f})"
