"""The clients that people have: openai, LangChain and LlamaIndex, against a real server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from llama_index.core import Document, VectorStoreIndex
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

import grace_st
from grace_st.serve import ApiKeys, Service
from grace_st.serve.backend import ModelBackend
from tests.serving import Running, running

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
KEY = "my-key"
TOLERANCE = 1e-5  # of float32

DOCUMENTS = ["Norway is part of Scandinavia.", "Japan lies in East Asia.", "Brazil is found in South America."]
QUESTION = "somewhere with deep fjords, ruled from Oslo"
TEXTS = [*DOCUMENTS, QUESTION]


@pytest.fixture(scope="module")
def model() -> grace_st.GraceModel:
    return grace_st.load(grace_st.nano_path(), device="cpu", max_new_tokens=64)


@pytest.fixture(scope="module")
def offline(model: grace_st.GraceModel) -> np.ndarray:
    """``[4, d]`` of length 1."""
    vectors: np.ndarray = model.encode(TEXTS, normalize_embeddings=True)
    return vectors


@pytest.fixture(scope="module")
def server(model: grace_st.GraceModel) -> Iterator[Running]:
    service = Service(lambda: ModelBackend(model), names=["grace-nano"], keys=ApiKeys([KEY]))
    with running(service) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def assert_close(served: object, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(served, dtype=np.float32), expected, rtol=0, atol=TOLERANCE)


# ------------------------------------------------------------------ openai


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openai_gets_the_vectors_of_encode(client: openai.OpenAI, offline: np.ndarray, options: dict[str, str]) -> None:
    response = client.embeddings.create(model="grace-nano", input=TEXTS, **options)  # type: ignore[arg-type]
    if options.get("encoding_format") == "base64":
        import base64

        rows = [np.frombuffer(base64.b64decode(item.embedding), dtype="<f4") for item in response.data]  # type: ignore[arg-type]
    else:
        rows = [item.embedding for item in response.data]
    assert_close(rows, offline)
    assert [item.index for item in response.data] == [0, 1, 2, 3] and response.model == "grace-nano"
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.rationale_tokens  # type: ignore[attr-defined]


def test_openai_lists_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["grace-nano"]
    assert client.models.retrieve("grace-nano").owned_by == "grace-st"


def test_openai_sends_tokens_and_dimensions(
    client: openai.OpenAI, model: grace_st.GraceModel, offline: np.ndarray
) -> None:
    ids = model.tokenizer.encode(QUESTION, add_special_tokens=False)
    response = client.embeddings.create(model="grace-nano", input=ids, dimensions=16)
    cut = offline[3, :16] / np.linalg.norm(offline[3, :16])
    assert_close(response.data[0].embedding, cut)


def test_openai_raises_its_own_errors(server: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served here") as missing:
        client.embeddings.create(model="gpt", input="a")
    assert missing.value.code == "model_not_found" and missing.value.request_id
    with pytest.raises(openai.BadRequestError, match="the list is empty") as bad:
        client.embeddings.create(model="grace-nano", input=[])
    assert bad.value.param == "input"
    with pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
        client.with_options(api_key="another").embeddings.create(model="grace-nano", input="a")
    with pytest.raises(openai.APIStatusError) as large:
        client.embeddings.create(model="grace-nano", input=["a"] * 3000)
    assert large.value.status_code == 413
    server.service.draining = True
    try:
        with pytest.raises(openai.InternalServerError, match="shutting down") as closing:
            client.embeddings.create(model="grace-nano", input="a")
    finally:
        server.service.draining = False
    assert closing.value.status_code == 503


async def test_openais_asynchronous_client(server: Running, offline: np.ndarray) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        responses = await asyncio.gather(
            *(client.embeddings.create(model="grace-nano", input=text) for text in TEXTS * 4)
        )
    assert_close([response.data[0].embedding for response in responses], np.tile(offline, (4, 1)))


# ------------------------------------------------------------------ LangChain and LlamaIndex


def test_langchain(server: Running, offline: np.ndarray) -> None:
    embeddings = OpenAIEmbeddings(
        model="grace-nano", base_url=f"{server.url}/v1", api_key=KEY, check_embedding_ctx_length=False
    )
    assert_close(embeddings.embed_documents(DOCUMENTS), offline[:3])
    assert_close(embeddings.embed_query(QUESTION), offline[3])
    assert_close(embeddings.embed_documents(DOCUMENTS, chunk_size=2), offline[:3])
    store = InMemoryVectorStore.from_texts(DOCUMENTS, embeddings)
    assert store.similarity_search(QUESTION, k=1)[0].page_content == DOCUMENTS[0]


async def test_langchain_asynchronously(server: Running, offline: np.ndarray) -> None:
    embeddings = OpenAIEmbeddings(
        model="grace-nano", base_url=f"{server.url}/v1", api_key=KEY, check_embedding_ctx_length=False
    )
    assert_close(await embeddings.aembed_documents(DOCUMENTS), offline[:3])


def test_llama_index(server: Running, offline: np.ndarray) -> None:
    embed_model = OpenAILikeEmbedding(
        model_name="grace-nano", api_base=f"{server.url}/v1", api_key=KEY, embed_batch_size=2, max_retries=0
    )
    assert_close(embed_model.get_text_embedding_batch(DOCUMENTS), offline[:3])
    assert_close(embed_model.get_query_embedding(QUESTION), offline[3])
    index = VectorStoreIndex.from_documents([Document(text=text) for text in DOCUMENTS], embed_model=embed_model)
    assert index.as_retriever(similarity_top_k=1).retrieve(QUESTION)[0].node.get_content() == DOCUMENTS[0]


# ------------------------------------------------------------------ the page about it


def test_the_snippets_run(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 4
    scope: dict[str, object] = {}
    for block in blocks:
        assert KEY in block or block is not blocks[0]
        exec(block.replace("http://localhost:8000", server.url), scope)
    shown = capsys.readouterr().out
    assert shown.count("Norway is part of Scandinavia.\n") == 2
    assert "The text is about the country Norway." in shown


def test_the_curl_commands_run(server: Running) -> None:
    blocks = [block for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) if "curl" in block]
    assert len(blocks) == 1
    try:
        subprocess.run(["curl", "--version"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no curl here")
    done = subprocess.run(
        ["bash", "-ec", blocks[0].replace("http://localhost:8000", server.url)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert '"rationale":"' in done.stdout and '"status": "ready"' in done.stdout
