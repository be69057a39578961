"""A server on loopback, in this process: for tests that talk to it as clients do."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from grace_st.engines.base import PromptTokens, Sampling
from grace_st.serve.backend import Answer, Backend, OnAnswer
from grace_st.serve.lifecycle import Lifecycle, listen
from grace_st.serve.schemas import EmbeddingRequest, Inputs
from grace_st.serve.service import Service

SECONDS = 30.0
"""More than anything here takes; what hangs fails."""


@dataclass(frozen=True)
class Reply:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        return error


class Running:
    """A running server."""

    def __init__(self, service: Service, lifecycle: Lifecycle) -> None:
        self.service = service
        self.lifecycle = lifecycle
        self.url = lifecycle.url
        self.port = int(lifecycle.url.rpartition(":")[2])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, None, headers)

    def embed(self, body: Any = None, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
        """POST /v1/embeddings with a JSON object of some fields, or with a body as it is."""
        content = body if isinstance(body, bytes) else json.dumps({"model": self.service.names[0], **fields}).encode()
        return self.send("POST", "/v1/embeddings", content, {"Content-Type": "application/json", **(headers or {})})

    def vectors(self, **fields: Any) -> np.ndarray:
        reply = self.embed(**fields)
        assert reply.status == 200, reply.content
        return np.array([item["embedding"] for item in reply.json["data"]], dtype=np.float32)


def until(condition: Callable[[], bool], what: str = "") -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it never came: {what}"
        time.sleep(0.005)


@contextmanager
def running(service: Service, *, ready: bool = True) -> Iterator[Running]:
    """A server of a service."""
    lifecycle = Lifecycle(service, listen("127.0.0.1", 0))
    thread = threading.Thread(target=lifecycle.run, daemon=True)
    thread.start()
    server = Running(service, lifecycle)
    try:
        if ready:
            until(lambda: service.is_ready or service.worker.state == "failed", "ready")
            assert service.is_ready, service.worker.error
        yield server
    finally:
        lifecycle.end()
        lifecycle.end()  # at once
        thread.join(SECONDS)
        assert not thread.is_alive()


class FakeBackend:
    """A model without a model: the vector of a text is made of its characters.

    Attributes:
        batches: The texts of each call of `compute`.
        gate: `compute` waits until it is set.
        failures: What the next calls of `compute` raise.
    """

    dimension = 4
    max_seq_length = 100
    max_new_tokens = 7

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.failures: list[Exception] = []

    def instruction(self, request: EmbeddingRequest) -> str | None:
        if request.prompt_name is not None:
            raise ValueError("the model has no prompts")
        return request.instruction

    def prompts(self, inputs: Inputs, instruction: str | None) -> list[PromptTokens]:
        texts = [item if isinstance(item, str) else "".join(map(chr, item)) for item in inputs]
        return [PromptTokens(tuple(map(ord, text[:100])) or (0,), 0, len(text) > 100) for text in texts]

    def stored(self, prompts: Sequence[PromptTokens], sampling: Sampling) -> list[Answer | None]:
        return [None] * len(prompts)

    def compute(self, prompts: Sequence[PromptTokens], sampling: Sampling, on_answer: OnAnswer) -> None:
        self.batches.append(["".join(map(chr, prompt.ids)) for prompt in prompts])
        self.entered.set()
        assert self.gate.wait(SECONDS)
        if self.failures:
            raise self.failures.pop(0)
        for place, prompt in enumerate(prompts):
            on_answer(place, Answer(fake_vector("".join(map(chr, prompt.ids))), (1, 2), True))

    def decode(self, ids: Sequence[int]) -> str:
        return "a rationale"


def fake_vector(text: str) -> np.ndarray:
    """``[4]``: what `FakeBackend` makes of a text."""
    return np.array([len(text), sum(map(ord, text)) % 1009, ord(text[0]) if text else 0, 1], dtype=np.float32)


def fake_service(backend: Backend | None = None, **options: Any) -> Service:
    """A service of a `FakeBackend`."""
    fake = FakeBackend() if backend is None else backend
    return Service(lambda: fake, **{"names": ["fake"], "normalize": False, **options})
