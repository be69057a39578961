"""The server over HTTP, with a model of no weight: limits, keys, clients that go, breakdowns, the end."""

from __future__ import annotations

import base64
import json
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grace_st.engines.base import NonFiniteVectorError
from grace_st.serve.auth import ApiKeys
from grace_st.serve.backend import Backend, ChangedModelError
from grace_st.serve.limits import Limits
from grace_st.serve.service import Service
from tests.serving import SECONDS, FakeBackend, Reply, Running, fake_service, fake_vector, running, until

LIMITS = Limits(
    max_request_bytes=2000,
    max_requests=6,
    max_texts=5,
    max_queue_texts=6,
    max_batch_texts=4,
    request_seconds=20.0,
    grace_seconds=10.0,
    max_restarts=1,
    restart_seconds=0.01,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server that keeps no state between tests."""
    with running(fake_service(limits=LIMITS)) as server:
        yield server


@pytest.fixture(autouse=True)
def no_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those after a breakdown look at all that the test process has imported, for a second each."""
    monkeypatch.setattr("grace_st.serve.worker.gc.collect", lambda: 0)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def held(backend: FakeBackend, server: Running, pool: ThreadPoolExecutor, **fields: Any) -> Future[Reply]:
    """A request that the engine is at work on, until `backend.gate` is set."""
    backend.gate.clear()
    backend.entered.clear()
    future = pool.submit(server.embed, **{"input": "held", **fields})
    assert backend.entered.wait(SECONDS)
    return future


# ------------------------------------------------------------------ answers


def test_an_answer_has_openais_shape(server: Running) -> None:
    reply = server.embed(input=["ab", "cde"], user="somebody")
    assert reply.status == 200 and reply.headers["content-type"] == "application/json"
    assert reply.json == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": fake_vector(text).tolist()}
            for index, text in enumerate(["ab", "cde"])
        ],
        "model": "fake",
        "usage": {"prompt_tokens": 5, "total_tokens": 9, "rationale_tokens": 4},
    }


def test_base64_is_little_endian_float32(server: Running) -> None:
    (item,) = server.embed(input="ab", encoding_format="base64").json["data"]
    assert struct.unpack("<4f", base64.b64decode(item["embedding"])) == tuple(fake_vector("ab"))


def test_rationales_on_request(server: Running) -> None:
    first, second = server.embed(input=["ab", "c" * 200], rationale=True).json["data"]
    assert first["rationale"] == "a rationale" and first["rationale_tokens"] == 2 and first["finished"] is True
    assert (first["truncated"], second["truncated"]) == (False, True)


def test_the_models(server: Running) -> None:
    listed = server.get("/v1/models").json
    assert listed["object"] == "list" and [model["id"] for model in listed["data"]] == ["fake"]
    model = server.get("/v1/models/fake").json
    assert model == listed["data"][0] and model["dimensions"] == 4 and model["max_new_tokens"] == 7
    assert server.get("/v1/models/org/other").error["code"] == "model_not_found"


def test_several_names(pool: ThreadPoolExecutor) -> None:
    with running(fake_service(names=["org/one", "text-embedding-3-small"])) as server:
        assert server.get("/v1/models/org/one").json["id"] == "org/one"
        assert server.embed(model="text-embedding-3-small", input="a").json["model"] == "text-embedding-3-small"


