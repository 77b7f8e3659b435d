"""uvicorn's HTTP/1.1 connection with bounds on time and size; must never wait without a deadline for a peer.

Every bound ends in a short answer where one can still be given, else in an abort, and is counted by reason.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.api.media import ErrorBody, describe
from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest, GatewayError, HeadersTooLarge, RequestTimeout


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection at the provider door."""

    max_connections: int = 4_096
    # request line and headers, bytes
    headers_bytes: int = 32_768
    # from the first byte of a request (or the connection) to the end of its headers, seconds
    headers_s: float = 10.0
    # between two pieces of a body while we are ready to read, seconds
    body_idle_s: float = 10.0
    # a peer that does not take our answer for this long is cut off, seconds
    write_stall_s: float = 15.0
    # an idle kept-alive connection, seconds
    keep_alive_s: int = 30
    # body bytes still read and thrown away after an early answer (413), so that the peer sees that answer
    linger_bytes: int = 8 * 1_048_576
    # and for how long, seconds
    linger_s: float = 5.0
    # listen backlog
    backlog: int = 1_024
    # --- HTTP/2
    # streams a connection may have open, and handlers that may run for it
    max_streams: int = 1_000
    # body bytes that may be under way on one stream, and on all of a connection
    stream_window_bytes: int = 65_535
    window_bytes: int = 1_048_576
    # a connection without a stream is closed after this long, seconds
    idle_s: float = 300.0
    # frames that ask for nothing (PING, SETTINGS, PRIORITY, empty DATA, …) at once, and how many more each second;
    # an answer gives some back
    cheap_frames: int = 1_000
    cheap_frames_per_s: float = 200.0
    # requests the peer took back (RST_STREAM) at once, and how many more each second (CVE-2023-44487)
    resets: int = 200
    resets_per_s: float = 20.0


#: in the scope: the body stopped coming
_LATE = "gateway.late"


async def _in_time(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """`receive` raises RequestTimeout where the body stopped: so the door answers in the words of its route."""

    async def hear() -> Message:
        message = await receive()
        if _LATE in scope and message["type"] == "http.request":
            raise RequestTimeout
        return message

    await app(scope, hear, send)


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. `limits` and `metrics` are set by the subclass that `bounded` makes."""

    limits: ClassVar[Limits] = Limits()
    metrics: ClassVar[Metrics]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = partial(_in_time, self.app)
        self._deadline: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._in_body = False
        self._header_bytes = 0
        self._discarded = 0
        #: the scope's extensions: what TLS knows of the peer
        self.extensions: dict[str, Any] = {}

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.metrics.set(Metric.API_CONNECTIONS, len(self.connections))
        if len(self.connections) > self.limits.max_connections:
            self._abort("too_many")
            return
        self._arm_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._linger, self._stall):
            if timer is not None:
                timer.cancel()
        self._deadline = self._linger = self._stall = None
        super().connection_lost(exc)
        self.metrics.set(Metric.API_CONNECTIONS, len(self.connections))

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._in_body:
            # Counted before parsing: the parser keeps what it is fed.
            self._header_bytes += len(data)
            if not self._in_headers and self._deadline is None:
                self._arm_headers()
        was_in_body = self._in_body
        super().data_received(data)
        if self.parser is None or self.transport.is_closing():
            return
        if self._in_body:
            self._arm(self.limits.body_idle_s, self._on_body_idle)
        elif not was_in_body and self._in_headers and self._header_bytes > self.limits.headers_bytes:
            self._refuse(HeadersTooLarge(f"Headers may take {self.limits.headers_bytes} bytes."), "headers_too_large")

    # --- parser callbacks ---

    def on_message_begin(self) -> None:
        self._in_headers = True
        super().on_message_begin()
        if self.extensions:
            self.scope["extensions"] = self.extensions

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._in_body = True
        self._discarded = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > self.limits.linger_bytes:
                self._abort("body_too_large")
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._header_bytes = 0
        self._cancel()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            # Answered early: closing now would reset the connection under an answer not read yet.
            self._linger = self.loop.call_later(self.limits.linger_s, self._abort, "body_too_large")

    # --- deadlines ---

    def _arm(self, after_s: float, callback: Any) -> None:
        self._cancel()
        self._deadline = self.loop.call_later(after_s, callback)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _arm_headers(self) -> None:
        self._arm(self.limits.headers_s, self._on_headers_late)

    def _on_headers_late(self) -> None:
        self._deadline = None
        if self._in_headers:
            self._refuse(RequestTimeout(), "slow_headers")
        elif not self._in_body and (self.cycle is None or self.cycle.response_complete):
            self._abort("slow_headers")

    def _on_body_idle(self) -> None:
        self._deadline = None
        if not self._in_body:
            return
        if self.flow.read_paused or not self.cycle.more_body:  # we are the slow ones
            self._arm(self.limits.body_idle_s, self._on_body_idle)
        elif self.cycle.response_started:
            self._abort("slow_body")
        else:
            self.metrics.count(Metric.API_CUT, label="slow_body")
            self.scope[_LATE] = True  # type: ignore[literal-required]
            self.cycle.keep_alive = False
            self.cycle.message_event.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.limits.write_stall_s, self._abort, "slow_reader")

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    # --- endings ---

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest(msg), "malformed")

    def _refuse(self, error: GatewayError, reason: str) -> None:
        self.metrics.count(Metric.API_CUT, label=reason)
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        self.transport.write(build_refusal(error))
        self.transport.close()
        # close() waits for the answer to be taken; not for ever.
        self._linger = self.loop.call_later(self.limits.linger_s, self.transport.abort)

    def _abort(self, reason: str) -> None:
        if self.transport.is_closing():  # the parser may still have pieces of what came at once
            return
        self.metrics.count(Metric.API_CUT, label=reason)
        self.transport.abort()


def build_refusal(error: GatewayError) -> bytes:
    """A whole answer, after which the connection ends."""
    body = msgspec.json.encode(ErrorBody(error=describe(error)))
    fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[error.status] + fields + body


def bounded(limits: Limits, metrics: Metrics) -> type[BoundedHttpProtocol]:
    """The protocol class for one server."""
    return type("BoundHttpProtocol", (BoundedHttpProtocol,), {"limits": limits, "metrics": metrics})
