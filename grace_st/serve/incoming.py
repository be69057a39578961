"""A request as it arrives: a bounded body, and a client that may go."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from grace_st.serve.errors import MediaTypeError, SlowBodyError, TooLargeError

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def read_body(request: Request, *, most: int, seconds: float) -> bytes:
    """The body of a JSON request.

    What is left of a body that is refused is read and thrown away by uvicorn: a client that is still sending does not
    look for an answer.

    Args:
        request: The request.
        most: Its largest size in bytes.
        seconds: How long it may take to arrive.

    Raises:
        MediaTypeError: It is not sent as JSON.
        TooLargeError: It is larger.
        SlowBodyError: It took longer.
        ClientGoneError: The client went away.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise MediaTypeError(f"send JSON with the header `Content-Type: application/json`, not {media_type!r:.80}")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise TooLargeError(f"the body is larger than the limit of {most} bytes: send fewer texts at once")
                parts.append(part)
    except ClientDisconnect:
        raise ClientGoneError from None
    except TimeoutError:
        raise SlowBodyError(f"the body did not arrive within {seconds:g} seconds") from None
    return b"".join(parts)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled when the client goes away. The body has been read.

    Raises:
        ClientGoneError: It went.
    """
    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGoneError
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
