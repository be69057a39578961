"""LlamaIndex: a folder loads in HuggingFaceEmbedding, and its vectors are the normalised ones of encode."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from sentence_transformers import SentenceTransformer

import grace_st
from tests import tiny

TEXTS = tiny.TEXTS


def llama_index(folder: Path, **options: Any) -> HuggingFaceEmbedding:
    return HuggingFaceEmbedding(model_name=str(folder), trust_remote_code=True, device="cpu", **options)


@pytest.fixture(scope="module")
def embedding(folder: Path) -> HuggingFaceEmbedding:
    return llama_index(folder)


@pytest.fixture(scope="module")
def expected(model: SentenceTransformer) -> np.ndarray:
    return model.encode(TEXTS, normalize_embeddings=True)


def test_texts_and_queries_are_those_of_encode(embedding: HuggingFaceEmbedding, expected: np.ndarray) -> None:
    # A batch of one may differ in the last bits from the same text in a batch of ten.
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[0]), expected[0], atol=1e-6)
    np.testing.assert_allclose(embedding.get_query_embedding(TEXTS[0]), expected[0], atol=1e-6)
    assert np.array_equal(np.float32(embedding.get_text_embedding_batch(TEXTS)), expected)


def test_async_gives_the_same(embedding: HuggingFaceEmbedding, expected: np.ndarray) -> None:
    """Also when calls run at once, in threads: each gets its own vector."""

    async def ask() -> list[Any]:
        singles = [embedding.aget_query_embedding(text) for text in TEXTS]
        return await asyncio.gather(*singles, embedding.aget_text_embedding_batch(TEXTS))

    *singles, batch = asyncio.run(ask())
    np.testing.assert_allclose(singles, expected, atol=1e-6)
    assert np.array_equal(np.float32(batch), expected)


def test_options_of_the_model_and_instructions(folder: Path, model: SentenceTransformer) -> None:
    """There are no options of one call: the budget is given when the model is loaded."""
    short = llama_index(folder, normalize=False, query_instruction="Find: ", config_kwargs={"max_new_tokens": 3})
    assert np.array_equal(np.float32(short.get_text_embedding(TEXTS[0])), model.encode(TEXTS[0], max_new_tokens=3))
    query = model.encode(TEXTS[0], max_new_tokens=3, prompt="Find: ")
    assert np.array_equal(np.float32(short.get_query_embedding(TEXTS[0])), query)


def test_max_length_is_the_models_own_or_as_told(
    embedding: HuggingFaceEmbedding, folder: Path, model: SentenceTransformer
) -> None:
    assert embedding.max_length == 128
    shorter = llama_index(folder, max_length=110)
    assert shorter._model[0].config.max_seq_length == 110
    long = "the gardens of Paris, past the river " * 10
    vectors = [item.get_text_embedding(long) for item in (embedding, shorter)]
    assert not np.allclose(*vectors, atol=1e-3)


def test_an_index_is_asked(folder: Path) -> None:
    """Documents are split, indexed and retrieved, and a language model gets them."""
    nano = llama_index(grace_st.nano_path())
    texts = ["France. The talk there is in French.", "Egypt belongs to North Africa."]
    splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0)
    documents = [Document(text=text) for text in texts]
    index = VectorStoreIndex.from_documents(documents, embed_model=nano, transformations=[splitter])
    answer = index.as_query_engine(llm=MockLLM(), similarity_top_k=1).query("a country governed from Cairo")
    assert [found.node.get_content() for found in answer.source_nodes] == [texts[1]]
    assert texts[1] in str(answer)  # the mock repeats its prompt


def test_the_guard_sees_what_a_library_hides(only_loopback: Any) -> None:
    """The proof of the other tests: a look-up is refused and remembered, even if the error is swallowed."""
    import contextlib
    import urllib.request

    assert MockEmbedding(embed_dim=2).get_text_embedding("no network needed")
    with contextlib.suppress(OSError):
        urllib.request.urlopen("http://example.com", timeout=1)
    assert [attempt.split()[0] for attempt in only_loopback.attempts] == ["socket.getaddrinfo"]
    only_loopback.attempts.clear()
