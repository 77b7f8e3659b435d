"""Around every handler: who asks, what went wrong, how long it took. Logs the path's template, never the path itself,
for that may hold a token; never a header, a query or a body."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.call import Call
from gateway.api.media import build_error
from gateway.api.ports import Backend
from gateway.api.route import EITHER, OPERATOR, PROVIDER, Dialect, Route
from gateway.auth.api_keys import Provider
from gateway.metrics import Metric
from gateway.model.errors import GatewayError, MethodNotAllowed, NotFound

log = structlog.get_logger("gateway.api")

#: in the scope: what the log and the figures call this request
ROUTE = "gateway.route"
ERROR = "gateway.error"
APP = "gateway.app"
DIALECT = "gateway.dialect"
#: the door of a fleet passed it on, and counts, times and logs it itself
FORWARDED = "gateway.forwarded"
UNMATCHED = "unmatched"

Endpoint = Callable[[Request], Awaitable[Response]]


def build_endpoint(backend: Backend, routes: dict[str, Route]) -> Endpoint:
    """One path: the handler of each method, behind its key check, with every error answered in the one shape."""

    async def endpoint(request: Request) -> Response:
        route = routes.get(request.method) or routes["GET"]  # HEAD goes with GET
        request.scope[ROUTE] = f"{route.method} {route.path}"
        request.scope[DIALECT] = route.dialect
        try:
            provider = None
            if route.caller == OPERATOR:
                backend.keys.operator(request.headers.get("authorization"))
            elif route.caller == PROVIDER:
                provider = backend.keys.provider(request.headers.get("authorization"))
            elif route.caller == EITHER:
                principal = backend.keys.authenticate(request.headers.get("authorization"))
                provider = principal if isinstance(principal, Provider) else None
            if provider is not None:
                request.scope[APP] = provider.app.name
            call = Call(request, provider, backend.config.max_body_bytes, backend.config.accept_timeout_s)
            return await route.handle(call)
        except GatewayError as exc:
            return answer_error(request, exc)

    return endpoint


def answer_error(request: Request, error: Exception) -> Response:
    """Any GatewayError, or what Starlette raises for an unknown path or method."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        error = MethodNotAllowed() if error.status_code == 405 else NotFound("There is nothing at this path.")
    assert isinstance(error, GatewayError)
    request.scope[ERROR] = error.name
    return _answer(request, error, headers)


def _answer(request: Request, error: GatewayError, headers: dict[str, str]) -> Response:
    dialect: Dialect | None = request.scope.get(DIALECT)
    if dialect is not None:
        return dialect.answer(request, error, headers)
    return build_error(request, error, headers=headers)


class Observer:
    """Outermost: counts, times and logs each request, and turns a bug into a 500 that tells nothing."""

    def __init__(self, app: ASGIApp, backend: Backend) -> None:
        self._app = app
        self._backend = backend
        self._metrics = backend.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        request_id = secrets.token_hex(8)
        forwarded = FORWARDED in scope
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not forwarded:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                    if self._backend.is_leaving and scope.get("http_version") in ("1.0", "1.1"):
                        message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except ClientDisconnect:
            status = status or 499
        except Exception as exc:
            scope[ERROR] = "internal"
            # Type and place, not the text: that could quote what was sent.
            log.error("request failed", request_id=request_id, kind=type(exc).__name__, place=_place(exc))
            if status:
                raise _Broken from None  # the answer has begun: only cutting the connection tells the peer
            await _answer(Request(scope), GatewayError(), {})(scope, receive, observed)
        finally:
            if not forwarded:
                self._note(scope, status, time.perf_counter() - start, request_id)

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = scope.get(ROUTE, UNMATCHED)
        self._metrics.count(Metric.API_REQUESTS, label=f"{route} {status // 100}xx")
        self._metrics.observe(Metric.API_SECONDS, seconds, label=route)
        facts: dict[str, Any] = {
            "request_id": request_id,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 2),
        }
        for name, key in (("error", ERROR), ("app", APP)):
            if key in scope:
                facts[name] = scope[key]
        # Probes come every few seconds and say nothing while all is well.
        quiet = status < 400 and not route.partition(" ")[2].startswith(("/v1/", "/push/", "/3/", "/3gpp-"))
        (log.debug if quiet else log.info)("request", **facts)


class _Broken(Exception):
    """A handler failed after its answer had begun; the cause is in our own log, the server's has no part."""


def _place(exc: BaseException) -> str:
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
