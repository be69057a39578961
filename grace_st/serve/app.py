"""The HTTP interface: routes, and errors in OpenAI's shape."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grace_st import __version__
from grace_st.serve.errors import ApiError, ShuttingDownError, as_json, error_body
from grace_st.serve.incoming import ClientGoneError, read_body, unless_gone
from grace_st.serve.logs import Record
from grace_st.serve.schemas import EmbeddingRequest, parse_request
from grace_st.serve.service import Service

logger = logging.getLogger(__name__)

EMBEDDINGS = "/v1/embeddings"

_JSON = "application/json"
_CLIENT_GONE = 499  # nginx's number for it; nobody sees it but the log
_PATHS = (EMBEDDINGS, "/v1/models", "/health", "/ready", "/metrics", "/openapi.json")
_ERROR_NAMES = {404: "not_found", 405: "method_not_allowed"}
_STOP_SECONDS = 1.0  # for an engine that is idle; one that is at work is not waited for


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service, whose engine starts and stops with it.

    Args:
        service: The service.

    Returns:
        An application for one process: it holds the model.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.worker.stop(ShuttingDownError("the server has been shut down"))
        await run_sync(service.worker.join, _STOP_SECONDS)

    app = FastAPI(
        title="grace-st",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.include_router(_api(service))
    app.include_router(_probes(service))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientGoneError, _client_gone)
    app.add_middleware(_Observed, service=service)
    return app


def _api(service: Service) -> APIRouter:
    async def authorised(request: Request) -> None:
        service.keys.check(request.headers.get("authorization"))

    router = APIRouter(prefix="/v1", dependencies=[Depends(authorised)])
    schema = {"requestBody": {"required": True, "content": {_JSON: {"schema": EmbeddingRequest.model_json_schema()}}}}

    @router.post("/embeddings", openapi_extra=schema)
    async def embeddings(request: Request) -> Response:
        service.check_open()
        with service.holding():
            limits = service.limits
            body = await read_body(request, most=limits.max_request_bytes, seconds=limits.request_seconds)
            asked = await run_sync(parse_request, body)
            service.check_model(asked.model)
            content = await unless_gone(request, service.embed(asked, _record(request)))
        return Response(content, media_type=_JSON)

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service, name) for name in service.names]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return _model(service, name)

    return router


def _probes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> Response:
        status = "ok" if service.is_healthy else "failed"
        return Response(as_json({"status": status}), 200 if service.is_healthy else 503, media_type=_JSON)

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready")
    async def ready() -> Response:
        return Response(as_json({"status": service.status}), 200 if service.is_ready else 503, media_type=_JSON)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router


def _model(service: Service, name: str) -> dict[str, Any]:
    values = {"id": name, "object": "model", "created": service.created, "owned_by": "grace-st"}
    backend = service.worker.backend
    if backend is not None:
        values |= {
            "dimensions": backend.dimension,
            "max_seq_length": backend.max_seq_length,
            "max_new_tokens": backend.max_new_tokens,
            "normalized": service.normalize,
        }
    return values


# ------------------------------------------------------------------ errors


def _record(request: Request) -> Record:
    record: Record = request.state.record
    return record


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    _record(request).code = error.code
    return Response(as_json(error.body()), error.status, headers=error.headers, media_type=_JSON)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException)
    code = _ERROR_NAMES.get(error.status_code, "http_error")
    _record(request).code = code
    message = f"{request.method} {request.url.path[:200]}: {error.detail}; embeddings are made by POST {EMBEDDINGS}"
    body = error_body(message, type_="invalid_request_error", code=code)
    return Response(as_json(body), error.status_code, headers=error.headers, media_type=_JSON)


async def _client_gone(request: Request, error: Exception) -> Response:
    del request, error
    return Response(status_code=_CLIENT_GONE)


# ------------------------------------------------------------------ what every request has


class _Observed:
    """Gives each request an id, and logs and counts it; what nobody expected becomes an error of the right shape."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        metrics = self.service.metrics
        record = _new_record(scope)
        scope.setdefault("state", {})["record"] = record
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", record.request_id.encode())]
            await send(message)

        metrics.in_flight.inc()
        try:
            await self.app(scope, receive, sending)
        except Exception:
            # The boundary: a defect of ours must neither end the server nor leave a client without an answer.
            logger.exception("request %s failed", record.request_id)
            record.status, record.code = 500, "internal_error"
            if not has_begun:
                await _internal_error(scope, receive, sending)
        finally:
            metrics.in_flight.dec()
            # Paths that are not ours would make ever new series.
            path = next((known for known in _PATHS if record.path.startswith(known)), "other")
            metrics.requests.labels(path, str(record.status)).inc()
            metrics.seconds.labels(path).observe(record.seconds)
            record.log()


async def _internal_error(scope: Scope, receive: Receive, send: Send) -> None:
    error = ApiError("an unexpected error of the server: its log has the details under this request's x-request-id")
    await Response(as_json(error.body()), error.status, media_type=_JSON)(scope, receive, send)


def _new_record(scope: Scope) -> Record:
    headers = dict(scope["headers"])
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    is_usable = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
    client = scope.get("client")
    return Record(
        request_id=given if is_usable else uuid.uuid4().hex,
        method=scope["method"],
        path=scope["path"],
        client=None if client is None else client[0],
    )
