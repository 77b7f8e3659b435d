"""The door at which the network's reports are heard: HTTP/1.1, POST alone, everything bounded; must never keep a
connection that says nothing, nor answer with more than a status.

Sources: RFC 9112; 3GPP TS 29.122 §5.2.5 (notifications).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import NamedTuple

import h11
import structlog

from gateway.metrics import Metric, Metrics

_log = structlog.get_logger(__name__)

MOST_HEADER_BYTES = 16_384


class Bounds(NamedTuple):
    connections: int
    body_bytes: int
    timeout_s: float
    # first and longest pause before trying again to open the port
    retry_s: float = 1.0
    retry_max_s: float = 30.0


class Listener:
    """`on_post(path, body)` returns the status to answer with; 500 where it raises, so the network may repeat it."""

    def __init__(
        self,
        host: str,
        port: int,
        bounds: Bounds,
        metrics: Metrics,
        on_post: Callable[[str, bytes], int],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._bounds = bounds
        self._metrics = metrics
        self._on_post = on_post
        self._context = context
        self._server: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._opened = asyncio.Event()

    def start(self) -> None:
        """On the loop. A port that is taken is tried again until it is free."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="trigger-listener")

    async def opened(self, timeout_s: float) -> bool:
        """Is it open, at the latest then?"""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()
        return self._opened.is_set()

    @property
    def url(self) -> str:
        """Of the open listener, as seen from this machine."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._context is not None else 'http'}://{host}:{port}"

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
            self._opening = None
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _open(self) -> None:
        pause_s = self._bounds.retry_s
        while True:
            try:
                self._server = await asyncio.start_server(self._accept, self._host, self._port)
            except OSError as error:
                _log.warning("trigger_callbacks_down", port=self._port, error=error.strerror or "refused")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._bounds.retry_max_s)
                continue
            self._opened.set()
            return

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._bounds.connections:
            self._count("busy")
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEADER_BYTES)
        try:
            if self._context is not None:
                # here, and not by the server: connections that never shake hands count too
                async with asyncio.timeout(self._bounds.timeout_s):
                    await writer.start_tls(self._context, ssl_handshake_timeout=self._bounds.timeout_s)
            while True:
                try:
                    async with asyncio.timeout(self._bounds.timeout_s):
                        status = await self._take(http, reader, writer)
                        if status:
                            await self._answer(http, writer, status)
                except h11.RemoteProtocolError as error:
                    self._count("malformed")
                    await self._answer(http, writer, error.error_status_hint)
                    return
                if not status or http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                    return
                http.start_next_cycle()
        except TimeoutError:
            if http.their_state not in (h11.IDLE, h11.CLOSED):
                self._count("slow")
        except OSError:
            return  # the connection broke: the network repeats what it did not hear an answer to
        finally:
            writer.close()
            try:
                async with asyncio.timeout(min(1.0, self._bounds.timeout_s)):
                    await writer.wait_closed()
            except (OSError, asyncio.CancelledError, TimeoutError):
                writer.transport.abort()  # it does not even say goodbye

    async def _take(self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """Reads one request, gives it to `on_post` and returns the status to answer; 0: the peer has gone."""
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    writer.write(http.send(h11.InformationalResponse(status_code=100, headers=[])))
                data = await reader.read(65_536)
                if not data and http.their_state is h11.IDLE:
                    return 0
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
                refusal = self._check(event)
                if refusal:
                    return refusal
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._bounds.body_bytes:
                    self._count("too_large")
                    return 413
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                return self._give_on(request.target.decode("ascii", "replace"), bytes(body))
            else:
                return 0

    def _give_on(self, path: str, body: bytes) -> int:
        try:
            return self._on_post(path, body)
        except Exception as error:  # its text may hold what was posted
            _log.error("trigger_report_failed", error=type(error).__name__)
            self._count("failed")
            return 500

    def _check(self, request: h11.Request) -> int:
        """Status of a refusal that needs no body, 0 for none."""
        headers = dict(request.headers)
        if request.method != b"POST":
            self._count("malformed")
            return 405
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            self._count("malformed")
            return 415
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._bounds.body_bytes:
            self._count("too_large")
            return 413
        return 0

    async def _answer(self, http: h11.Connection, writer: asyncio.StreamWriter, status: int) -> None:
        if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [("content-length", "0")] if status != 204 else []
        if status == 405:
            headers.append(("allow", "POST"))
        if http.their_state is not h11.DONE:
            headers.append(("connection", "close"))  # the rest of the body is not read
        writer.write(http.send(h11.Response(status_code=status, headers=headers)))
        writer.write(http.send(h11.EndOfMessage()))
        await writer.drain()

    def _count(self, result: str) -> None:
        self._metrics.count(Metric.TRIGGER_CALLBACKS, label=result)
