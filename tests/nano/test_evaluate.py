from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import grace_st
import grace_train.nano
from grace_train.nano.corpus import Corpus
from grace_train.nano.evaluate import (
    estimate,
    markdown_table,
    ndcg,
    retrieval_ranks,
    swapped,
    weights_sha256,
    write_results,
)

RECIPE = Path(grace_train.nano.__file__).parent


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """The committed results of the bundled model."""
    loaded: dict[str, Any] = json.loads((RECIPE / "results.json").read_text(encoding="utf-8"))
    return loaded


def test_ranks_follow_cosine_similarity() -> None:
    generator = np.random.default_rng(0)
    queries, documents = generator.normal(size=(20, 5)), generator.normal(size=(30, 5))
    relevant = generator.integers(0, 30, size=20)
    ranks = retrieval_ranks(queries * 7, documents, relevant.tolist())
    for query, own, rank in zip(queries, relevant, ranks, strict=True):
        cosines = [query @ other / math.hypot(*query) / math.hypot(*other) for other in documents]
        assert sorted(cosines, reverse=True).index(cosines[own]) == rank


def test_ties_never_flatter() -> None:
    same = np.ones((4, 3))
    assert retrieval_ranks(same[:1], same, [0]).tolist() == [3]


def test_ndcg_of_one_relevant_document() -> None:
    values = ndcg(np.array([0, 1, 2, 9, 10, 500]))
    assert values.tolist() == pytest.approx([1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0, 0])


def test_the_interval_holds_the_mean_and_narrows_with_more_queries() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(0, 2, size=800).astype(float)
    few, many = estimate(values[:50]), estimate(values)
    assert few.low <= few.mean <= few.high
    assert many.mean == pytest.approx(values.mean())
    assert many.high - many.low < few.high - few.low
    # About two standard errors to each side.
    assert many.high - many.mean == pytest.approx(1.96 * values.std() / math.sqrt(800), rel=0.15)
    assert estimate(values) == estimate(values)


def test_swapped_rationales_are_never_the_own_one(corpus: Corpus) -> None:
    retrieval = corpus.retrieval_set("dev")
    swaps = swapped(retrieval, corpus)
    category = [corpus.entities[position].category for position in retrieval.relevant]
    for donors in swaps.values():
        assert len(donors) == len(retrieval.queries)
        assert all(donor != own for own, donor in enumerate(donors))
    same = swaps["swapped_same_category"]
    assert all(category[own] == category[donor] for own, donor in enumerate(same))
    assert swaps["swapped_any"] != same


def test_results_are_of_the_bundled_weights_and_knowledge(corpus: Corpus, results: dict[str, Any]) -> None:
    assert results["weights_sha256"] == weights_sha256(grace_st.nano_path())
    assert results["knowledge_sha256"] == corpus.knowledge.sha256()
    for split in ("dev", "test"):
        retrieval = corpus.retrieval_set(split)  # type: ignore[arg-type]
        assert results["splits"][split]["queries"] == len(retrieval.queries)
        assert results["splits"][split]["documents"] == len(retrieval.documents)


def test_the_readme_shows_the_committed_results(results: dict[str, Any]) -> None:
    assert markdown_table(results).strip() in (RECIPE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("span", ["text_and_rationale", "rationale"])
def test_rationales_help_and_it_matters_which_one(results: dict[str, Any], span: str) -> None:
    for split in results["splits"].values():
        figures = {name: values["ndcg@10"] for name, values in split["representations"].items()}
        assert figures[span]["low"] > figures["prompt"]["high"] + 0.1
        assert figures[f"{span}/swapped_any"]["high"] < figures[span]["low"] - 0.1
        assert figures[f"{span}/swapped_same_category"]["high"] < figures[span]["low"] - 0.1
        assert split["rationales"]["finished"] > 0.99


def test_writing_results_gives_both_files(results: dict[str, Any], tmp_path: Path) -> None:
    write_results(results, markdown_table(results), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == markdown_table(results)
