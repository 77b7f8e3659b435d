"""uvicorn's HTTP/1.1 connection with bounds on time and size; must never wait without a deadline for a peer.

Every bound ends in a short answer where one can still be given, else in an abort, and is counted by reason.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import httptools
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
    # requests that wait for the answer to an earlier one on their connection
    pipelined: int = 32
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
        self._framing_bytes = 0  # since the last byte of a body: chunk extensions, trailers
        self._previous: Any = None  # the request before the one that is being read
        self._is_deaf = False  # nothing more is read: earlier requests are answered, then it ends
        self._fault: tuple[GatewayError, str] | None = None  # why a callback ended the parsing
        self._head_again = b""  # of a request that asks for another protocol, without that wish
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
        if self.transport.is_closing() or self._is_deaf:
            return
        if not self._in_body:
            # Counted before parsing: the parser keeps what it is fed.
            self._header_bytes += len(data)
            if not self._in_headers and self._deadline is None:
                self._arm_headers()
        else:
            self._framing_bytes += len(data)
        was_in_body = self._in_body
        self._unset_keepalive_if_required()
        self._feed(data)
        if self.parser is None or self.transport.is_closing() or self._is_deaf:
            return
        if self._in_body:
            self._arm(self.limits.body_idle_s, self._on_body_idle)
            if self._framing_bytes > self.limits.headers_bytes:
                self._refuse(HeadersTooLarge("Chunk extensions or trailers are too large."), "headers_too_large")
        elif not was_in_body and self._in_headers and self._header_bytes > self.limits.headers_bytes:
            self._refuse(self._headers_too_large(), "headers_too_large")
        elif self._in_headers and self._deadline is None:  # it began in one piece with the end of the one before
            self._arm_headers()

    def _feed(self, data: bytes) -> None:
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    # A server may go on as if nothing had been asked (RFC 9110 §7.8); the parser would drop the body.
                    data = self._head_again + data[upgrade.args[0] :]
                    self._head_again = b""
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        except httptools.HttpParserError:
            self.send_400_response("This is no HTTP/1.1 request.")

    def _headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"Headers may take {self.limits.headers_bytes} bytes.")

    # --- parser callbacks ---

    def on_message_begin(self) -> None:
        self._in_headers = True
        self._unset_keepalive_if_required()  # it began in one piece with the end of the one before
        super().on_message_begin()
        if self.extensions:
            self.scope["extensions"] = self.extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # a trailer must not pass for a header (RFC 9110 §6.5.1), and none means anything here
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._head_again = self._build_head_again()
            return
        self._check_head()
        self._in_headers = False
        self._in_body = True
        self._discarded = self._framing_bytes = 0
        self._previous = self.cycle
        super().on_headers_complete()

    def _check_head(self) -> None:
        """Raises where the request is not to be read on; `_feed` hears of it and refuses."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self.limits.headers_bytes:
            self._fault = self._headers_too_large(), "headers_too_large"
        elif len(self.pipeline) >= self.limits.pipelined:
            self._fault = BadRequest("Too many requests wait for an earlier one on this connection."), "pipelined"
        elif self.parser.get_method() == b"CONNECT":
            self._fault = BadRequest("CONNECT can only begin a plain connection."), "malformed"
        else:
            self._check_fields()
        if self._fault is not None:
            raise self._fault[0]

    def _check_fields(self) -> None:
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._fault = BadRequest("A request has one Host header field (RFC 9112 §3.2)."), "malformed"
        elif b"://" in self.url and not self.url.startswith(b"/"):
            # RFC 9112 §3.2.2: the host of an absolute target is the one that counts
            authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                self._fault = BadRequest("No transfer coding but chunked is taken (RFC 9112 §6.1)."), "malformed"

    def _build_head_again(self) -> bytes:
        """The request without its wish for another protocol."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                options = (option.strip() for option in value.split(b","))
                kept = [option for option in options if option.lower() not in (b"upgrade", b"http2-settings")]
                lines += [b"connection: " + b", ".join(kept)] if kept else []
            elif name not in (b"upgrade", b"http2-settings"):
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > self.limits.linger_bytes:
                self._abort("body_too_large")
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._head_again:
            return
        self._in_body = False
        self._header_bytes = 0
        self._cancel()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            # Answered before it was whole: the answer's timer ended with the rest.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
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
        self._refuse(*(self._fault or (BadRequest(msg), "malformed")))

    def _refuse(self, error: GatewayError, reason: str) -> None:
        self.metrics.count(Metric.API_CUT, label=reason)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not self._in_body:
                # An earlier request has its answer to come, and nothing else may look like it.
                self._is_deaf = True
                self._cancel()
                cycle.keep_alive = False
                return
            if self.pipeline:
                # This one waits for earlier ones: it is given up, and they are answered.
                self.pipeline.popleft()
                self.cycle = self._previous
                self._is_deaf = True
                self._cancel()
                self._in_body = False
                self.cycle.keep_alive = False
                return
            if cycle.response_started:
                self.transport.abort()
                return
            cycle.disconnected = True  # the handler sees a disconnect and answers nothing
            cycle.message_event.set()
        elif cycle is not None and self._in_body:  # answered before all of it came
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
