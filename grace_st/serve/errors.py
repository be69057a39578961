"""What a client is told when there is no answer: the shape and the codes of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar


class ApiError(Exception):
    """An answer that is an error.

    Args:
        message: What was given, what was expected, what to do.
        param: The field of the request that is wrong.

    Attributes:
        status: HTTP status.
        type: Kind of the error, as OpenAI names them.
        code: What exactly, for programs.
        headers: Headers of the response.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, Any]:
        """The response as JSON values."""
        return error_body(self.message, type_=self.type, code=self.code, param=self.param)


def error_body(message: str, *, type_: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's shape of an error."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


class InvalidRequestError(ApiError):
    """A request that can never be answered as it is."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class TextTooLongError(InvalidRequestError):
    """A text does not fit, and is not to be cut."""

    code = "context_length_exceeded"


class InvalidKeyError(ApiError):
    """The API key is missing or wrong."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers["www-authenticate"] = "Bearer"


class UnknownModelError(ApiError):
    """There is no model of that name here."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class SlowBodyError(ApiError):
    """The request itself did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class TooLargeError(ApiError):
    """A request of too many bytes or texts."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class MediaTypeError(ApiError):
    """The body is not JSON by its own account."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class _LaterError(ApiError):
    """An error that goes away.

    Args:
        message: See `ApiError`.
        retry_after: After how many seconds to try again.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.headers["retry-after"] = str(retry_after)


class BusyError(_LaterError):
    """More is waiting already than the server takes on."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class UnavailableError(_LaterError):
    """The engine is not there."""

    status = 503
    type = "service_unavailable_error"
    code = "engine_unavailable"


class ShuttingDownError(UnavailableError):
    """The server is about to end."""

    code = "shutting_down"


class NoTimeError(ApiError):
    """The answer was not there in time."""

    status = 504
    type = "server_error"
    code = "timeout"


class BrokenModelError(ApiError):
    """The model gave no vector for a text, and would not the next time either."""

    status = 500
    type = "server_error"
    code = "non_finite_vector"


def as_json(body: Mapping[str, Any]) -> bytes:
    """The bytes of an error's body."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
