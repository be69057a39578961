"""The log: one JSON object a line; one line for each request, without its texts."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

access_logger = logging.getLogger("grace_st.serve.access")

TEXT_CHARACTERS = 200
"""As much of each text is logged where that is asked for."""


@dataclass
class Record:
    """What is logged of a request.

    Attributes:
        request_id: The client's, or a new one; also a header of the response.
        method: HTTP method.
        path: Path without the query.
        client: Address of the peer.
        status: HTTP status; 499 where the client had gone.
        code: Code of the error, if it was one.
        fields: What is known about its texts: their number, tokens, where the answers came from.
        started: When it began, by the monotonic clock.
    """

    request_id: str
    method: str
    path: str
    client: str | None
    status: int = 500
    code: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    def log(self) -> None:
        """Write its line: probes and scrapes at the level DEBUG, since they come every few seconds."""
        level = logging.INFO if self.path.startswith("/v1/") or self.status >= 400 else logging.DEBUG
        values = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 4),
            "client": self.client,
            **({} if self.code is None else {"code": self.code}),
            **self.fields,
        }
        access_logger.log(level, "request", extra={"fields": values})


class JsonFormatter(logging.Formatter):
    """Log records as JSON objects, with the values of their attribute ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False, default=str).encode("utf-8", "replace").decode("utf-8")


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Send the server's log, uvicorn's and the library's to standard error as JSON lines.

    Args:
        level: The lowest level that is written; of uvicorn, whose lines about start and end repeat ours, warnings.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    lowest = logging.getLevelNamesMapping()[level.upper()]
    levels = {"grace_st": lowest, "uvicorn": max(lowest, logging.WARNING)}
    before = {}
    for name, chosen in levels.items():
        logger = logging.getLogger(name)
        before[logger] = (logger.handlers[:], logger.propagate, logger.level)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(chosen)
    try:
        yield
    finally:
        for logger, (handlers, propagate, old) in before.items():
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(old)
