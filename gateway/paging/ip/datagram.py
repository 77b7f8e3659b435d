"""One confirmable CoAP POST to a terminal: sent, sent again, acknowledged or not (C11); must never take an answer from
anybody but the address it asked, nor show that address.

RFC 7252 §4.2 (confirmable messages and their retransmission), §5.2 (answers inside or behind the acknowledgement).
Each exchange has a socket of its own that is connected: the kernel passes only what comes from the terminal, and says
when nobody listens there. An answer has to match message id and token, both random.

Own code, though there is a library (aiocoap): its log names the peer of every trouble, and a terminal's address is a
subscriber's identity; here are one method and three kinds of answer. The library is the terminal in a test, and tshark
reads the bytes. No DTLS: inside the operator's network, and a reason to connect, not to believe.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from random import SystemRandom
from typing import NamedTuple, cast

from gateway.config.radius import RANDOM_FACTOR
from gateway.model.coap import (
    CONTENT_FORMAT,
    MOST_BYTES,
    OCTET_STREAM,
    POST,
    URI_PATH,
    BadCoap,
    Coap,
    CoapType,
    build_coap,
    build_empty,
    parse_coap,
)

_random = SystemRandom()


class What(Enum):
    """How an exchange ended."""

    ANSWERED = "answered"
    ACKNOWLEDGED = "acknowledged"  # and no answer came behind it in time
    RESET = "reset"
    UNREACHABLE = "unreachable"  # ICMP: nobody listens on that port; or no way leads there
    SILENT = "silent"
    OWN = "own"  # the address is this machine's


class Exchanged(NamedTuple):
    what: What
    code: int = 0
    sent: int = 0  # datagrams


class Timing(NamedTuple):
    ack_s: float
    retransmits: int


class _Terminal(asyncio.DatagramProtocol):
    """What comes back, matched against what was sent."""

    def __init__(self, message_id: int, token: bytes, ended: asyncio.Future[Exchanged]) -> None:
        self._message_id = message_id
        self._token = token
        self._ended = ended
        self._transport: asyncio.DatagramTransport | None = None
        self.acknowledged = asyncio.Event()
        self.strays = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # a loop's own need not be of that class

    def datagram_received(self, data: bytes, _source: object) -> None:
        try:
            message = parse_coap(data[: MOST_BYTES + 1])
        except BadCoap:
            self.strays += 1
            return
        if message.kind in (CoapType.ACK, CoapType.RST):
            if message.message_id != self._message_id:
                self.strays += 1
            elif message.kind is CoapType.RST:
                self._end(Exchanged(What.RESET))
            elif message.code == 0:
                self.acknowledged.set()  # §5.2.2: the answer comes in a message of its own
            elif message.token == self._token:
                self._end(Exchanged(What.ANSWERED, message.code))
            else:
                self.strays += 1
            return
        if message.token != self._token or message.code < 0x40:
            self.strays += 1
            if message.kind is CoapType.CON:
                self._send(build_empty(CoapType.RST, message.message_id))  # §4.2: nothing is known of it
            return
        if message.kind is CoapType.CON:
            self._send(build_empty(CoapType.ACK, message.message_id))
        self._end(Exchanged(What.ANSWERED, message.code))

    def error_received(self, _error: Exception) -> None:
        self._end(Exchanged(What.UNREACHABLE))

    def connection_lost(self, _error: Exception | None) -> None:
        self._end(Exchanged(What.UNREACHABLE))

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.sendto(data)

    def _end(self, how: Exchanged) -> None:
        if not self._ended.done():
            self._ended.set_result(how)


async def post(
    address: IPv4Address | IPv6Address, port: int, path: str, payload: bytes, timing: Timing, *, allows_own: bool
) -> Exchanged:
    """Ends in `gateway.config.radius.wait_s`. OSError where there is no socket for it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Exchanged] = loop.create_future()
    message_id, token = secrets.randbelow(0x10000), secrets.token_bytes(8)
    options = [(CONTENT_FORMAT, OCTET_STREAM.to_bytes(1, "big"))]
    if path:
        options.append((URI_PATH, path.encode()))
    data = build_coap(Coap(CoapType.CON, POST, message_id, token, tuple(options), payload))
    opened = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        try:
            opened.connect((str(address), port))
        except OSError:  # no route to this one, which says nothing of others
            opened.close()
            return Exchanged(What.UNREACHABLE)
        if opened.getsockname()[0] == str(address) and not allows_own:
            opened.close()
            return Exchanged(What.OWN)
        transport, terminal = await loop.create_datagram_endpoint(
            lambda: _Terminal(message_id, token, ended), sock=opened
        )
    except BaseException:
        opened.close()
        raise
    try:
        return await _carry(transport, terminal, ended, data, timing)
    finally:
        transport.close()


async def _carry(
    transport: asyncio.DatagramTransport,
    terminal: _Terminal,
    ended: asyncio.Future[Exchanged],
    data: bytes,
    timing: Timing,
) -> Exchanged:
    wait_s = timing.ack_s * _random.uniform(1.0, RANDOM_FACTOR)
    sent = 0
    for _ in range(timing.retransmits + 1):
        if not terminal.acknowledged.is_set():
            transport.sendto(data)
            sent += 1
        await asyncio.wait({ended}, timeout=wait_s)
        if ended.done():
            return ended.result()._replace(sent=sent)
        wait_s *= 2
    return Exchanged(What.ACKNOWLEDGED if terminal.acknowledged.is_set() else What.SILENT, sent=sent)
