"""An HTTP/2 connection of the provider door beside uvicorn's HTTP/1.1 one, on the h2 codec; must never wait without a
deadline for a peer, nor answer a flood.

It is one of uvicorn's connections: it stands in the same set, ends with the same `shutdown`, and its handlers are among
the same tasks, so start, drain and stop are the server's own. Every bound ends in GOAWAY or RST_STREAM and is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import structlog
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError
from hyperframe.frame import GoAwayFrame

from gateway.api.http2_codec import Codec, fields_of
from gateway.api.http2_exchange import Exchange
from gateway.api.http2_frames import Bucket, FrameScan, Seen
from gateway.api.http2_linger import Lingering
from gateway.api.http2_patience import Patience
from gateway.api.http2_scope import build_scope, check_trailers
from gateway.api.http_protocol import Limits
from gateway.api.media import ErrorBody, describe
from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest, GatewayError

log = structlog.get_logger("gateway.api")

_WINDOW_BYTES = 65_535  # RFC 9113 §6.9.2


class Http2Protocol(asyncio.Protocol):
    """One connection. `state` is uvicorn's: its connections, tasks and default header fields."""

    def __init__(self, app: Any, state: Any, limits: Limits, metrics: Metrics, facts: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._limits = limits
        self._metrics = metrics
        self._facts = facts  # of every scope: scheme, addresses, TLS
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._exchanges: dict[int, Exchange] = {}
        self._patience = Patience(limits.write_stall_s, self._loop.time)  # for the connection's window
        self._running = 0  # handlers; some of streams that were reset
        self._lingering = Lingering(self._loop, limits, self._give_up)
        self._scan = FrameScan()
        self._unread = b""
        self._cheap = Bucket(limits.cheap_frames, limits.cheap_frames_per_s, self._loop.time)
        self._resets = Bucket(limits.resets, limits.resets_per_s, self._loop.time)
        self._deadline: asyncio.TimerHandle | None = None  # for SETTINGS, or while no stream is open
        self._header_deadline: asyncio.TimerHandle | None = None  # while a header block is under way
        self._stall: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._flushing = False
        self._last_stream = 0
        self._leaving = False
        self._over = False
        self._h2 = Codec(limits)

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._state.connections.add(self)
        self._metrics.set(Metric.API_CONNECTIONS, len(self._state.connections))
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(max(self._limits.window_bytes - _WINDOW_BYTES, 1))
        self._flush()
        self._deadline = self._loop.call_later(self._limits.headers_s, self._cut, "slow_headers")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._over = True
        for timer in (self._deadline, self._header_deadline, self._stall):
            if timer is not None:
                timer.cancel()
        self._lingering.close()
        for exchange in self._exchanges.values():
            exchange.on_gone()
        self._exchanges.clear()
        self._writable.set()
        self._state.connections.discard(self)
        self._metrics.set(Metric.API_CONNECTIONS, len(self._state.connections))

    def eof_received(self) -> None:
        """Nothing more comes; the transport closes when this returns nothing."""

    def data_received(self, data: bytes) -> None:
        if self._over or self.transport.is_closing():
            return
        if self._unread:  # what was paused may still bring a piece
            self._unread += data
            return
        at = self._read(data)
        if at < len(data) and not self.transport.is_closing():
            self._unread = data[at:]
            self.transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """The next piece of a burst of small frames; everybody else has had a turn."""
        if self._over or self.transport.is_closing():
            return
        data, self._unread = self._unread, b""
        at = self._read(data)
        if self._over or self.transport.is_closing():
            return
        if at < len(data):
            self._unread = data[at:]
            self._loop.call_soon(self._read_on)
        else:
            self.transport.resume_reading()

    def _read(self, data: bytes) -> int:
        """Take one piece; where the next begins."""
        # Counted before the codec works for them.
        seen = self._scan.feed(data)
        self._take_piece(seen)
        return seen.end

    def _take_piece(self, seen: Seen) -> None:
        if not self._resets.take(seen.resets):
            self._end(ErrorCodes.ENHANCE_YOUR_CALM, "reset_flood")
            return
        if not self._cheap.take(seen.cheap):
            self._end(ErrorCodes.ENHANCE_YOUR_CALM, "frame_flood")
            return
        if self._scan.header_bytes > self._limits.headers_bytes:
            self._end(ErrorCodes.ENHANCE_YOUR_CALM, "headers_too_large")
            return
        if seen.oversized:  # RFC 9113 §4.2; the codec would wait for the whole of it first
            self._end(ErrorCodes.FRAME_SIZE_ERROR, "frame_too_large")
            return
        if seen.goaway:
            # RFC 9113 §6.8: what is under way is still answered. The codec would send nothing more.
            self._leaving = True
            self._watch_idle()
            return
        try:
            events = self._h2.receive_data(seen.data)
        except ProtocolError as exc:  # the codec has written its GOAWAY
            self._flush()
            large = exc.error_code == ErrorCodes.ENHANCE_YOUR_CALM
            self._close("headers_too_large" if large else "malformed")
            return
        except (H2Error, ValueError, LookupError, ArithmeticError) as exc:
            log.warning("http2 connection unreadable", kind=type(exc).__name__)
            self._cut("malformed")
            return
        for event in events:
            self._on_event(event)
            if self._over or self.transport.is_closing():
                return
        self._flush()
        self._watch_headers()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._on_request(event)
        elif isinstance(event, DataReceived):
            self._on_data(event)
        elif isinstance(event, StreamEnded):
            self._on_end(event)
        elif isinstance(event, TrailersReceived):
            self._on_trailers(event)
        elif isinstance(event, StreamReset):
            self._forget(event.stream_id)
            self._settle(event.stream_id)
        elif isinstance(event, WindowUpdated):
            self._on_window(event.stream_id or 0)
        elif isinstance(event, RemoteSettingsChanged):
            if not self._exchanges:
                self._watch_idle()
            self._on_window(0)

    def _on_window(self, stream: int) -> None:
        for exchange in [self._exchanges[stream]] if stream in self._exchanges else self._exchanges.values():
            exchange.on_window()

    # --- requests ---

    def _on_request(self, event: RequestReceived) -> None:
        stream = event.stream_id
        assert stream is not None
        # Handlers of streams that were reset still run: they count, or a peer could start any number of them.
        if self._leaving or self._running + len(self._lingering) >= self._limits.max_streams:
            self._reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        self._last_stream = stream
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        try:
            scope, length = build_scope(fields_of(event), is_whole=event.stream_ended is not None)
        except BadRequest as exc:
            self._refuse(stream, exc, is_whole=event.stream_ended is not None)
            return
        scope.update(self._facts)
        patience = Patience(self._limits.write_stall_s, self._loop.time), self._patience
        exchange = Exchange(self, stream, scope, length, self._limits.body_idle_s, patience)
        self._exchanges[stream] = exchange
        self._running += 1
        self._state.total_requests += 1
        task = self._loop.create_task(self._run(exchange))
        self._state.tasks.add(task)
        task.add_done_callback(partial(self._on_done, stream, exchange))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as exc:
            # The door has logged its own; the peer learns by the reset that the answer is not whole.
            log.debug("http2 handler failed", kind=type(exc).__name__)

    def _on_done(self, stream: int, exchange: Exchange, task: asyncio.Task[None]) -> None:
        self._state.tasks.discard(task)
        self._running -= 1
        if self._exchanges.get(stream) is exchange and not exchange.answered and not self._over:
            self._reset(stream, ErrorCodes.INTERNAL_ERROR)
            self._forget(stream)
            self._flush()

    def _on_data(self, event: DataReceived) -> None:
        stream, size = event.stream_id, event.flow_controlled_length or 0
        assert stream is not None
        exchange = self._exchanges.get(stream)
        if exchange is None:
            self.took(stream, size)
            self._lingering.took(stream, size)
        else:
            try:
                exchange.on_data(event.data or b"", size)
            except BadRequest as exc:
                self._refuse(stream, exc, is_whole=event.stream_ended is not None)

    def _on_end(self, event: StreamEnded) -> None:
        stream = event.stream_id
        assert stream is not None
        if stream in self._exchanges:
            try:
                self._exchanges[stream].on_end()
            except BadRequest as exc:
                self._refuse(stream, exc, is_whole=True)
        self._settle(stream)

    def _on_trailers(self, event: TrailersReceived) -> None:
        stream = event.stream_id
        assert stream is not None
        if stream in self._exchanges:
            try:
                check_trailers(fields_of(event))
            except BadRequest as exc:
                self._refuse(stream, exc, is_whole=True)

    def _refuse(self, stream: int, error: BadRequest, *, is_whole: bool) -> None:
        """The request is malformed: an error of its stream alone (RFC 9113 §8.1.1)."""
        self._metrics.count(Metric.API_CUT, label="malformed")
        exchange = self._exchanges.get(stream)
        if exchange is not None and exchange.started:
            self._reset(stream, ErrorCodes.PROTOCOL_ERROR)
        elif self._answer(stream, error) and not is_whole:
            self._lingering.add(stream)
        self._forget(stream)
        self._watch_idle()

    def _forget(self, stream: int | None) -> None:
        exchange = self._exchanges.pop(stream or 0, None)
        if exchange is not None:
            exchange.on_gone()
            self._watch_idle()

    def _settle(self, stream: int | None) -> None:
        """Nothing more comes on it."""
        if self._lingering.drop(stream or 0):
            self._watch_idle()

    def _give_up(self, stream: int) -> None:
        """RFC 9113 §8.1: answered without the whole request, the rest is not wanted."""
        self._metrics.count(Metric.API_CUT, label="body_unread")
        self._reset(stream, ErrorCodes.NO_ERROR)
        self._watch_idle()

    def _answer(self, stream: int, error: GatewayError) -> bool:
        """A short error where no handler answers. False: the stream is closed instead."""
        body = msgspec.json.encode(ErrorBody(error=describe(error)))
        fields = [
            (b":status", b"%d" % error.status),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        self._flush_soon()
        try:
            self._h2.send_headers(stream, fields)
            if self._h2.local_flow_control_window(stream) >= len(body):
                self._h2.send_data(stream, body, end_stream=True)
                return True
            self._h2.reset_stream(stream, ErrorCodes.CANCEL)
        except (H2Error, KeyError):
            pass  # closed already
        return False

    def _reset(self, stream: int, code: ErrorCodes) -> None:
        with contextlib.suppress(H2Error, KeyError):  # closed already
            self._h2.reset_stream(stream, code)
        self._flush_soon()

    # --- what exchanges ask (http2_exchange.Carrier) ---

    def took(self, stream: int, size: int) -> None:
        if size and not self._over:
            try:
                self._h2.acknowledge_received_data(size, stream)
            except (H2Error, KeyError):
                return
            self._flush_soon()

    def room(self, stream: int) -> int:
        try:
            return min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
        except (H2Error, KeyError):
            self._forget(stream)
            return 0

    def is_shut(self, stream: int) -> bool:
        known = self._h2.streams.get(stream)
        return known is None or known.outbound_flow_control_window <= 0

    def send_head(self, stream: int, headers: Iterable[tuple[bytes, bytes]], *, end: bool) -> None:
        fields = list(headers)
        fields[1:1] = self._state.default_headers
        self._cheap.give(2)
        try:
            self._h2.send_headers(stream, fields, end_stream=end)
        except (H2Error, KeyError):
            self._forget(stream)
        self._flush_soon()

    def send_data(self, stream: int, data: bytes, *, end: bool) -> None:
        # Each piece taken may come back as two WINDOW_UPDATEs.
        self._cheap.give(2)
        try:
            self._h2.send_data(stream, data, end_stream=end)
        except (H2Error, KeyError):
            self._forget(stream)
        self._flush_soon()

    async def writable(self) -> None:
        if not self._writable.is_set():
            self._flush()
            await self._writable.wait()

    def slow_body(self, stream: int) -> None:
        self._metrics.count(Metric.API_CUT, label="slow_body")
        exchange = self._exchanges.get(stream)
        if exchange is not None and exchange.started:
            self._reset(stream, ErrorCodes.CANCEL)
            self._forget(stream)

    def slow_reader(self, stream: int) -> None:
        self._metrics.count(Metric.API_CUT, label="slow_reader")
        self._reset(stream, ErrorCodes.CANCEL)
        self._forget(stream)

    def complete(self, stream: int, *, body_ended: bool) -> None:
        self._resets.give(0.5)
        if self._exchanges.pop(stream, None) is not None and not body_ended:
            self._lingering.add(stream)
        self._watch_idle()

    # --- deadlines ---

    def _watch_idle(self) -> None:
        if self._exchanges or self._lingering or self._over:
            return
        if self._leaving:
            self._part()
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(self._limits.idle_s, self._on_idle)

    def _on_idle(self) -> None:
        self._deadline = None
        if not self._exchanges and not self._lingering:
            self._say_goodbye(ErrorCodes.NO_ERROR)
            self._part()

    def _watch_headers(self) -> None:
        if not self._scan.in_headers:
            if self._header_deadline is not None:
                self._header_deadline.cancel()
                self._header_deadline = None
        elif self._header_deadline is None:
            self._header_deadline = self._loop.call_later(self._limits.headers_s, self._cut, "slow_headers")

    def pause_writing(self) -> None:
        self._writable.clear()
        # Whatever came now would be answered into a buffer that nobody empties.
        if not self.transport.is_closing():
            self.transport.pause_reading()
        if self._stall is None:
            self._stall = self._loop.call_later(self._limits.write_stall_s, self._cut, "slow_reader")

    def resume_writing(self) -> None:
        self._writable.set()
        if self.transport.is_closing():  # the rest has its deadline too
            return
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self.transport.resume_reading()

    # --- endings ---

    def shutdown(self) -> None:
        """The server drains: no new stream; what runs may finish (RFC 9113 §6.8)."""
        self._leaving = True
        self._say_goodbye(ErrorCodes.NO_ERROR)
        if not self._exchanges and not self._lingering:
            self._part()

    def _say_goodbye(self, code: ErrorCodes) -> None:
        # Not the codec's own: after that it would send nothing more, and streams under way could not be answered.
        frame = GoAwayFrame(0, last_stream_id=self._last_stream, error_code=int(code))
        self._flush()
        if not self.transport.is_closing():
            self.transport.write(frame.serialize())

    def _end(self, code: ErrorCodes, reason: str) -> None:
        self._say_goodbye(code)
        self._close(reason)

    def _close(self, reason: str) -> None:
        self._metrics.count(Metric.API_CUT, label=reason)
        self._part()

    def _part(self) -> None:
        self._flush()
        self.transport.close()
        # close() waits for what was written to be taken; not for ever
        self._stall = self._stall or self._loop.call_later(self._limits.linger_s, self.transport.abort)

    def _cut(self, reason: str) -> None:
        if not self.transport.is_closing():
            self._metrics.count(Metric.API_CUT, label=reason)
        self.transport.abort()

    def _flush_soon(self) -> None:
        """Head and body of an answer leave in one write."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        data = self._h2.data_to_send()
        if data and not self._over and not self.transport.is_closing():
            self.transport.write(data)
