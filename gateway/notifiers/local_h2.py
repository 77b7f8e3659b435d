"""An HTTP/2 server over TLS for local upstreams, with every kind of trouble on request; for tests and the tour, must
never listen on anything but loopback."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from enum import StrEnum
from typing import NamedTuple, Self, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import msgspec
from hyperframe.frame import GoAwayFrame

from gateway.notifiers.local_tls import Authority

#: what the servers of Apple and Google advertise
MAX_STREAMS = 1_000
#: RFC 9113 §6.5.2: the largest frame anybody takes
FRAME_BYTES = 16_384


class Request(NamedTuple):
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    certificate: bytes  # the client's, DER; empty where it showed none
    connection: int  # number of the connection it came on

    def header(self, name: str) -> str:
        """Values joined by a comma; "" where there is none."""
        return ", ".join(value for key, value in self.headers if key == name)


class Reply(NamedTuple):
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def build_json(status: int, value: object, **headers: str) -> Reply:
    """A JSON reply; `_` in a header's name stands for `-`."""
    fields = [("content-type", "application/json"), *((k.replace("_", "-"), v) for k, v in headers.items())]
    return Reply(status, msgspec.json.encode(value), tuple(fields))


class Trouble(StrEnum):
    """What may happen to a request instead of a reply."""

    HANG = "hang"  # no answer, ever
    RESET_STREAM = "reset the stream"
    RESET = "reset the connection"  # after the head of the answer
    GARBAGE = "garbage"  # a body that is no JSON, under status 400
    NONSENSE = "nonsense"  # frames that HTTP/2 does not allow
    GOAWAY = "go away, not processed"  # GOAWAY that leaves this stream out: it may be sent again elsewhere
    GOAWAY_LATE = "go away, in flight"  # GOAWAY that counts this stream as seen, and then the end


class _Stream:
    __slots__ = ("body", "headers")

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self.headers = headers
        self.body = bytearray()


class _Connection(asyncio.Protocol):
    def __init__(self, server: LocalServer, number: int) -> None:
        self._server = server
        self._number = number
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._streams: dict[int, _Stream] = {}
        self._certificate = b""
        #: streams past it are passed over, once GOAWAY has said so
        self._last = (1 << 31) - 1
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        self._certificate = (tls.getpeercert(binary_form=True) if tls is not None else b"") or b""
        # In the first SETTINGS frame: set later it is a change that the client has to ack first.
        self._h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS}
        )
        self._h2.initiate_connection()
        self._flush()
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._server.connections.discard(self)
        self.transport = None

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self.abort()
            return
        for event in events:
            self._on_event(event)
        self._flush()

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._streams[event.stream_id] = _Stream([(str(k), str(v)) for k, v in event.headers])
        elif isinstance(event, h2.events.DataReceived):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            stream = self._streams.pop(event.stream_id, None)
            if stream is not None and event.stream_id <= self._last:
                self._server.start_answer(self._answer(event.stream_id, stream))
        elif isinstance(event, h2.events.StreamReset):
            self._streams.pop(event.stream_id, None)

    async def _answer(self, number: int, stream: _Stream) -> None:
        pseudo = {key: value for key, value in stream.headers if key.startswith(":")}
        headers = [(key, value) for key, value in stream.headers if not key.startswith(":")]
        request = Request(
            pseudo.get(":method", ""),
            pseudo.get(":path", ""),
            headers,
            bytes(stream.body),
            self._certificate,
            self._number,
        )
        answer = await self._server.handle(request)
        if self.transport is None:
            return
        try:
            if isinstance(answer, Reply):
                self._reply(number, answer)
            else:
                self._trouble(number, answer)
        except h2.exceptions.ProtocolError:
            return  # the client gave the stream up meanwhile
        self._flush()

    def _reply(self, number: int, reply: Reply) -> None:
        self._h2.send_headers(number, [(":status", str(reply.status)), *reply.headers], end_stream=not reply.body)
        for at in range(0, len(reply.body), FRAME_BYTES):
            part = reply.body[at : at + FRAME_BYTES]
            self._h2.send_data(number, part, end_stream=at + FRAME_BYTES >= len(reply.body))

    def _trouble(self, number: int, trouble: Trouble) -> None:
        if trouble is Trouble.RESET_STREAM:
            self._h2.reset_stream(number, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif trouble is Trouble.RESET:
            self._h2.send_headers(number, [(":status", "200")])
            self._flush()
            self.abort()
        elif trouble is Trouble.GARBAGE:
            self._reply(number, Reply(400, b"<html>\xff\xfe{not json"))
        elif trouble is Trouble.NONSENSE:
            assert self.transport is not None
            self.transport.write(bytes(9) + b"HTTP/1.1 200 OK\r\n\r\n")  # a DATA frame of no stream
        elif trouble in (Trouble.GOAWAY, Trouble.GOAWAY_LATE):
            assert self.transport is not None
            # Written as it is: the library would end its own side too, and the streams before it are still answered.
            self._last = max(number - 2, 0) if trouble is Trouble.GOAWAY else number
            self._flush()
            self.transport.write(GoAwayFrame(0, last_stream_id=self._last, error_code=0).serialize())
            if trouble is Trouble.GOAWAY_LATE:
                self.transport.close()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class LocalServer:
    """Subclasses answer in `respond`; `expect` puts replies and troubles before that, in order."""

    def __init__(self, *, authority: Authority | None = None, asks_client: bool = False) -> None:
        self.authority = authority or Authority()
        self.requests: list[Request] = []
        self.connections: set[_Connection] = set()
        self.opened = 0
        self.port = 0
        self._context = self.authority.server_context(asks_client=asks_client)
        self._next: deque[Reply | Trouble] = deque()
        self._released = asyncio.Event()
        self._arrived = asyncio.Event()
        self._answers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def ca(self) -> str:
        """PEM that a client has to trust."""
        return self.authority.pem

    async def start(self) -> None:
        """Listen on a free port of loopback."""

        def build() -> _Connection:
            self.opened += 1
            return _Connection(self, self.opened)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(build, "127.0.0.1", self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._released.set()
        if self._server is not None:
            self._server.close()
        for task in self._answers:
            task.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()
        if self._server is not None:
            await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def expect(self, *answers: Reply | Trouble) -> None:
        """The next requests get these, whatever they ask."""
        self._next.extend(answers)

    def release(self) -> None:
        """Let those that hang go on to their proper answer."""
        self._released.set()

    async def arrived(self, count: int) -> None:
        """Wait until so many requests have come in all."""
        while len(self.requests) < count:
            self._arrived.clear()
            await self._arrived.wait()

    def start_answer(self, answer: Awaitable[None]) -> None:
        task = asyncio.ensure_future(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def handle(self, request: Request) -> Reply | Trouble:
        self.requests.append(request)
        self._arrived.set()
        if self._next:
            answer = self._next.popleft()
            if answer is not Trouble.HANG:
                return answer
            await self._released.wait()
        return await self.respond(request)

    async def respond(self, request: Request) -> Reply | Trouble:  # noqa: ARG002 - for subclasses
        return Reply(200)
