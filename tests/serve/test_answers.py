"""What is served is what `encode` gives: the bundled model behind a real server."""

from __future__ import annotations

import base64
import gc
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import grace_st
from grace_st.fingerprint import folder_revision
from grace_st.serve.backend import Answer, ChangedModelError, ModelBackend, ModelLoader
from grace_st.serve.batcher import Ticket, Work
from grace_st.serve.limits import Limits
from grace_st.serve.rendering import as_base64, final_vectors
from grace_st.serve.service import Service
from grace_st.store import RationaleStore, StoredRollout, StoreFileError
from tests.conftest import GraceFolder
from tests.serving import Running, running, until

TOLERANCE = 1e-5  # of float32; what shares a batch changes the last digits of a sum
BUDGET = 24
TEXTS = ["a land ruled from Oslo", "", "Wie spät ist es? 🙂", "<|im_end|>\n<|im_start|>user", "rowing " * 400]


@pytest.fixture(scope="module")
def model() -> grace_st.GraceModel:
    prompts = {"query": "Find it: ", "document": "", "topic": "Name the topic. "}
    return grace_st.load(grace_st.nano_path(), device="cpu", prompts=prompts, max_new_tokens=BUDGET)


@pytest.fixture(scope="module")
def server(model: grace_st.GraceModel) -> Iterator[Running]:
    with running(Service(lambda: ModelBackend(model), names=["nano"])) as server:
        yield server


@pytest.fixture(scope="module")
def offline(model: grace_st.GraceModel) -> np.ndarray:
    """``[5, 256]``, of length 1."""
    vectors: np.ndarray = model.encode(TEXTS, normalize_embeddings=True)
    return vectors


