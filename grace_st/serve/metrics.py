"""Numbers for Prometheus (``/metrics``)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What a server counts; each server has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("grace_st_requests", "Answered requests", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "grace_st_request_seconds", "From request to answer", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.in_flight = Gauge(
            "grace_st_requests_in_flight", "Requests that are being answered", registry=self.registry
        )
        self.texts = Counter(
            "grace_st_texts",
            "Texts of answered requests: generated, shared (another request was waiting for the same), or stored",
            ["source"],
            registry=self.registry,
        )
        self.truncated = Counter("grace_st_texts_truncated", "Texts cut at their end", registry=self.registry)
        self.dropped = Counter(
            "grace_st_texts_dropped", "Texts that left the queue because nobody waited any more", registry=self.registry
        )
        self.prompt_tokens = Counter("grace_st_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.rationale_tokens = Counter("grace_st_rationale_tokens", "Tokens of rationales", registry=self.registry)
        self.waiting = Gauge("grace_st_queue_texts", "Texts that wait for the engine", registry=self.registry)
        self.batch_texts = Histogram(
            "grace_st_batch_texts", "Texts handed to the engine at once", buckets=_TEXTS, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "grace_st_batch_seconds", "Time of a batch", buckets=_SECONDS, registry=self.registry
        )
        self.ready = Gauge("grace_st_ready", "1 when requests are answered", registry=self.registry)
        self.failures = Counter("grace_st_engine_failures", "Breakdowns of the engine", registry=self.registry)

    def watch(self, *, waiting: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Where to read what is a state, not a count."""
        self.waiting.set_function(waiting)
        self.ready.set_function(ready)

    def exposition(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)
