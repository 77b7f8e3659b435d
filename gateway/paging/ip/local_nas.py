"""An accounting client of our own for tests and trials: a GGSN that tells who is on line; must never be used before a
real network. It checks every byte of an answer (RFC 2866 §3; the Message-Authenticator as FreeRADIUS has it).
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from hashlib import md5
from ipaddress import IPv6Network
from typing import Any

from gateway.paging.ip.accounting import START

SECRET = b"between-us-alone"
_TEXT = {"user_name": 1, "called": 30, "msisdn": 31, "nas": 32, "session": 44}
_NUMBERS = {"status": 40, "delay_s": 41, "event_s": 55, "session_s": 46}
_3GPP = {"imsi": 1, "imeisv": 20}


def attribute(kind: int, value: bytes) -> bytes:
    return bytes((kind, 2 + len(value))) + value


def build_attributes(**said: Any) -> bytes:
    """By the names above; `ip`, `ipv6`, `prefix`, `nas_ip`."""
    out = b""
    for name, value in said.items():
        if name in _TEXT:
            out += attribute(_TEXT[name], value.encode())
        elif name in _NUMBERS:
            out += attribute(_NUMBERS[name], int(value).to_bytes(4, "big"))
        elif name in _3GPP:
            out += attribute(26, (10_415).to_bytes(4, "big") + attribute(_3GPP[name], value.encode()))
        elif name in ("ip", "nas_ip"):
            out += attribute(8 if name == "ip" else 4, socket.inet_aton(value))
        elif name == "ipv6":
            out += attribute(168, socket.inet_pton(socket.AF_INET6, value))
        elif name == "prefix":
            network = IPv6Network(value)
            packed = network.network_address.packed[: (network.prefixlen + 7) // 8]
            out += attribute(97, bytes((0, network.prefixlen)) + packed)
        else:
            raise TypeError(name)
    return out


def build_request(attributes: bytes, secret: bytes = SECRET, *, identifier: int = 1, signed: bool = False) -> bytes:
    """`signed`: with a Message-Authenticator."""
    length = 20 + len(attributes) + (18 if signed else 0)
    head = bytes((4, identifier)) + length.to_bytes(2, "big")
    if signed:
        blank = head + bytes(16) + attribute(80, bytes(16)) + attributes
        attributes = attribute(80, hmac.digest(secret, blank, "md5")) + attributes
    return head + md5(head + bytes(16) + attributes + secret, usedforsecurity=False).digest() + attributes


def check_response(request: bytes, response: bytes, secret: bytes = SECRET) -> None:
    """ValueError where it is none to this request."""
    attributes = response[20:]
    expected = md5(response[:4] + request[4:20] + attributes + secret, usedforsecurity=False).digest()
    if response[0] != 5 or response[1] != request[1] or int.from_bytes(response[2:4], "big") != len(response):
        raise ValueError("no answer to this request")
    if response[4:20] != expected:
        raise ValueError("the authenticator of the answer")
    if attributes[:1] == b"\x50":
        blank = response[:4] + bytes(16) + attribute(80, bytes(16)) + attributes[18:]
        if attributes[2:18] != hmac.digest(secret, blank, "md5"):
            raise ValueError("the Message-Authenticator of the answer")


class LocalNas(asyncio.DatagramProtocol):
    """`async with LocalNas(port) as nas: await nas.tell(...)`."""

    def __init__(self, port: int, secret: bytes = SECRET, host: str = "127.0.0.1") -> None:
        self._address = (host, port)
        self._secret = secret
        self._identifier = 0
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._transport: asyncio.DatagramTransport | None = None

    async def __aenter__(self) -> LocalNas:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()

    def datagram_received(self, data: bytes, _addr: object) -> None:
        self._answers.put_nowait(data)

    def error_received(self, _error: Exception) -> None:
        """Nobody listens there: no answer comes."""

    async def tell(self, status: int = START, *, timeout_s: float = 5.0, **said: Any) -> None:
        """Answered when it returns. TimeoutError."""
        self._identifier = (self._identifier + 1) & 0xFF
        attributes = build_attributes(status=status, **{"session": "0A0B0C0D00000001", "nas": "ggsn1", **said})
        request = build_request(attributes, self._secret, identifier=self._identifier)
        answer = await self.send(request, timeout_s=timeout_s)
        check_response(request, answer, self._secret)

    async def send(self, packet: bytes, *, timeout_s: float = 5.0) -> bytes:
        """As it is; returns what comes back. TimeoutError."""
        assert self._transport is not None
        self._transport.sendto(packet)
        return await asyncio.wait_for(self._answers.get(), timeout_s)
