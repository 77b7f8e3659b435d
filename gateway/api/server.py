"""The provider door put together: the Starlette application, and uvicorn inside the loop that runs already, with a
second listener for TLS beside the plain one.

Must never install a signal handler, write an access log or outlive its stop by more than the given bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from gateway.api.apns.door import ApnsRoutes
from gateway.api.apns.routes import apns_routes
from gateway.api.apps import AppRoutes
from gateway.api.batch import BatchRoutes
from gateway.api.cards import campaigns, capability, downloads, registry
from gateway.api.door import DIALECT, Observer, answer_error, build_endpoint
from gateway.api.feedback import FeedbackRoutes
from gateway.api.http_protocol import Limits, bounded
from gateway.api.im.routes import im_routes
from gateway.api.negotiation import Negotiator
from gateway.api.once import Once
from gateway.api.openapi import build_document, build_document_3_0
from gateway.api.operations import OperationRoutes
from gateway.api.ports import Backend
from gateway.api.push import PushRoutes
from gateway.api.receipts import HEARTBEAT_S, ReceiptRoutes
from gateway.api.registrations import RegistrationRoutes
from gateway.api.route import Route
from gateway.api.routes import (
    app_routes,
    feedback_routes,
    operation_routes,
    push_routes,
    receipt_routes,
    registration_routes,
)
from gateway.api.service_access import ServiceAccessRoutes, service_access_routes
from gateway.api.subscribers.door import SubscriberRoutes
from gateway.api.subscribers.routes import subscriber_routes
from gateway.api.t8.door import T8Routes
from gateway.api.t8.routes import t8_routes
from gateway.api.tls import Certificates
from gateway.api.tls_listener import TlsListener
from gateway.api.webpush.door import WebPushRoutes
from gateway.api.webpush.routes import webpush_routes
from gateway.model.errors import ConfigError

log = structlog.get_logger("gateway.api")


def build_routes(
    backend: Backend, *, once: Once | None = None, heartbeat_s: float = HEARTBEAT_S, is_described: bool = True
) -> list[Route]:
    """Every route with its handler. `once`: idempotency keys where another door has them too. `is_described`: it says
    what the API is, which takes a tenth of a second to write down."""
    once = once or Once(backend)
    operations = OperationRoutes(backend)
    receipts = ReceiptRoutes(backend, heartbeat_s=heartbeat_s)
    routes = [
        *app_routes(AppRoutes(backend)),
        *push_routes(PushRoutes(backend, once), BatchRoutes(backend, once)),
        *receipt_routes(receipts),
        *feedback_routes(FeedbackRoutes(backend)),
        *registration_routes(RegistrationRoutes(backend)),
        *(subscriber_routes(SubscriberRoutes(backend, backend.identity)) if backend.identity is not None else ()),
        *(
            service_access_routes(ServiceAccessRoutes(backend, backend.service_keys))
            if backend.service_keys is not None
            else ()
        ),
        *registry.routes(backend),
        *capability.routes(backend),
        *downloads.routes(backend, once),
        *campaigns.routes(backend, once),
        *(im_routes(backend, backend.im) if backend.im is not None else ()),
        *webpush_routes(WebPushRoutes(backend, receipts, heartbeat_s)),
        *apns_routes(ApnsRoutes(backend)),
        *(t8_routes(T8Routes(backend)) if backend.opaque is not None else ()),
        *operation_routes(operations),
    ]
    if is_described:
        document = build_document(routes)
        operations.openapi = msgspec.json.encode(document)
        operations.openapi_for_page = msgspec.json.encode(build_document_3_0(document))
    return routes


def build_app(
    backend: Backend, *, once: Once | None = None, heartbeat_s: float = HEARTBEAT_S, is_described: bool = True
) -> Starlette:
    """The ASGI application. `heartbeat_s`: how often an idle receipt stream says that it is there; `is_described` as of
    build_routes."""
    routes = build_routes(backend, once=once, heartbeat_s=heartbeat_s, is_described=is_described)
    return build_app_of(routes, backend)


def build_app_of(routes: Sequence[Route], backend: Backend) -> Starlette:
    """The same of these routes."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route

    dialects = {route.dialect for methods in by_path.values() for route in methods.values() if route.dialect}

    async def on_error(request: Request, error: Exception) -> Response:
        path = request.url.path
        request.scope[DIALECT] = next((d for d in dialects if path.startswith(d.prefix)), None)
        return answer_error(request, error)

    app = Starlette(
        routes=[
            StarletteRoute(path, build_endpoint(backend, methods), methods=list(methods))
            for path, methods in by_path.items()
        ],
        middleware=[Middleware(Observer, backend=backend)],
        exception_handlers={HTTPException: on_error},
    )
    app.router.redirect_slashes = False
    return app


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The composition root handles signals."""
        yield


class ApiServer:
    """uvicorn on config.api.host and port, and tls_port where there is a certificate, in the running loop."""

    def __init__(self, app: Starlette, backend: Backend, *, limits: Limits | None = None) -> None:
        self._app = app
        self._backend = backend
        self._limits = limits or Limits(max_connections=backend.config.max_connections)
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._port = 0
        self._tls_port = -1
        self._tls_listener: TlsListener | None = None
        self._certificates: Certificates | None = None
        self._watch: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port bound, also where the configured one is 0; -1 where there is none."""
        return self._port

    @property
    def tls_port(self) -> int:
        """The same for TLS."""
        return self._tls_port

    async def start(self) -> None:
        """Bound and accepting when it returns. OSError where the address is taken or not ours, ConfigError where a
        certificate can not be used."""
        config = self._backend.config
        if config.tls_cert:
            self._certificates = Certificates(config, self._backend.metrics)
            self._backend.bears = self._certificates.bears
        plain = [self._bind(config.port)] if config.port >= 0 else []
        self._port = plain[0].getsockname()[1] if plain else -1
        http1 = bounded(self._limits, self._backend.metrics)
        make = partial(Negotiator, http1, self._limits, self._backend.metrics, self._certificates)
        protocol: Any = make
        self._server = _Server(
            uvicorn.Config(
                self._app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",  # that it comes and goes is said by us
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=self._limits.backlog,
                timeout_keep_alive=self._limits.keep_alive_s,
            )
        )
        self._serving = asyncio.create_task(self._server.serve(sockets=plain), name="provider door")
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise OSError("the provider door did not start")
            await asyncio.sleep(0)
        if self._certificates is not None:
            self._start_tls(make, self._certificates)
        log.info("provider door open", host=config.host, port=self._port, tls_port=self._tls_port)

    def _bind(self, port: int) -> socket.socket:
        host = self._backend.config.host
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Inherited by what it accepts: head and body of an answer are two writes, the second must not wait.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((host, port))
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock

    def _start_tls(self, make: Callable[..., Negotiator], certificates: Certificates) -> None:
        server = self._server
        assert server is not None
        config = self._backend.config
        try:
            sock = self._bind(config.tls_port)
        except OSError as exc:
            message = f"the provider door can not bind {config.host}:{config.tls_port}: {exc.strerror or exc}"
            raise ConfigError(message, field="api.tls_port") from exc
        self._tls_port = sock.getsockname()[1]
        made = partial(make, config=server.config, server_state=server.server_state, app_state={})
        self._tls_listener = TlsListener(
            sock, certificates.context, made, server.server_state, self._limits, self._backend.metrics
        )
        self._tls_listener.start()
        self._look_at_certificates()

    def _look_at_certificates(self) -> None:
        assert self._certificates is not None
        if self._watch is not None:
            self._certificates.refresh()
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(self._backend.config.tls_reload_s, self._look_at_certificates)

    def reload_tls(self) -> bool:
        """Take the certificate files as they are now (SIGHUP). False: one can not be used, and the old ones stay."""
        return self._certificates is None or self._certificates.reload()

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Accept no more, end streams and long polls, let requests finish for at most `timeout_s`, then cut them."""
        server, serving = self._server, self._serving
        if server is None or serving is None:
            return
        self._backend.stopping.set()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._tls_listener is not None:
            self._tls_listener.close()
            self._tls_listener = None
        server.should_exit = True
        await asyncio.wait((serving,), timeout=timeout_s)
        if not serving.done():
            state = server.server_state
            log.warning("requests cut at shutdown", connections=len(state.connections))
            server.force_exit = True
            for task in list(state.tasks):
                task.cancel()
            for connection in list(state.connections):
                connection.transport.abort()
        await asyncio.gather(serving, return_exceptions=True)
        self._server = self._serving = None
        log.info("provider door closed")
