"""Held-out retrieval of a model of real text: questions about unseen diseases, with and without rationales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

import grace_st
from grace_train.nano.corpus import RetrievalSet
from grace_train.nano.evaluate import weights_sha256
from grace_train.nano.real_text.corpus import TextCorpus
from grace_train.retrieval import CUTOFF, estimate, ndcg, retrieval_ranks

QUERIES = 200
DOCUMENTS = 800
SPLITS: tuple[Literal["dev", "test"], ...] = ("dev", "test")


def evaluate(folder: Path, corpus: TextCorpus, *, device: str = "cpu") -> dict[str, Any]:
    """Evaluate a model folder.

    Returns:
        What ``results.json`` holds: the hash of the weights, and by split and representation (``prompt``,
        ``rationale``) nDCG@10 with its interval, the share of rationales that ended, their mean length in tokens.
    """
    sets = {split: corpus.retrieval_set(split, queries=QUERIES, documents=DOCUMENTS) for split in SPLITS}
    model = grace_st.load(folder, engine_kwargs={"slots": 64}, device=device)
    splits: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    for name, budget in (("prompt", 0), ("rationale", None)):
        documents = model.encode_with_rationales(list(sets["dev"].documents), max_new_tokens=budget)
        for split, data in sets.items():
            queries = model.encode_with_rationales(list(data.queries), max_new_tokens=budget)
            splits[split][name] = _figures(data, queries, documents)
    return {"weights_sha256": weights_sha256(folder), "splits": splits}


def _figures(
    data: RetrievalSet, queries: Sequence[grace_st.Encoding], documents: Sequence[grace_st.Encoding]
) -> dict[str, Any]:
    vectors = [np.stack([encoding.embedding for encoding in part]) for part in (queries, documents)]
    written = [*queries, *documents]
    return {
        f"ndcg@{CUTOFF}": asdict(estimate(ndcg(retrieval_ranks(vectors[0], vectors[1], data.relevant)))),
        "finished": float(np.mean([encoding.finished for encoding in written])),
        "mean_tokens": float(np.mean([len(encoding.rationale_ids) for encoding in written])),
    }


def markdown_table(results: dict[str, Any]) -> str:
    """The results for a person to read."""
    lines = [f"| representation | dev nDCG@{CUTOFF} | test nDCG@{CUTOFF} |", "|---|---|---|"]
    for name in ("prompt", "rationale"):
        values = [results["splits"][split][name][f"ndcg@{CUTOFF}"] for split in SPLITS]
        cells = [f"{value['mean']:.3f} ({value['low']:.3f}-{value['high']:.3f})" for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
