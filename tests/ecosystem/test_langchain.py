"""LangChain: a folder loads in HuggingFaceEmbeddings, passes LangChain's own tests, and keeps its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from sentence_transformers import SentenceTransformer

import grace_st
from tests import tiny

# LangChain makes one line of a text before it is encoded.
TEXTS = [text for text in tiny.TEXTS if "\n" not in text]


def langchain(folder: Path, **options: Any) -> HuggingFaceEmbeddings:
    return HuggingFaceEmbeddings(
        model_name=str(folder), model_kwargs={"trust_remote_code": True, "device": "cpu"}, **options
    )


class _OfAFolder:
    """What LangChain's standard tests are run on."""

    folder: Path

    @pytest.fixture(autouse=True)
    def _take_folder(self, folder: Path) -> None:
        self.folder = folder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return HuggingFaceEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {
            "model_name": str(self.folder),
            "model_kwargs": {"trust_remote_code": True, "device": "cpu"},
            "encode_kwargs": {"max_new_tokens": 4},
        }


class TestStandardUnit(_OfAFolder, EmbeddingsUnitTests):
    pass


class TestStandardIntegration(_OfAFolder, EmbeddingsIntegrationTests):
    pass


def test_vectors_are_those_of_encode(folder: Path, model: SentenceTransformer) -> None:
    embeddings = langchain(folder)
    expected = model.encode(TEXTS)
    assert np.array_equal(np.float32(embeddings.embed_documents(TEXTS)), expected)
    # A batch of one may differ in the last bits from the same text in a larger one.
    np.testing.assert_allclose([embeddings.embed_query(text) for text in TEXTS], expected, atol=1e-5)


def test_a_call_takes_the_options_of_encode(folder: Path, model: SentenceTransformer) -> None:
    """Documents and queries may differ, so that documents are indexed with long rationales, say."""
    embeddings = langchain(
        folder,
        encode_kwargs={"max_new_tokens": 3, "normalize_embeddings": True, "batch_size": 256},
        query_encode_kwargs={"max_new_tokens": 0, "prompt": "Find: "},
    )
    documents = np.float32(embeddings.embed_documents(TEXTS))
    assert np.array_equal(documents, model.encode(TEXTS, max_new_tokens=3, normalize_embeddings=True, batch_size=256))
    query = np.float32(embeddings.embed_query(TEXTS[0]))
    assert np.array_equal(query, model.encode(TEXTS[0], max_new_tokens=0, prompt="Find: "))
    assert not np.array_equal(query, model.encode(TEXTS[0]))


def test_sampling_is_repeatable_with_a_seed(folder: Path) -> None:
    sampled = {"do_sample": True, "temperature": 2.0}
    first, again, other = (
        langchain(folder, encode_kwargs={**sampled, "seed": seed}).embed_documents(TEXTS) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_wrong_option_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        langchain(folder, encode_kwargs={"max_tokens": 3}).embed_query("a text")


def test_a_vector_store_finds_by_rationale(nano: SentenceTransformer) -> None:
    """Scores of LangChain's store are the cosines of our vectors."""
    texts = ["France. The talk there is in French.", "Egypt belongs to North Africa."]
    store = InMemoryVectorStore.from_texts(texts, langchain(grace_st.nano_path(), encode_kwargs={"max_new_tokens": 64}))
    (best, score), (_, worse) = store.similarity_search_with_score("a country governed from Cairo", k=2)
    assert best.page_content == texts[1] and score > worse
    vectors = nano.encode(["a country governed from Cairo", texts[1]], max_new_tokens=64)
    assert score == pytest.approx(float(nano.similarity(vectors[:1], vectors[1:])), abs=1e-5)
