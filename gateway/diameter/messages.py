"""Diameter messages: header, and where one ends in a stream (RFC 6733 §3); must never raise anything but Malformed for
bytes that came from outside."""

from __future__ import annotations

import struct
from typing import NamedTuple

from gateway.diameter.avps import Avps, Malformed, parse_avps

VERSION = 1
HEADER_BYTES = 20
REQUEST, PROXIABLE, ERROR, RETRANSMITTED = 0x80, 0x40, 0x20, 0x10
_RESERVED = 0x0F
_HEADER = struct.Struct(">IIIII")
_MOST = 0xFFFFFF


class Header(NamedTuple):
    flags: int
    command: int
    application: int
    hop_by_hop: int = 0
    end_to_end: int = 0

    @property
    def is_request(self) -> bool:
        return bool(self.flags & REQUEST)


class Message(NamedTuple):
    header: Header
    avps: Avps


def build_message(header: Header, avps: bytes) -> bytes:
    length = HEADER_BYTES + len(avps)
    if length > _MOST:
        raise ValueError("too long for a Diameter message")
    return (
        _HEADER.pack(
            VERSION << 24 | length,
            header.flags << 24 | header.command,
            header.application,
            header.hop_by_hop,
            header.end_to_end,
        )
        + avps
    )


def parse_header(frame: bytes) -> Header:
    """Of a whole message, as `Frames` gives it. Malformed."""
    if len(frame) < HEADER_BYTES:
        raise Malformed("a header is cut off", 5015)
    _, command, application, hop_by_hop, end_to_end = _HEADER.unpack_from(frame)
    return Header(command >> 24, command & _MOST, application, hop_by_hop, end_to_end)


def parse_message(frame: bytes) -> Message:
    """Malformed."""
    header = parse_header(frame)
    if header.flags & _RESERVED or (header.is_request and header.flags & ERROR):
        raise Malformed("the header has flags that can not be", 3008)
    return Message(header, parse_avps(frame[HEADER_BYTES:]))


class Frames:
    """Cuts a stream into messages."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Messages that are whole now. Malformed: nothing behind these bytes can be read."""
        data = self._rest + data
        frames: list[bytes] = []
        at = 0
        while len(data) - at >= 4:
            version, length = data[at], int.from_bytes(data[at + 1 : at + 4], "big")
            if version != VERSION:
                raise Malformed("no version of Diameter that is known", 5011)
            if length < HEADER_BYTES or length % 4 or length > self._most_bytes:
                raise Malformed("no possible length", 5015)
            if len(data) - at < length:
                break
            frames.append(data[at : at + length])
            at += length
        self._rest = data[at:]
        return frames
