"""The bytes of a NATS connection: read natively, a large payload once, where the client's own reader copies it five
times and comes back for each 32 KiB; must never hold more of what came than its bound says.

The client of nats-py stays what it is: it takes any transport, and hears from its parser what it would have heard.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import ParseResult

import structlog

from gateway._native.nats_reader import NatsReader
from gateway.cluster.nats_sending import COPIED_BYTES, Requests, send_pending

if TYPE_CHECKING:
    from nats.aio.client import Client

#: a server's own bound on a payload is at most this (max_payload), and headers are below 64 KiB
MOST_BYTES = 64 * 1024 * 1024 + 65_536
DEFAULT_PORT = 4222
_log = structlog.get_logger(__name__)
_CLOSE_S = 1.0
#: bytes of messages that came and were not taken; past it the connection is not read from
UNTAKEN_BYTES = 1_048_576

_UNREADABLE = "what a NATS server sent can not be read"

T = TypeVar("T")
#: gets a payload in the turn in which it is read
Hear = Callable[[bytes], None]


class _Connection(asyncio.BufferedProtocol):
    """One TCP connection, before and after TLS."""

    def __init__(self) -> None:
        self.reader = NatsReader(MOST_BYTES)
        self.transport: asyncio.Transport | None = None
        self.error: BaseException | None = None
        self.is_over = False  # nothing more will come
        self.is_paused = False
        self.closed = asyncio.get_running_loop().create_future()
        self._came = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return memoryview(self.reader)

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.reader.received(nbytes)
        except ValueError as error:
            self._end(error)
            self.abort()
            return
        is_enough = self.reader.waiting_bytes > UNTAKEN_BYTES or self.reader.is_full
        if is_enough and self.transport is not None and not self.is_paused:
            self.is_paused = True
            self.transport.pause_reading()
        self._came.set()

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self._has_room.set()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._has_room.clear()

    def resume_writing(self) -> None:
        self._has_room.set()

    def _end(self, error: BaseException | None) -> None:
        self.is_over = True
        self.error = self.error or error
        self._came.set()

    async def wait_came(self) -> None:
        """Until more came than was here, or nothing will."""
        await self._came.wait()
        self._came.clear()
        if self.is_over:
            self._came.set()

    @property
    def has_room(self) -> bool:
        return self._has_room.is_set()

    async def wait_room(self) -> None:
        """Or until nothing can be sent any more, which who reads is told."""
        await self._has_room.wait()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def raise_error(self) -> None:
        if isinstance(self.error, OSError):
            raise self.error
        if self.error is not None:
            raise ConnectionError(_UNREADABLE) from self.error

    def take_line(self) -> bytes | None:
        line = self.reader.take_line()
        self._read_on()
        return line

    def take(self) -> list[Any]:
        self.reader.begin()
        events = self.reader.take()
        self._read_on()
        return events

    def _read_on(self) -> None:
        if self.is_paused and not self.is_over and self.transport is not None and not self.reader.is_full:
            self.is_paused = False
            self.transport.resume_reading()


def _in_words(take: Callable[[], T]) -> T:
    try:
        return take()
    except ValueError as error:
        raise ConnectionError(_UNREADABLE) from error


class NatsTransport:
    """A `nats.aio.transport.Transport`, but that `read` gives what was read already, for `NatsParser`. `needs_tls`:
    nothing is said to a server that does not ask for TLS, for whoever is between could have taken that out."""

    def __init__(self, *, needs_tls: bool = False) -> None:
        self._connection: _Connection | None = None
        self._needs_tls = needs_tls
        self._is_tls = False
        self._is_at_end = False

    def __bool__(self) -> bool:
        return True  # the client would make one of its own otherwise

    @property
    def _open(self) -> _Connection:
        if self._connection is None or self._connection.transport is None:
            raise ConnectionError("there is no connection to NATS")
        return self._connection

    @property
    def is_open(self) -> bool:
        """False: nothing leaves any more, of which the client may not have heard yet."""
        connection = self._connection
        if connection is None or connection.transport is None:
            return False
        return not connection.is_over and not connection.transport.is_closing()

    @property
    def has_room(self) -> bool:
        """What is written now is not kept waiting behind much."""
        return self._open.has_room

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        if self._connection is not None:
            self._connection.abort()  # of a try that failed
        async with asyncio.timeout(connect_timeout):
            host, port = uri.hostname or "", uri.port or DEFAULT_PORT
            _, self._connection = await loop.create_connection(_Connection, host, port)
        self._is_at_end = self._is_tls = False

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: int,
    ) -> None:
        connection, loop = self._open, asyncio.get_running_loop()
        assert connection.transport is not None
        name = uri if isinstance(uri, str) else uri.hostname
        if connection.is_over:
            raise ConnectionError("the connection ended before TLS began")
        # what came in plain text is nobody's word, and not to be read as if it had come inside
        connection.reader = NatsReader(MOST_BYTES)
        connection.is_paused = False
        try:
            async with asyncio.timeout(connect_timeout):
                made = await loop.start_tls(connection.transport, connection, ssl_context, server_hostname=name)
            if made is None:
                raise ConnectionError("the connection ended before TLS began")
        except BaseException:
            connection.abort()
            connection.connection_lost(None)  # nobody else says so where the handshake did not end
            raise
        connection.transport = made
        self._is_tls = True

    def write(self, payload: bytes) -> None:
        self.writelines((payload,))

    def writelines(self, payload: Sequence[bytes]) -> None:
        connection = self._open
        assert connection.transport is not None
        if self._needs_tls and not self._is_tls:
            raise ConnectionError("a NATS server does not ask for TLS, and the configuration does")
        if self.is_open:  # who reads is told of the end
            connection.transport.writelines(payload)

    async def read(self, buffer_size: int) -> list[Any]:  # noqa: ARG002
        """Events in order; none at the end. OSError where the connection broke."""
        connection = self._open
        while not (events := _in_words(connection.take)):
            if connection.is_over:
                connection.raise_error()
                self._is_at_end = True
                return []
            await connection.wait_came()
        return events

    async def readline(self) -> bytes:
        """Before `read` was called; what there is at the end."""
        connection = self._open
        while (line := _in_words(connection.take_line)) is None:
            if connection.is_over:
                connection.raise_error()
                return b""
            await connection.wait_came()
        return line

    async def drain(self) -> None:
        await self._open.wait_room()

    async def wait_closed(self) -> None:
        """A server that reads no more gets a second for what was not sent."""
        connection = self._connection
        if connection is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.shield(connection.closed)
        except TimeoutError:
            connection.abort()
            await asyncio.shield(connection.closed)

    def close(self) -> None:
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.close()

    def at_eof(self) -> bool:
        return self._is_at_end


class NatsParser:
    """The client's parser, for what `NatsTransport` has read: tells the client of each thing as its own does.

    `directly`: by subject (no pattern); its messages do not wait in the client's queue, and so are never dropped there.
    Nor do the answers to `requests`.
    """

    def __init__(self, client: Client) -> None:
        self._client: Any = client
        self.directly: dict[bytes, Hear] = {}
        self.requests = Requests(client)

    def is_of(self, client: object) -> bool:
        return self._client is client

    def reset(self) -> None:
        """What it holds belongs to no connection."""

    def _tell(self, hear: Hear, payload: bytes) -> None:
        try:
            hear(payload)
        except Exception as exc:  # what comes after it is read all the same
            _log.error("nats_message_unheard", kind=type(exc).__name__, exc_info=exc)

    async def parse(self, events: list[Any]) -> None:
        client = self._client
        for event in events:
            kind = event[0]
            if kind == b"MSG":
                _, sid, subject, reply, payload, header = event
                if sid == self.requests.sid:
                    self.requests.hear(subject, payload, header)
                    continue
                hear = self.directly.get(subject)
                if hear is None:
                    await client._process_msg(sid, subject, reply, payload, header)
                elif sid in client._subs:
                    self._tell(hear, payload)
            elif kind == b"PING":
                await client._process_ping()
            elif kind == b"PONG":
                if client._pongs and client._pongs[0].done():  # who asked for it does not wait any more
                    client._pongs.pop(0)
                    client._pings_outstanding = 0
                else:
                    await client._process_pong()
            elif kind == b"INFO":
                await client._process_info(json.loads(event[1]))
            elif kind == b"-ERR":
                await client._process_err(event[1].decode("utf-8", "replace").lower())


def _parser_of(client: Client) -> NatsParser | None:
    """None: it reads as it does, or is another object that stands before one."""
    parser = getattr(client, "_ps", None)
    return parser if isinstance(parser, NatsParser) and parser.is_of(client) else None


async def publish(client: Client, subject: str, payload: bytes) -> None:
    """As the client does, but that a large payload is not copied into its command."""
    is_plain = _parser_of(client) is not None and client.is_connected and not client.is_draining
    if len(payload) < COPIED_BYTES or not is_plain:
        await client.publish(subject, payload)
        return
    if len(payload) > client.max_payload:
        raise ValueError("larger than the servers take")
    await send_pending(client, (f"PUB {subject} {len(payload)}\r\n".encode(), payload, b"\r\n"))


async def request(
    client: Client, subject: str, payload: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
) -> bytes:
    """The answer's payload; errors as of the client's `request`."""
    parser = _parser_of(client)
    if parser is not None:
        return await parser.requests.request(subject, payload, timeout_s, headers)
    return (await client.request(subject, payload, timeout=timeout_s, headers=headers)).data


#: of the client, what is used here of its insides
_INSIDES = (
    "_pending",
    "_pending_data_size",
    "_flush_pending",
    "_flush_queue",
    "_pongs",
    "_pings_outstanding",
    "_transport",
    "_ps",
    "_subs",
    "_process_msg",
    "_process_ping",
    "_process_pong",
    "_process_info",
    "_process_err",
)


def read_natively(client: Client, *, needs_tls: bool = False) -> NatsParser | None:
    """Before it connects. `needs_tls`: as for `NatsTransport`. None: it is a release that is made otherwise, and reads
    as it does."""
    inside: Any = client
    if not all(hasattr(inside, name) for name in _INSIDES):
        return None
    parser = NatsParser(client)
    inside._transport = NatsTransport(needs_tls=needs_tls)
    inside._ps = parser
    return parser
