"""The user data header of a short message: ports and concatenation; must never trust a length it was given.

Source: 3GPP TS 23.040 §9.2.3.24 (form), .1 (concatenation, 8-bit reference), .4 (ports, 16 bit), .8 (concatenation,
16-bit reference).
"""

from __future__ import annotations

from typing import NamedTuple

IE_CONCAT_8 = 0x00
IE_PORTS_8 = 0x04
IE_PORTS_16 = 0x05
IE_CONCAT_16 = 0x08

#: ports that applications may have for themselves (§9.2.3.24.4: 16000 to 16999 are free for all)
APP_PORTS = range(16_000, 17_000)


class Ports(NamedTuple):
    destination: int
    source: int


class Concat(NamedTuple):
    """Part `part` of `parts`, the first is 1."""

    reference: int
    parts: int
    part: int
    wide: bool = False  # the reference has 16 bits


class Header(NamedTuple):
    ports: Ports | None = None
    concat: Concat | None = None


class BadHeader(ValueError):
    """The bytes are no user data header."""


def build_header(header: Header) -> bytes:
    """With its length byte in front; empty where there is nothing to say. Ports come first."""
    elements = b""
    if header.ports is not None:
        destination, source = header.ports
        elements += bytes((IE_PORTS_16, 4)) + destination.to_bytes(2, "big") + source.to_bytes(2, "big")
    if header.concat is not None:
        concat = header.concat
        kind, width = (IE_CONCAT_16, 2) if concat.wide else (IE_CONCAT_8, 1)
        elements += bytes((kind, width + 2)) + concat.reference.to_bytes(width, "big")
        elements += bytes((concat.parts, concat.part))
    return bytes((len(elements),)) + elements if elements else b""


def parse_header(data: bytes) -> tuple[Header, bytes]:
    """(header, what is behind it). BadHeader where a length does not fit. Elements that are not known are passed over,
    and so is one that makes no sense (§9.2.3.24.1: part 0, or past the last); of one that is repeated the last counts
    (§9.2.3.24)."""
    if not data or 1 + data[0] > len(data):
        raise BadHeader("the header is longer than the message")
    end = 1 + data[0]
    ports: Ports | None = None
    concat: Concat | None = None
    at = 1
    while at < end:
        if at + 2 > end or at + 2 + data[at + 1] > end:
            raise BadHeader("an element is longer than the header")
        kind, body = data[at], data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + len(body)
        if kind == IE_PORTS_16 and len(body) == 4:
            ports = Ports(int.from_bytes(body[:2], "big"), int.from_bytes(body[2:], "big"))
        elif kind == IE_PORTS_8 and len(body) == 2:
            ports = Ports(body[0], body[1])
        elif kind in (IE_CONCAT_8, IE_CONCAT_16) and len(body) == (3 if kind == IE_CONCAT_8 else 4):
            reference, parts, part = int.from_bytes(body[:-2], "big"), body[-2], body[-1]
            if 1 <= part <= parts:
                concat = Concat(reference, parts, part, wide=kind == IE_CONCAT_16)
    return Header(ports, concat), data[end:]
