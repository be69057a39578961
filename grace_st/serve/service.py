"""What the server does with a request, apart from HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from anyio.to_thread import run_sync

from grace_st.engines.base import PromptTokens, Sampling
from grace_st.serve.auth import ApiKeys
from grace_st.serve.backend import Answer, Backend
from grace_st.serve.batcher import Batcher
from grace_st.serve.errors import (
    BusyError,
    InvalidRequestError,
    NoTimeError,
    ShuttingDownError,
    TextTooLongError,
    TooLargeError,
    UnavailableError,
    UnknownModelError,
)
from grace_st.serve.limits import Limits
from grace_st.serve.logs import TEXT_CHARACTERS, Record
from grace_st.serve.metrics import Metrics
from grace_st.serve.rendering import render, usage
from grace_st.serve.schemas import EmbeddingRequest
from grace_st.serve.worker import Worker


class Service:
    """A model behind a queue.

    Args:
        load: Loads the model, the first time and after each breakdown.
        names: Names under which it is served; the first is the main one.
        limits: What is taken on.
        keys: API keys that are accepted.
        normalize: Return vectors of length 1.
        log_texts: Log the beginning of each text.

    Attributes:
        held: Requests for embeddings that are being answered.
        draining: Whether new ones are refused since the server is about to end.
        on_ready: Called by the engine's thread when the model has been loaded.
        on_failure: Called by the engine's thread when it has given up.

    Raises:
        ValueError: There is no name.
    """

    def __init__(
        self,
        load: Callable[[], Backend],
        *,
        names: Sequence[str],
        limits: Limits | None = None,
        keys: ApiKeys | None = None,
        normalize: bool = True,
        log_texts: bool = False,
    ) -> None:
        if not names or not all(names):
            raise ValueError(f"a served model needs a name, got {list(names)!r}")
        self.names = tuple(names)
        self.limits = limits or Limits()
        self.keys = keys or ApiKeys()
        self.normalize = normalize
        self.log_texts = log_texts
        self.created = int(time.time())
        self.held = 0
        self.draining = False
        self.on_ready: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None
        self.metrics = Metrics()
        self.queue: Batcher[Answer] = Batcher(self.limits.max_queue_texts)
        self.worker = Worker(
            load,
            self.queue,
            self.limits,
            self.metrics,
            on_ready=lambda: self.on_ready(),
            on_failure=lambda: self.on_failure(),
        )
        self.metrics.watch(waiting=lambda: self.queue.waiting, ready=lambda: self.is_ready)

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.worker.state == "ready" and not self.draining

    @property
    def status(self) -> str:
        """The state in a word, for ``/ready``."""
        return "draining" if self.draining else self.worker.state

    @property
    def is_healthy(self) -> bool:
        """Whether it is worth keeping the process.

        An engine that has been at work on one batch for longer than any request may take is stuck: all who waited for
        that batch have gone.
        """
        is_stuck = self.worker.busy_seconds > self.limits.request_seconds
        return self.worker.state not in ("failed", "stopped") and not is_stuck

    def check_open(self) -> None:
        """Refuse a request that could not be answered now, before its body is read.

        Raises:
            ShuttingDownError: The server is about to end.
            UnavailableError: There is no engine.
            BusyError: Too many requests are being answered.
        """
        if self.draining:
            raise ShuttingDownError("the server is shutting down: send this to another one, or try again later")
        if self.worker.state != "ready":
            raise UnavailableError(f"the model is not there (it is {self.worker.state}): try again", retry_after=5)
        if self.held >= self.limits.max_requests:
            raise BusyError(f"{self.held} requests are being answered already, which is the limit: try again later")

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While a request for embeddings is being answered."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    def check_model(self, name: str) -> None:
        """Refuse another model's name.

        Raises:
            UnknownModelError: It is one.
        """
        if name not in self.names:
            raise UnknownModelError(
                f"the model {name[:200]!r} is not served here; there is {', '.join(map(repr, self.names))}",
                param="model",
            )

    async def embed(self, request: EmbeddingRequest, record: Record) -> bytes:
        """The body of the response to a request.

        Args:
            request: The request.
            record: Where to note what is logged about it.

        Raises:
            ApiError: There is none.
        """
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                return await self._embed(request, record)
        except TimeoutError:
            raise NoTimeError(
                f"there was no answer within {self.limits.request_seconds:g} seconds: send fewer texts at once, or try "
                "when less is waiting"
            ) from None

    async def _embed(self, request: EmbeddingRequest, record: Record) -> bytes:
        record.fields["texts"] = len(request.input)
        backend = self.worker.backend
        if backend is None:
            raise UnavailableError("the model has just gone: try again", retry_after=5)
        sampling = self._checked(request, backend)
        if self.log_texts:
            record.fields["input"] = [item[:TEXT_CHARACTERS] for item in request.input]
        try:
            instruction = backend.instruction(request)
        except ValueError as error:
            raise InvalidRequestError(str(error), param="prompt_name") from None
        try:
            prompts = await run_sync(backend.prompts, request.input, instruction)
        except ValueError as error:
            raise InvalidRequestError(str(error), param="input") from None
        truncated = self._truncated(prompts, backend)
        answers, stored, shared = await self._answers(backend, prompts, sampling)
        body = await run_sync(
            partial(render, request, prompts, answers, normalize=self.normalize, decode=backend.decode)
        )
        used = usage(prompts, answers)
        record.fields |= {**used, "truncated": truncated, "stored": stored, "shared": shared}
        self.metrics.truncated.inc(truncated)
        self.metrics.prompt_tokens.inc(used["prompt_tokens"])
        self.metrics.rationale_tokens.inc(used["rationale_tokens"])
        sources = {"stored": stored, "shared": shared, "generated": len(prompts) - stored - shared}
        for source, count in sources.items():
            self.metrics.texts.labels(source).inc(count)
        return body

    def _checked(self, request: EmbeddingRequest, backend: Backend) -> Sampling:
        limits = self.limits
        if len(request.input) > limits.max_texts:
            raise TooLargeError(
                f"the request has {len(request.input)} texts, and the limit is {limits.max_texts}: send them in parts",
                param="input",
            )
        if limits.token_ids == "refuse" and not isinstance(request.input[0], str):
            raise InvalidRequestError(
                "this server takes no token ids, since those of another tokenizer are other words: send strings (in "
                "LangChain: check_embedding_ctx_length=False)",
                param="input",
            )
        if request.dimensions is not None and request.dimensions > backend.dimension:
            raise InvalidRequestError(
                f"dimensions is {request.dimensions}, but the vectors of this model have {backend.dimension}",
                param="dimensions",
            )
        budget = backend.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        if budget > backend.max_new_tokens:
            raise InvalidRequestError(
                f"max_new_tokens is {budget}, and this server writes rationales of at most {backend.max_new_tokens} "
                "tokens",
                param="max_new_tokens",
            )
        return Sampling(max_new_tokens=budget)

    def _truncated(self, prompts: Sequence[PromptTokens], backend: Backend) -> int:
        places = [index for index, prompt in enumerate(prompts) if prompt.truncated]
        if places and self.limits.long_texts == "refuse":
            raise TextTooLongError(
                f"text {places[0]} does not fit: with template and instruction a prompt may have "
                f"{backend.max_seq_length} tokens; send it in parts",
                param="input",
            )
        return len(places)

    async def _answers(
        self, backend: Backend, prompts: Sequence[PromptTokens], sampling: Sampling
    ) -> tuple[list[Answer], int, int]:
        """The answers, how many of them were stored, and how many shared with other requests."""
        answers = await run_sync(backend.stored, prompts, sampling)
        missing = [index for index, answer in enumerate(answers) if answer is None]
        shared = 0
        if missing:
            ticket = self.queue.submit([prompts[index] for index in missing], sampling)
            try:
                fresh = await ticket.wait()
            finally:
                # Nobody waits here any more, also where the client has gone or time is up.
                self.metrics.dropped.inc(self.queue.cancel(ticket))
            shared = ticket.shared
            for index, answer in zip(missing, fresh, strict=True):
                answers[index] = answer
        return [answer for answer in answers if answer is not None], len(prompts) - len(missing), shared