def test_the_probes_and_the_schema(server: Running) -> None:
    assert (server.get("/health").status, server.get("/ready").json) == (200, {"status": "ready"})
    assert (server.send("HEAD", "/ready").status, server.send("HEAD", "/ready").content) == (200, b"")
    schema = server.get("/openapi.json").json
    body = schema["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["required"]) == {"input", "model"} and "rationale" in body["properties"]


def test_metrics_count(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    with running(fake_service(backend)) as server:
        waiting = held(backend, server, pool)
        shared = pool.submit(server.embed, input=["held", "x"])
        until(lambda: server.service.queue.waiting == 1)
        assert "grace_st_queue_texts 1.0" in server.get("/metrics").content.decode()
        backend.gate.set()
        assert waiting.result().status == shared.result().status == 200
        server.embed(input=3)
        page = server.get("/metrics").content.decode()
    for line in (
        'grace_st_requests_total{path="/v1/embeddings",status="200"} 2.0',
        'grace_st_requests_total{path="/v1/embeddings",status="400"} 1.0',
        'grace_st_texts_total{source="generated"} 2.0',
        'grace_st_texts_total{source="shared"} 1.0',
        "grace_st_prompt_tokens_total 9.0",
        "grace_st_rationale_tokens_total 6.0",
        "grace_st_batch_texts_count 2.0",
        "grace_st_queue_texts 0.0",
        "grace_st_ready 1.0",
    ):
        assert line in page.splitlines()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"input": "a", "model": "gpt"}, 404, "model_not_found", "model"),
        ({"input": ["a"] * 6}, 413, "request_too_large", "input"),
        ({"input": "a" * 3000}, 413, "request_too_large", None),
        ({"input": "a" * 300_000}, 413, "request_too_large", None),
        ({"input": "a", "dimensions": 5}, 400, "invalid_request", "dimensions"),
        ({"input": "a", "max_new_tokens": 8}, 400, "invalid_request", "max_new_tokens"),
        ({"input": "a", "prompt_name": "q"}, 400, "invalid_request", "prompt_name"),
        ({"input": []}, 400, "invalid_request", "input"),
    ],
)
def test_requests_that_are_refused(
    server: Running, fields: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    reply = server.embed(**fields)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (status, code, param)
    assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_read(server: Running, media_type: str) -> None:
    body = b'{"model": "fake", "input": "a"}'
    assert server.embed(body, headers={"Content-Type": media_type}).error["code"] == "unsupported_media_type"
    assert server.embed(body, headers={"Content-Type": "application/json; charset=utf-8"}).status == 200


def test_unknown_paths_and_methods(server: Running) -> None:
    assert (server.get("/v1/chat/completions").status, server.get("/x").error["code"]) == (404, "not_found")
    reply = server.get("/v1/embeddings")
    assert (reply.status, reply.headers["allow"], reply.error["code"]) == (405, "POST", "method_not_allowed")


def test_long_texts_are_cut_or_refused(server: Running) -> None:
    assert server.vectors(input="a" * 101)[0, 0] == 100
    with running(fake_service(limits=replace(LIMITS, long_texts="refuse"))) as strict:
        assert strict.embed(input=["a" * 100]).status == 200
        reply = strict.embed(input=["a", "a" * 101])
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert "text 1 does not fit" in reply.error["message"] and "100 tokens" in reply.error["message"]


def test_token_ids_are_read_or_refused(server: Running) -> None:
    assert server.vectors(input=[97, 98])[0].tolist() == fake_vector("ab").tolist()
    with running(fake_service(limits=replace(LIMITS, token_ids="refuse"))) as strict:
        reply = strict.embed(input=[[97], [98]])
        assert strict.embed(input="ab").status == 200
    assert (reply.status, reply.error["param"]) == (400, "input")
    assert "check_embedding_ctx_length=False" in reply.error["message"]


def test_keys(tmp_path: Any) -> None:
    (tmp_path / "keys").write_text("# ours\nalpha\n\nbeta\n")
    with running(fake_service(keys=ApiKeys.from_file(tmp_path / "keys"))) as server:
        for key in ("alpha", "beta"):
            assert server.embed(input="a", headers={"Authorization": f"Bearer {key}"}).status == 200
        for header in ({}, {"Authorization": "Bearer alph"}, {"Authorization": "alpha"}, {"Authorization": "Bearer "}):
            reply = server.embed(input="a", headers=header)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
            assert reply.headers["www-authenticate"] == "Bearer"
        assert server.get("/v1/models").status == server.get("/v1/models/fake").status == 401
        assert server.embed(b"{", headers={}).status == 401  # before anything is read
        assert [server.get(path).status for path in ("/health", "/ready", "/metrics")] == [200] * 3


@pytest.mark.parametrize("keys", [[""], ["a b"], ["ä"], ["ok", "line\nbreak"]])
def test_keys_that_no_header_holds_are_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        ApiKeys(keys)


def test_a_file_without_keys_is_refused(tmp_path: Any) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    with pytest.raises(ValueError, match="there is no API key in"):
        ApiKeys.from_file(tmp_path / "keys")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_texts": 0}, "max_texts must be an integer >= 1, got 0"),
        ({"max_texts": 10, "max_queue_texts": 5}, "would never be accepted"),
        ({"request_seconds": 0}, "request_seconds must be > 0"),
        ({"grace_seconds": float("nan")}, "grace_seconds must be a number of seconds"),
        ({"long_texts": "cut"}, "'truncate' or 'refuse'"),
        ({"token_ids": "no"}, "'accept' or 'refuse'"),
    ],
)
def test_limits_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**options)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=10,
)
NAMES = ("input", "model", "dimensions", "encoding_format", "rationale", "max_new_tokens", "instruction", "user", "x")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=60)
    | st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4).map(
        lambda fields: json.dumps({"model": "fake", "input": "a", **fields}).encode()
    ),
    media_type=st.sampled_from(["application/json"] * 4 + ["text/plain", "application/json;;=", "/"]),
    request_id=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=140),
)
def test_no_request_breaks_the_server(server: Running, body: bytes, media_type: str, request_id: str) -> None:
    reply = server.embed(body, headers={"Content-Type": media_type, "X-Request-Id": request_id})
    assert reply.status in (200, 400, 404, 413, 415), reply.content
    assert reply.headers["x-request-id"]
    if reply.status == 200:
        assert reply.json["data"]
    else:
        assert reply.error["code"]


