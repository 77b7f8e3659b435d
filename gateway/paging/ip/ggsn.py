"""Asks a GGSN whether a subscriber has a PDP context, and at which address (C11); must never send it anything but
digits, nor log or repeat what it asked or was told.

What is spoken is the VTY of osmo-ggsn (OsmoGGSN user manual, "show pdp-context ggsn NAME imsi IMSI"): lines of text
over telnet, each command answered before the next prompt. Another GGSN is another class behind `OnlineRegister`; most
are better asked by accounting (gateway/paging/ip/listener.py), which tells by itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from gateway.model.subscriber import NetworkIdKind, Subscriber
from gateway.paging.ip.online import OFF_LINE, Whereabouts

#: questions at once, each a connection of its own
AT_ONCE = 8
#: an answer that is longer is none
MOST_BYTES = 65_536
#: the prompt ends every answer; the name in front is the host's own
_PROMPT = re.compile(rb"(?:^|\n)[A-Za-z0-9_.-]{1,64}> $")
#: RFC 854: commands the other side may begin with
_TELNET = re.compile(rb"\xff(?:[\xfb-\xfe].|[\xf0-\xfa])", re.DOTALL)
_HEAD = re.compile(r"IMSI: (\d{6,15}), NSAPI: \d+, MSISDN: ")
_APN = re.compile(r" APN in use: (\S{1,100})")
_ADDRESS = re.compile(r" End-User Address \(IPv[46]\): (\S{2,45})")
_NONE = "% No such PDP context found"


class Context(NamedTuple):
    """One PDP context."""

    imsi: str
    apn: str
    addresses: tuple[IPv4Address | IPv6Address, ...]

    def __repr__(self) -> str:
        return "Context(…)"


def parse_contexts(text: str) -> list[Context]:
    """The answer without its prompt; empty: there is none. ValueError where it is no answer to the question."""
    lines = [line.rstrip() for line in text.splitlines()]
    if _NONE in lines:
        return []
    found: list[Context] = []
    for line in lines:
        head = _HEAD.match(line)
        if head is not None:
            found.append(Context(head[1], "", ()))
        elif line.startswith("%"):
            raise ValueError("the GGSN refuses the question")
        elif found and (apn := _APN.fullmatch(line)) is not None:
            found[-1] = found[-1]._replace(apn=apn[1].lower())
        elif found and (address := _ADDRESS.fullmatch(line)) is not None:
            try:
                parsed = ip_address(address[1].partition("/")[0])
            except ValueError:
                raise ValueError("the GGSN names an address that is none") from None
            found[-1] = found[-1]._replace(addresses=(*found[-1].addresses, parsed))
    if not found:
        raise ValueError("the GGSN says nothing that can be understood")
    return found


class OsmoGgsn:
    """OnlineRegister port."""

    def __init__(self, host: str, port: int, name: str, timeout_s: float, apns: Sequence[str] = ()) -> None:
        self._host, self._port, self._name = host, port, name
        self._timeout_s = timeout_s
        self._apns = frozenset(apn.lower() for apn in apns)
        self._places = asyncio.Semaphore(AT_ONCE)

    async def look_up(self, subscriber: Subscriber) -> Whereabouts | None:
        imsis = [each for each in subscriber.all(NetworkIdKind.IMSI) if _is_imsi(each)]
        if not imsis:
            return None  # a GGSN knows no other name
        contexts: list[Context] = []
        async with asyncio.timeout(self._timeout_s):
            async with self._places:
                for imsi in imsis:
                    contexts += await self._ask(imsi)
        if not contexts:
            return OFF_LINE
        asked = [each for each in contexts if not self._apns or each.apn in self._apns]
        return Whereabouts(True, tuple(dict.fromkeys(a for context in asked for a in context.addresses)))

    async def _ask(self, imsi: str) -> list[Context]:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            await _until_prompt(reader)
            command = f"show pdp-context ggsn {self._name} imsi {imsi}"
            writer.write(command.encode() + b"\r\n")
            answer = await _until_prompt(reader)
            # of nobody else, whatever it says
            return [each for each in parse_contexts(answer.replace(command, "", 1)) if each.imsi == imsi]
        finally:
            writer.close()

    async def close(self) -> None:
        """Nothing is kept between questions."""


async def _until_prompt(reader: asyncio.StreamReader) -> str:
    """ConnectionError where it ends before, ValueError where it never does."""
    said = b""
    while True:
        piece = await reader.read(4_096)
        if not piece:
            raise ConnectionError("the GGSN closed")
        said += piece
        if len(said) > MOST_BYTES:
            raise ValueError("the GGSN says too much")
        clean = _TELNET.sub(b"", said)
        if _PROMPT.search(clean):
            return clean.decode("latin-1").rpartition("\n")[0]


def _is_imsi(text: str) -> bool:
    """Anything else would be another command."""
    return text.isascii() and text.isdigit() and 6 <= len(text) <= 15
