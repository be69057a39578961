"""What the server takes on: sizes, numbers and times."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

LongTexts = Literal["truncate", "refuse"]
TokenIds = Literal["accept", "refuse"]

_MOST_SECONDS = 10**6  # timers do not take any number


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_request_bytes: Largest body of a request, in bytes.
        max_requests: Requests held at once; further ones are refused.
        max_texts: Texts of one request. OpenAI's own limit is the default.
        max_queue_texts: Texts that wait for the engine, of all requests; a request that does not fit is refused.
        max_batch_texts: Texts handed to the engine at once. Those that arrive meanwhile wait for its end.
        linger_seconds: How long a batch that is not full waits for more texts; in seconds.
        request_seconds: How long a request may take, in seconds.
        grace_seconds: How long a shutdown waits for what is in flight, in seconds.
        long_texts: What happens to a text that does not fit into the model's ``max_seq_length``: ``"truncate"`` (at
            its end, as `encode` does) or ``"refuse"``.
        token_ids: Whether texts may come as token ids. Some clients send those of another model's tokenizer, which are
            other words here, and nobody can tell: with ``"refuse"`` they get an error instead of wrong vectors.
        max_restarts: How many times in a row an engine that broke down is loaded again.
        restart_seconds: Pause before the first of these, in seconds; it doubles each time, to a minute at most.

    Raises:
        ValueError: A value is out of range.
    """

    max_request_bytes: int = 8 * 2**20
    max_requests: int = 256
    max_texts: int = 2048
    max_queue_texts: int = 8192
    max_batch_texts: int = 64
    linger_seconds: float = 0.0
    request_seconds: float = 600.0
    grace_seconds: float = 30.0
    long_texts: LongTexts = "truncate"
    token_ids: TokenIds = "accept"
    max_restarts: int = 3
    restart_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_request_bytes", "max_requests", "max_texts", "max_queue_texts", "max_batch_texts"):
            _whole(name, getattr(self, name), 1)
        _whole("max_restarts", self.max_restarts, 0)
        for name in ("linger_seconds", "grace_seconds", "restart_seconds"):
            _seconds(name, getattr(self, name))
        _seconds("request_seconds", self.request_seconds)
        if self.request_seconds <= 0:
            raise ValueError(f"request_seconds must be > 0, got {self.request_seconds!r}")
        if self.long_texts not in get_args(LongTexts):
            raise ValueError(f"long_texts must be 'truncate' or 'refuse', got {self.long_texts!r}")
        if self.token_ids not in get_args(TokenIds):
            raise ValueError(f"token_ids must be 'accept' or 'refuse', got {self.token_ids!r}")
        if self.max_queue_texts < self.max_texts:
            raise ValueError(
                f"max_queue_texts={self.max_queue_texts} is less than max_texts={self.max_texts}, so a request of that "
                "many texts would never be accepted: raise the one or lower the other"
            )


def _whole(name: str, value: object, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")


def _seconds(name: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= _MOST_SECONDS:
        raise ValueError(f"{name} must be a number of seconds from 0 to {_MOST_SECONDS}, got {value!r}")