# ------------------------------------------------------------------ batches and queues


def test_requests_share_batches_and_texts(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    with running(fake_service(backend, limits=LIMITS)) as server:
        first = held(backend, server, pool)
        later = [pool.submit(server.vectors, input=[text, "same"]) for text in ("b", "c", "d")]
        until(lambda: server.service.queue.waiting == 4)
        backend.gate.set()
        assert first.result().status == 200
        for text, future in zip("bcd", later, strict=True):
            np.testing.assert_array_equal(future.result(), [fake_vector(text), fake_vector("same")])
    assert backend.batches[0] == ["held"] and sorted(backend.batches[1]) == ["b", "c", "d", "same"]


def test_a_full_queue_is_429(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    with running(fake_service(backend, limits=LIMITS)) as server:
        waiting = [held(backend, server, pool), pool.submit(server.embed, input=list("abcd"))]
        until(lambda: server.service.queue.waiting == 4)
        reply = server.embed(input=list("xyz"))
        assert (reply.status, reply.error["code"], reply.error["type"]) == (429, "queue_full", "rate_limit_error")
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        waiting += [pool.submit(server.embed, input=letter) for letter in "stab"]
        until(lambda: server.service.held == 6)
        reply = server.embed(b"not even read")
        assert (reply.status, reply.error["code"]) == (429, "queue_full")
        assert server.get("/ready").status == 200  # busy is not broken
        backend.gate.set()
        assert [future.result().status for future in waiting] == [200] * 6


def test_no_time_left_is_504(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    with running(fake_service(backend, limits=replace(LIMITS, request_seconds=0.3))) as server:
        at_work = held(backend, server, pool)
        waiting = pool.submit(server.embed, input=["b", "c"])
        for future in (at_work, waiting):
            assert (future.result().status, future.result().error["code"]) == (504, "timeout")
        assert server.service.queue.waiting == 0 and server.service.held == 0
        # The engine is stuck: nobody waits for what it does.
        assert server.get("/health").status == 503
        backend.gate.set()
        until(lambda: server.get("/health").status == 200)
        assert server.embed(input="d").status == 200
    assert ["b", "c"] not in backend.batches


def test_a_body_that_never_ends_is_408() -> None:
    with (
        running(fake_service(limits=replace(LIMITS, request_seconds=0.3))) as server,
        socket.create_connection(("127.0.0.1", server.port), SECONDS) as client,
    ):
        client.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 408")


# ------------------------------------------------------------------ clients that go


def test_texts_of_a_client_that_has_gone_leave_the_queue(
    pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    with running(fake_service(backend, limits=LIMITS)) as server, caplog.at_level(logging.INFO, "grace_st.serve"):
        at_work = held(backend, server, pool)
        impatient = server.connect()
        body = json.dumps({"model": "fake", "input": ["b", "c"]})
        impatient.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        until(lambda: server.service.queue.waiting == 2)
        stays = pool.submit(server.embed, input=["c", "d"])
        until(lambda: server.service.queue.waiting == 3)
        impatient.close()
        until(lambda: server.service.queue.waiting == 2 and server.service.held == 2)
        backend.gate.set()
        assert at_work.result().status == stays.result().status == 200
        until(lambda: "grace_st_texts_dropped_total 1.0" in server.get("/metrics").content.decode())
    assert backend.batches == [["held"], ["c", "d"]]
    statuses = [record.fields["status"] for record in caplog.records if record.message == "request"]  # type: ignore[attr-defined]
    assert sorted(statuses) == [200, 200, 499]


def test_a_client_that_goes_while_it_sends(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as client:
        client.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        until(lambda: server.service.held == 1)
    until(lambda: server.service.held == 0)
    assert server.embed(input="a").status == 200


# ------------------------------------------------------------------ breakdowns


class _Loads:
    """Gives a backend each time it is called, or raises what is given instead."""

    def __init__(self, *results: Backend | Exception) -> None:
        self.results = list(results)
        self.count = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> Backend:
        self.count += 1
        assert self.gate.wait(SECONDS)
        result = self.results[min(self.count, len(self.results)) - 1]
        if isinstance(result, Exception):
            raise result
        return result


def _service(load: Callable[[], Backend]) -> Service:
    return Service(load, names=["fake"], limits=LIMITS, normalize=False)


def test_an_engine_that_breaks_down_is_loaded_again(pool: ThreadPoolExecutor) -> None:
    backend, fresh = FakeBackend(), FakeBackend()
    load = _Loads(backend, fresh)
    with running(_service(load)) as server:
        victim = held(backend, server, pool)
        bystander = pool.submit(server.embed, input="b")
        until(lambda: server.service.queue.waiting == 1)
        load.gate.clear()
        backend.failures.append(RuntimeError("CUDA error: an illegal memory access"))
        backend.gate.set()
        reply = victim.result()
        assert (reply.status, reply.error["code"]) == (503, "engine_unavailable") and reply.headers["retry-after"]
        # While it is loaded: not ready, alive, and new requests are told so at once.
        assert server.get("/ready").status == 503 and server.get("/ready").json == {"status": "restarting"}
        assert server.get("/health").status == 200
        assert server.embed(input="c").status == 503
        load.gate.set()
        assert bystander.result().status == 200  # it waited, and was not lost
        assert server.get("/ready").status == 200 and server.embed(input="c").status == 200
        assert "grace_st_engine_failures_total 1.0" in server.get("/metrics").content.decode()
    assert load.count == 2 and fresh.batches[0] == ["b"]


def test_an_engine_that_breaks_down_again_and_again_ends_the_server(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    backend.failures = [RuntimeError("broken")] * 100
    load = _Loads(backend)
    service = _service(load)
    with running(service) as server:
        statuses = []
        for _ in range(LIMITS.max_restarts + 1):
            until(lambda: service.is_ready)
            statuses.append(server.embed(input="a").status)
        assert statuses == [503] * len(statuses)
        until(lambda: service.worker.state == "failed")
        assert load.count == 2 and not service.is_healthy
        until(lambda: server.lifecycle._server.should_exit)


def test_breakdowns_count_in_a_row() -> None:
    backend = FakeBackend()
    load = _Loads(backend)
    with running(_service(load)) as server:
        for _ in range(LIMITS.max_restarts + 1):
            backend.failures = [RuntimeError("broken")]
            assert server.embed(input="a").status == 503
            until(lambda: server.service.is_ready)
            assert server.embed(input="a").status == 200
    assert load.count == LIMITS.max_restarts + 2


def test_loading_again_is_tried_again() -> None:
    backend = FakeBackend()
    backend.failures = [RuntimeError("broken")]
    load = _Loads(backend, OSError("the disk is not there"), FakeBackend())
    service = Service(load, names=["fake"], limits=replace(LIMITS, max_restarts=2), normalize=False)
    with running(service) as server:
        assert server.embed(input="a").status == 503
        until(lambda: server.service.is_ready)
        assert server.embed(input="a").status == 200
    assert load.count == 3


def test_another_model_is_not_served_under_the_same_name() -> None:
    backend = FakeBackend()
    backend.failures = [RuntimeError("broken")]
    load = _Loads(backend, ChangedModelError("the files have changed"))
    service = _service(load)
    with running(service) as server:
        assert server.embed(input="a").status == 503
        until(lambda: service.worker.state == "failed")
    assert load.count == 2 and isinstance(service.worker.error, ChangedModelError)


def test_one_text_without_a_vector_costs_its_neighbours_nothing(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    with running(fake_service(backend, limits=LIMITS)) as server:
        first = held(backend, server, pool)
        bad = pool.submit(server.embed, input=["b"])
        until(lambda: server.service.queue.waiting == 1)
        good = pool.submit(server.embed, input=["c"])
        until(lambda: server.service.queue.waiting == 2)
        until_failure = [NonFiniteVectorError(0, "hidden states")]
        original = backend.compute

        def compute(prompts: Any, sampling: Any, on_answer: Any) -> None:
            if len(prompts) == 2 and until_failure:
                raise until_failure.pop()
            original(prompts, sampling, on_answer)

        backend.compute = compute  # type: ignore[method-assign]
        backend.gate.set()
        assert first.result().status == good.result().status == 200
        assert (bad.result().status, bad.result().error["code"]) == (500, "non_finite_vector")
        assert server.get("/ready").status == 200


def test_an_answer_does_not_wait_for_its_batch(pool: ThreadPoolExecutor) -> None:
    """Two requests in one batch: the one whose text is done is answered while the other's is still being written."""
    backend, slow = FakeBackend(), threading.Event()
    with running(fake_service(backend, limits=LIMITS)) as server:
        first = held(backend, server, pool)
        original = backend.compute

        def compute(prompts: Any, sampling: Any, on_answer: Any) -> None:
            assert len(prompts) == 2
            original(prompts[1:], sampling, lambda _, answer: on_answer(1, answer))
            assert slow.wait(SECONDS)
            original(prompts[:1], sampling, on_answer)

        long = pool.submit(server.embed, input=["a long story"])
        until(lambda: server.service.queue.waiting == 1)
        short = pool.submit(server.embed, input=["b"])
        until(lambda: server.service.queue.waiting == 2)
        backend.compute = compute  # type: ignore[method-assign]
        backend.gate.set()
        assert first.result().status == short.result(SECONDS).status == 200
        assert not long.done()
        slow.set()
        assert long.result().status == 200


def test_a_breakdown_costs_only_what_has_no_answer(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    with running(fake_service(backend, limits=LIMITS)) as server:
        first = held(backend, server, pool)
        done = pool.submit(server.embed, input=["a"])
        until(lambda: server.service.queue.waiting == 1)
        lost = pool.submit(server.embed, input=["b"])
        until(lambda: server.service.queue.waiting == 2)
        original = backend.compute

        def compute(prompts: Any, sampling: Any, on_answer: Any) -> None:
            original(prompts[:1], sampling, on_answer)
            backend.compute = original  # type: ignore[method-assign]
            raise RuntimeError("broken")

        backend.compute = compute  # type: ignore[method-assign]
        backend.gate.set()
        assert first.result().status == done.result().status == 200
        assert (lost.result().status, lost.result().error["code"]) == (503, "engine_unavailable")


def test_an_engine_that_forgets_a_text_has_broken_down(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    original = backend.compute
    backend.compute = lambda prompts, sampling, on_answer: None  # type: ignore[method-assign]
    with running(fake_service(backend, limits=LIMITS)) as server:
        assert server.embed(input="a").status == 503
        backend.compute = original  # type: ignore[method-assign]
        until(lambda: server.embed(input="a").status == 200)


def test_a_defect_of_ours_is_an_answer_too(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*arguments: object) -> bytes:
        raise KeyError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(Service, "embed", broken)
        reply = server.embed(input="a")
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert reply.headers["x-request-id"] and "defect" not in reply.error["message"]
    assert server.embed(input="a").status == 200


# ------------------------------------------------------------------ begin and end


def test_a_server_that_loads_is_alive_and_not_ready() -> None:
    load = _Loads(FakeBackend())
    load.gate.clear()
    with running(_service(load), ready=False) as server:
        assert server.get("/health").status == 200
        assert (server.get("/ready").status, server.get("/ready").json) == (503, {"status": "loading"})
        assert server.get("/v1/models/fake").status == 200
        reply = server.embed(input="a")
        assert (reply.status, reply.error["code"]) == (503, "engine_unavailable")
        load.gate.set()
        until(lambda: server.get("/ready").status == 200)


def test_the_end_waits_for_what_is_in_flight_and_refuses_the_rest(pool: ThreadPoolExecutor) -> None:
    backend = FakeBackend()
    with running(fake_service(backend, limits=LIMITS)) as server:
        waiting = [held(backend, server, pool), pool.submit(server.embed, input=list("abcd"))]
        until(lambda: server.service.queue.waiting == 4)
        server.lifecycle.end()
        until(lambda: server.service.draining)
        reply = server.embed(input="x")
        assert (reply.status, reply.error["code"]) == (503, "shutting_down")
        assert server.get("/ready").json == {"status": "draining"} and server.get("/health").status == 200
        backend.gate.set()
        assert [future.result().status for future in waiting] == [200, 200]
        until(lambda: server.lifecycle._server.should_exit)
    assert not server.lifecycle.has_cut_off and server.service.worker.state == "stopped"


@pytest.mark.parametrize("again", [False, True])
def test_the_end_does_not_wait_for_ever(pool: ThreadPoolExecutor, again: bool) -> None:
    """Until the grace is over, or until it is asked for a second time."""
    backend = FakeBackend()
    limits = replace(LIMITS, grace_seconds=10.0 if again else 0.1)
    with running(fake_service(backend, limits=limits)) as server:
        waiting = [held(backend, server, pool), pool.submit(server.embed, input=list("abcd"))]
        until(lambda: server.service.queue.waiting == 4)
        server.lifecycle.end()
        if again:
            server.lifecycle.end()
        replies = [future.result() for future in waiting]
        assert [(reply.status, reply.error["code"]) for reply in replies] == [(503, "shutting_down")] * 2
        assert server.lifecycle.has_cut_off
        backend.gate.set()


# ------------------------------------------------------------------ the log


def test_a_line_for_each_request_without_its_texts(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "grace_st.serve"),
        running(fake_service()) as server,
        running(fake_service(log_texts=True)) as talkative,
    ):
        reply = server.embed(input=["a secret", "b"], headers={"X-Request-Id": "mine-1"})
        assert reply.headers["x-request-id"] == "mine-1"
        server.embed(input=3, headers={"Authorization": "Bearer secret"})
        server.get("/health")
        until(lambda: sum(record.message == "request" for record in caplog.records) == 2)
        first, second = (record.fields for record in caplog.records if record.message == "request")  # type: ignore[attr-defined]
        assert first.items() >= {"request_id": "mine-1", "status": 200, "texts": 2, "prompt_tokens": 9}.items()
        assert first["rationale_tokens"] == 4 and 0 <= first["seconds"] < SECONDS and first["client"] == "127.0.0.1"
        assert (second["status"], second["code"]) == (400, "invalid_request")
        assert not any("secret" in str(vars(record)) for record in caplog.records)
        talkative.embed(input=["a secret" * 100])
        until(lambda: "input" in getattr(caplog.records[-1], "fields", {}))
        assert caplog.records[-1].fields["input"] == [("a secret" * 100)[:200]]  # type: ignore[attr-defined]