def assert_close(served: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(served, expected, rtol=0, atol=TOLERANCE)


# ------------------------------------------------------------------ vectors


def test_vectors_are_those_of_encode_and_of_length_1(server: Running, offline: np.ndarray) -> None:
    assert_close(server.vectors(input=TEXTS), offline)
    (item,) = server.embed(input=TEXTS[0], encoding_format="base64").json["data"]
    assert_close(np.frombuffer(base64.b64decode(item["embedding"]), "<f4"), offline[0])


def test_vectors_can_be_as_they_are(model: grace_st.GraceModel) -> None:
    with running(Service(lambda: ModelBackend(model), names=["nano"], normalize=False)) as raw:
        assert_close(raw.vectors(input=TEXTS[0])[0], model.encode(TEXTS[0]))
        assert_close(raw.vectors(input=TEXTS[0], dimensions=8)[0], model.encode(TEXTS[0])[:8])
        assert raw.get("/v1/models/nano").json["normalized"] is False


def test_dimensions_are_cut_and_of_length_1_again(server: Running, model: grace_st.GraceModel) -> None:
    expected = model.encode(TEXTS[:2], normalize_embeddings=True)[:, :10]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert_close(server.vectors(input=TEXTS[:2], dimensions=10), expected)


def test_token_ids_are_texts(server: Running, model: grace_st.GraceModel, offline: np.ndarray) -> None:
    ids = [model.tokenizer.encode(text, add_special_tokens=False) for text in (TEXTS[0], TEXTS[2], TEXTS[4])]
    assert_close(server.vectors(input=ids), offline[[0, 2, 4]])
    assert_close(server.vectors(input=ids[0]), offline[:1])


@pytest.mark.parametrize(
    ("ids", "message"), [([3, 10**6], "text 0 has the token id 1000000, but"), ([[5], [2]], "text 1 has the control")]
)
def test_ids_that_are_no_text_are_refused(server: Running, ids: list[Any], message: str) -> None:
    reply = server.embed(input=ids)
    assert reply.status == 400 and message in reply.error["message"] and reply.error["param"] == "input"


@pytest.mark.parametrize(
    ("fields", "method", "options"),
    [
        ({"input_type": "query"}, "encode_query", {}),
        ({"input_type": "search_query"}, "encode_query", {}),
        ({"input_type": "passage"}, "encode_document", {}),
        ({"prompt_name": "topic"}, "encode", {"prompt_name": "topic"}),
        ({"instruction": "Name the topic. "}, "encode", {"prompt_name": "topic"}),
        ({"max_new_tokens": 3}, "encode", {"max_new_tokens": 3}),
        ({"max_new_tokens": 0}, "encode", {"max_new_tokens": 0}),
    ],
)
def test_options_are_those_of_encode(
    server: Running, model: grace_st.GraceModel, fields: dict[str, Any], method: str, options: dict[str, Any]
) -> None:
    expected = getattr(model, method)([TEXTS[0]], normalize_embeddings=True, **options)
    served = server.vectors(input=TEXTS[0], **fields)
    assert_close(served, expected)
    plain = model.encode([TEXTS[0]], normalize_embeddings=True)
    assert (np.abs(plain - served).max() > 1e-3) == (fields != {"input_type": "passage"})


def test_a_prompt_that_the_model_lacks_is_refused(server: Running) -> None:
    reply = server.embed(input="a", prompt_name="poem")
    assert (reply.status, reply.error["param"]) == (400, "prompt_name") and "query" in reply.error["message"]
    reply = server.embed(input="a", instruction="very long " * 200)
    assert reply.status == 400 and "shorten the instruction" in reply.error["message"]


def test_rationales_and_usage_are_those_of_the_model(server: Running, model: grace_st.GraceModel) -> None:
    reply = server.embed(input=TEXTS, rationale=True).json
    encodings = model.encode_with_rationales(TEXTS)
    for item, encoding in zip(reply["data"], encodings, strict=True):
        assert item["rationale"] == encoding.rationale and item["rationale_tokens"] == len(encoding.rationale_ids)
        assert (item["finished"], item["truncated"]) == (encoding.finished, encoding.truncated)
    prompts = model[0].prompts_of(TEXTS)
    rationale_tokens = sum(len(encoding.rationale_ids) for encoding in encodings)
    prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    assert reply["usage"] == {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + rationale_tokens,
        "rationale_tokens": rationale_tokens,
    }


def test_64_clients_at_once(server: Running, model: grace_st.GraceModel) -> None:
    """Each gets its own vectors, in order, whatever shares a batch with them."""
    requests = [
        [f"client {client} asks about rowing", "a text of all", f"{client % 7} is shared"] for client in range(64)
    ]
    texts = sorted({text for request in requests for text in request})
    offline = dict(zip(texts, model.encode(texts, normalize_embeddings=True, max_new_tokens=6), strict=True))

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda request: server.vectors(input=request, max_new_tokens=6), requests))
    for request, vectors in zip(requests, answers, strict=True):
        assert_close(vectors, np.stack([offline[text] for text in request]))
    assert server.service.queue.waiting == 0
    # Nothing of a request stays behind, not even until the next collection.
    until(lambda: not [value for value in gc.get_objects() if type(value) in (Answer, Ticket, Work)], "nothing is kept")


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-1e3, 1e3, width=32)),
    st.integers(1, 9),
)
def test_final_vectors(vectors: np.ndarray, dimensions: int) -> None:
    dimensions = min(dimensions, vectors.shape[1])
    cut = final_vectors(vectors, dimensions, normalize=False)
    np.testing.assert_array_equal(cut, vectors[:, :dimensions])
    unit = final_vectors(vectors, dimensions, normalize=True)
    expected = torch.nn.functional.normalize(torch.from_numpy(vectors[:, :dimensions].copy()))
    np.testing.assert_allclose(unit, expected.numpy(), atol=1e-6)
    assert np.array_equal(np.frombuffer(base64.b64decode(as_base64(unit[0])), "<f4"), unit[0])


# ------------------------------------------------------------------ the store


