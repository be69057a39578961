"""One warning for all texts of a call that were too long, however many batches the call is made of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass
class TruncationCount:
    """How many texts have been seen, and how many of them were cut at their end.

    Attributes:
        texts: Texts that became prompts.
        truncated: Those of them that did not fit.
        limit: ``max_seq_length`` of the last of them, in tokens.
    """

    texts: int = 0
    truncated: int = 0
    limit: int = 0

    def add(self, texts: int, truncated: int, limit: int) -> None:
        """Count the texts of one batch."""
        self.texts += texts
        self.truncated += truncated
        if truncated:
            self.limit = limit

    def warn(self) -> None:
        """Say how many were cut, if any."""
        if self.truncated:
            logger.warning(
                "%d of %d texts did not fit into max_seq_length=%d tokens together with the template and were cut at "
                "their end",
                self.truncated,
                self.texts,
                self.limit,
            )


# A context variable, so that threads that encode at once do not count each other's texts.
_current: ContextVar[TruncationCount | None] = ContextVar("truncation", default=None)


@contextmanager
def counting_truncation() -> Iterator[TruncationCount]:
    """Count instead of warning: whoever opens this says what there is to say.

    Counts inside it, also those of further such contexts, add up in the outermost.
    """
    outer = _current.get()
    if outer is not None:
        yield outer
        return
    count = TruncationCount()
    token = _current.set(count)
    try:
        yield count
    finally:
        _current.reset(token)


@contextmanager
def one_truncation_warning() -> Iterator[None]:
    """Warn once, at the end, unless somebody outside counts."""
    is_outermost = _current.get() is None
    with counting_truncation() as count:
        yield
    if is_outermost:
        count.warn()


class TruncationLog:
    """What a module reports batch by batch, where nobody counts: it sees no end of the call.

    The stock `SentenceTransformer.encode` is such a case. So that a million texts do not give thousands of lines, it
    warns at the first text that is cut and then whenever their number has grown tenfold.
    """

    def __init__(self) -> None:
        self._total = TruncationCount()
        self._next = 1

    def report(self, texts: int, truncated: int, limit: int) -> None:
        """Report one batch."""
        current = _current.get()
        if current is not None:
            current.add(texts, truncated, limit)
            return
        self._total.add(texts, truncated, limit)
        if self._total.truncated >= self._next:
            self._total.warn()
            while self._next <= self._total.truncated:
                self._next *= 10
