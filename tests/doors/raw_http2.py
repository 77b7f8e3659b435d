"""A client of HTTP/2 that can say what a well-behaved one never would: frames by hand beside a real codec."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Any, Self

import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import H2Error
from hyperframe.frame import GoAwayFrame

Fields = list[tuple[str, str]]


class Answer:
    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.reset: int | None = None
        self.over = asyncio.Event()


class RawHttp2:
    """`async with RawHttp2(port) as client`; `send` takes bytes as they are."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", *, ack: bool = True):
        self._where = (port, tls, host)
        self._ack = ack  # give the server its window back
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.answers: dict[int, Answer] = {}
        self.goaway: int | None = None
        self.goaway_last = 0
        self.events: list[Event] = []
        self.closed = asyncio.Event()
        self.encoder = hpack.Encoder()

    async def __aenter__(self) -> Self:
        port, tls, host = self._where
        options: dict[str, Any] = {"ssl": tls, "server_hostname": host} if tls else {}
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, **options)
        self.h2.initiate_connection()
        self.flush()
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None):
        self._task.cancel()
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()

    async def _read(self) -> None:
        try:
            while data := await self.reader.read(65_536):
                self._feed(data)
        except OSError:
            pass
        finally:
            for answer in self.answers.values():
                answer.over.set()
            self.closed.set()

    def _feed(self, data: bytes) -> None:
        try:
            events = self.h2.receive_data(data)
        except H2Error:
            return
        self.events += events
        for event in events:
            if isinstance(event, ConnectionTerminated):
                self.goaway, self.goaway_last = int(event.error_code or 0), event.last_stream_id or 0
                continue
            answer = self.answers.get(getattr(event, "stream_id", None) or 0)
            if answer is None:
                continue
            if isinstance(event, ResponseReceived):
                answer.headers = dict(event.headers)  # type: ignore[arg-type]
                answer.status = int(answer.headers[":status"])
            elif isinstance(event, DataReceived):
                answer.body += event.data or b""
                if self._ack and event.flow_controlled_length:
                    with contextlib.suppress(H2Error):
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
            elif isinstance(event, StreamReset):
                answer.reset = int(event.error_code or 0)
                answer.over.set()
            elif isinstance(event, StreamEnded):
                answer.over.set()
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self.send(data)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the server has closed
            self.writer.write(data)

    def begin(self, method: str, path: str, fields: Fields | None = None, *, end: bool = True) -> int:
        """Open a stream; its number."""
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        head = [(":method", method), (":scheme", "http"), (":authority", "door"), (":path", path), *(fields or [])]
        self.h2.send_headers(stream, head, end_stream=end)
        self.flush()
        return stream

    def begin_with(self, fields: Fields, *, end: bool = True) -> int:
        """Open a stream with exactly these fields."""
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, fields, end_stream=end)
        self.flush()
        return stream

    def data(self, stream: int, body: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream, body, end_stream=end)
        self.flush()

    async def answer(self, stream: int) -> Answer:
        async with asyncio.timeout(60):
            await self.answers[stream].over.wait()
        return self.answers[stream]

    async def get(self, path: str, fields: Fields | None = None) -> Answer:
        return await self.answer(self.begin("GET", path, fields))

    async def is_closed(self) -> None:
        async with asyncio.timeout(60):
            await self.closed.wait()

    def say_goaway(self) -> None:
        self.send(GoAwayFrame(0, last_stream_id=0, error_code=0).serialize())
