"""sentence-transformers' own tools on a GRACE model: evaluators, mining, search, clustering, datasets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)

from grace_st.cli.demo_texts import DEMO_TEXTS
from tests import tiny

QUERIES = {item.name: item.text for item in DEMO_TEXTS if item.answer}
DOCUMENTS = {item.name: item.text for item in DEMO_TEXTS if not item.answer}
ANSWERS = {item.name: item.answer for item in DEMO_TEXTS if item.answer}
# Queries and documents by country, as the bundled model should sort them.
PAIRS = [(QUERIES[name], DOCUMENTS[answer]) for name, answer in ANSWERS.items() if answer]


@pytest.fixture
def prompt_only(nano: SentenceTransformer) -> Iterator[SentenceTransformer]:
    """The bundled model without rationales: evaluators pass no options, so the budget is set on the module."""
    budget, nano[0].max_new_tokens = nano[0].max_new_tokens, 0
    yield nano
    nano[0].max_new_tokens = budget


@pytest.fixture(scope="module")
def query_vectors(nano: SentenceTransformer) -> torch.Tensor:
    return nano.encode_query(list(QUERIES.values()), convert_to_tensor=True)


@pytest.fixture(scope="module")
def document_vectors(nano: SentenceTransformer) -> torch.Tensor:
    return nano.encode_document(list(DOCUMENTS.values()), convert_to_tensor=True)


# ------------------------------------------------------------------ evaluators


def _retrieval(model: SentenceTransformer) -> dict[str, float]:
    relevant = {name: {answer} for name, answer in ANSWERS.items()}
    evaluator = InformationRetrievalEvaluator(QUERIES, DOCUMENTS, relevant, name="demo", accuracy_at_k=[1])
    results: dict[str, float] = evaluator(model)
    assert evaluator.primary_metric == "demo_cosine_ndcg@10"
    return results


def test_information_retrieval_is_right_with_rationales(nano: SentenceTransformer) -> None:
    results = _retrieval(nano)
    assert results["demo_cosine_accuracy@1"] == results["demo_cosine_ndcg@10"] == 1.0


def test_information_retrieval_is_worse_without(prompt_only: SentenceTransformer) -> None:
    """What the README's demo shows, by sentence-transformers' own count: five of six."""
    assert _retrieval(prompt_only)["demo_cosine_accuracy@1"] == pytest.approx(5 / 6)


def _similarity(model: SentenceTransformer) -> float:
    rows = [(q, d, float(ANSWERS[name] == other)) for name, q in QUERIES.items() for other, d in DOCUMENTS.items()]
    evaluator = EmbeddingSimilarityEvaluator(*map(list, zip(*rows, strict=True)), main_similarity="cosine", name="demo")
    results = evaluator(model)
    return float(results["demo_spearman_cosine"])


def test_similarity_follows_belonging(nano: SentenceTransformer) -> None:
    # Six of 36 pairs belong together, and ranks within the two groups cost the rest: 0.645 would be perfect.
    assert _similarity(nano) > 0.6


def test_similarity_is_weaker_without_rationales(prompt_only: SentenceTransformer) -> None:
    assert _similarity(prompt_only) < 0.6


# ------------------------------------------------------------------ search, clusters, pairs


def test_semantic_search(query_vectors: torch.Tensor, document_vectors: torch.Tensor) -> None:
    hits = util.semantic_search(query_vectors, document_vectors, top_k=2)
    names = list(DOCUMENTS)
    assert [names[found[0]["corpus_id"]] for found in hits] == list(ANSWERS.values())
    assert all(first["score"] > second["score"] for first, second in hits)


# Three countries, each asked for twice.
PARAPHRASES = [
    "I dream of a country governed from Paris and famous for the Eiffel Tower.",
    "Which country is governed from Paris and famous for the Eiffel Tower?",
    "a country governed from Cairo, proud of the pyramids of Giza",
    "Which land has its government in Cairo and is proud of the pyramids of Giza?",
    "Tokyo is its capital, and postcards of it show Mount Fuji. Which country?",
    "The country has Tokyo as its capital, and is known for Mount Fuji.",
]


def test_communities_are_the_countries(nano: SentenceTransformer) -> None:
    vectors = nano.encode(PARAPHRASES, convert_to_tensor=True)
    found = util.community_detection(vectors, threshold=0.8, min_community_size=2)
    assert sorted(map(sorted, found)) == [[0, 1], [2, 3], [4, 5]]


def test_mined_paraphrases_are_of_one_country(nano: SentenceTransformer) -> None:
    pairs = util.paraphrase_mining(nano, PARAPHRASES, show_progress_bar=False)
    assert sorted(sorted(pair[1:]) for pair in pairs[:3]) == [[0, 1], [2, 3], [4, 5]]
    again = util.paraphrase_mining_embeddings(nano.encode(PARAPHRASES, convert_to_tensor=True))
    assert [pair[1:] for pair in again] == [pair[1:] for pair in pairs]


# ------------------------------------------------------------------ datasets


def test_hard_negatives_are_other_documents(nano: SentenceTransformer) -> None:
    anchors, positives = map(list, zip(*PAIRS, strict=True))
    pairs = Dataset.from_dict({"anchor": anchors, "positive": positives})
    mined = util.mine_hard_negatives(
        pairs, nano, num_negatives=2, output_format="n-tuple", output_scores=True, verbose=False
    )
    assert mined.num_rows == 6
    for row in mined:
        negatives = [row["negative_1"], row["negative_2"]]
        others = set(positives) - {row["positive"]}
        assert (row["anchor"], row["positive"]) in PAIRS
        assert len(set(negatives)) == 2 and set(negatives) <= others
        # Scored as the model scores: the answer first, then the closest of the others.
        score, *rest = row["scores"]
        assert score > rest[0] >= rest[1]
        vectors = nano.encode([row["anchor"], row["positive"], *negatives])
        expected = nano.similarity(vectors[:1], vectors[1:])[0]
        np.testing.assert_allclose(row["scores"], expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [3, 100])
def test_a_dataset_is_mapped(model: SentenceTransformer, batch_size: int) -> None:
    """Vectors do not depend on how the dataset is cut into batches."""
    dataset = Dataset.from_dict({"text": tiny.TEXTS})
    mapped = dataset.map(
        lambda batch: {"embedding": model.encode(batch["text"])}, batched=True, batch_size=batch_size
    ).with_format("numpy")
    assert mapped["text"][:].tolist() == tiny.TEXTS
    np.testing.assert_allclose(np.stack(mapped["embedding"][:]), model.encode(tiny.TEXTS), atol=1e-5)


# ------------------------------------------------------------------ classification on top


def test_a_classifier_on_vectors(nano: SentenceTransformer) -> None:
    """scikit-learn, which sentence-transformers brings: trained on documents, asked about queries."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    names = list(ANSWERS.values())
    classifier = make_pipeline(FunctionTransformer(nano.encode), LogisticRegression(max_iter=500))
    classifier.fit([DOCUMENTS[name] for name in names], names)
    assert classifier.predict(list(QUERIES.values())).tolist() == names