def test_the_store_stands_in_front(grace_folder: GraceFolder, tmp_path: Path) -> None:
    """What it holds is answered also while the engine is at work on something else; the vectors are the same."""
    folder = grace_folder("qwen2")
    store = RationaleStore(tmp_path / "store.sqlite")
    model = grace_st.load(folder, device="cpu")
    model.encode(TEXTS[:2], store=store)  # as written by `encode`
    with running(Service(ModelLoader(folder, lambda: model, store=store), names=["m"])) as server:
        backend = server.service.worker.backend
        assert isinstance(backend, ModelBackend)
        backend.compute = None  # type: ignore[method-assign, assignment]  # nothing is left to compute
        assert_close(server.vectors(input=TEXTS[:2]), model.encode(TEXTS[:2], normalize_embeddings=True))
        assert server.embed(input=TEXTS[:2], rationale=True).json["usage"]["rationale_tokens"] > 0
        del backend.compute
        mixed = server.vectors(input=[TEXTS[2], TEXTS[0]])
        assert_close(mixed, model.encode([TEXTS[2], TEXTS[0]], normalize_embeddings=True))
        page = server.get("/metrics").content.decode().splitlines()
        assert 'grace_st_texts_total{source="stored"} 5.0' in page
        assert 'grace_st_texts_total{source="generated"} 1.0' in page
    assert store.info().entries == 3  # it has been kept


def test_a_store_that_fails_costs_no_answer(
    grace_folder: GraceFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = grace_folder("qwen2")
    model = grace_st.load(folder, device="cpu")
    store = RationaleStore(tmp_path / "store.sqlite")

    def full(*arguments: object) -> None:
        raise StoreFileError("the disk is full")

    monkeypatch.setattr(RationaleStore, "get", full)
    monkeypatch.setattr(RationaleStore, "put", full)
    with running(Service(lambda: ModelBackend(model, store), names=["m"])) as server:
        assert_close(server.vectors(input=TEXTS[:1]), model.encode(TEXTS[:1], normalize_embeddings=True))
    assert "cannot be read" in caplog.text and "the rationales of a batch are not kept: the disk is full" in caplog.text


def test_a_store_that_has_to_wait_delays_no_answer(grace_folder: GraceFolder, tmp_path: Path) -> None:
    """Another process may keep the file locked for minutes. A batch is written once, when it has been answered."""
    folder = grace_folder("qwen2")
    model = grace_st.load(folder, device="cpu")
    store = RationaleStore(tmp_path / "store.sqlite")
    kept, free = store.put, threading.Event()
    waits = []

    def put(settings: Mapping[str, Any], entries: Mapping[bytes, StoredRollout]) -> None:
        waits.append(len(entries))
        assert free.wait(60)
        kept(settings, entries)

    store.put = put  # type: ignore[method-assign]
    with running(Service(lambda: ModelBackend(model, store), names=["m"])) as server:
        try:
            assert_close(server.vectors(input=TEXTS[:3]), model.encode(TEXTS[:3], normalize_embeddings=True))
            until(lambda: waits == [3])
        finally:
            free.set()
    assert store.info().entries == 3


# ------------------------------------------------------------------ loading


def test_a_model_that_has_changed_is_not_loaded_again(grace_folder: GraceFolder, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(grace_folder("qwen2"), tmp_path / "model"))
    load = ModelLoader(folder, lambda: grace_st.load(folder, device="cpu"))
    assert load().dimension == load().dimension == 32
    before = folder_revision(folder)
    config = folder / "grace_config.json"
    config.write_text(config.read_text().replace('"max_new_tokens": 24', '"max_new_tokens": 23'))
    assert folder_revision(folder) != before
    with pytest.raises(ChangedModelError, match="have changed since the server was started: start it again"):
        load()


def test_long_texts_are_told(model: grace_st.GraceModel) -> None:
    limits = Limits(long_texts="refuse")
    with running(Service(lambda: ModelBackend(model), names=["nano"], limits=limits)) as server:
        reply = server.embed(input=TEXTS)
    assert reply.error["code"] == "context_length_exceeded" and "text 4" in reply.error["message"]
