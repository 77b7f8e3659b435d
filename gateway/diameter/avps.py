"""Attribute-value pairs: bytes ↔ values (RFC 6733 §4); must never raise anything but Malformed for bytes that came from
outside, and never show a value by being printed.

A grouped AVP is read when somebody asks for it, one level at a time, so nesting can not make a reader recurse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

#: AVPs of one message or group; past it the message is refused
MOST_AVPS = 512
_HEAD = struct.Struct(">II")
_U32 = struct.Struct(">I")
_VENDOR, _MANDATORY = 0x80, 0x40
#: bits that mean nothing yet and are to be zero (§4.1); the third is P, of the past
_RESERVED = 0x1F


class Malformed(ValueError):
    """Bytes that are no Diameter; `result` is the Result-Code that says so (RFC 6733 §7.1)."""

    def __init__(self, words: str, result: int = 5014) -> None:
        super().__init__(words)
        self.result = result


class Kind(NamedTuple):
    """What an AVP is."""

    code: int
    vendor: int = 0
    is_mandatory: bool = True


class Avp(NamedTuple):
    code: int
    vendor: int
    data: bytes
    is_mandatory: bool = False

    def __repr__(self) -> str:
        return f"Avp({self.code})"


# --- building


def build_octets(kind: Kind, data: bytes) -> bytes:
    """One AVP, padded to four bytes; the length in it is without the padding (§4.1)."""
    head_bytes = 12 if kind.vendor else 8
    flags = (_VENDOR if kind.vendor else 0) | (_MANDATORY if kind.is_mandatory else 0)
    head = _HEAD.pack(kind.code, flags << 24 | head_bytes + len(data))
    vendor = _U32.pack(kind.vendor) if kind.vendor else b""
    return head + vendor + data + bytes(-len(data) % 4)


def build_u32(kind: Kind, value: int) -> bytes:
    """Unsigned32, and Enumerated (§4.2, §4.3.1)."""
    return build_octets(kind, _U32.pack(value))


def build_text(kind: Kind, text: str) -> bytes:
    return build_octets(kind, text.encode())


def build_group(kind: Kind, *avps: bytes) -> bytes:
    """Of AVPs that are built already."""
    return build_octets(kind, b"".join(avps))


def build_address(kind: Kind, address: str) -> bytes:
    """§4.3.1: the address family, then the address."""
    packed = ip_address(address).packed
    return build_octets(kind, (b"\0\1" if len(packed) == 4 else b"\0\2") + packed)


# --- reading


class Avps:
    """Those of one message or group, in their order."""

    __slots__ = ("_avps",)

    def __init__(self, avps: tuple[Avp, ...] = ()) -> None:
        self._avps = avps

    def __iter__(self) -> Iterator[Avp]:
        return iter(self._avps)

    def __len__(self) -> int:
        return len(self._avps)

    def __repr__(self) -> str:
        return f"Avps({', '.join(str(avp.code) for avp in self._avps)})"

    def all(self, kind: Kind) -> list[bytes]:
        return [avp.data for avp in self._avps if (avp.code, avp.vendor) == (kind.code, kind.vendor)]

    def first(self, kind: Kind) -> bytes | None:
        return next(iter(self.all(kind)), None)

    def u32(self, kind: Kind) -> int | None:
        """None where it is not there, as with those below. Malformed."""
        data = self.first(kind)
        return None if data is None else parse_u32(data)

    def text(self, kind: Kind) -> str | None:
        data = self.first(kind)
        return None if data is None else parse_text(data)

    def group(self, kind: Kind) -> Avps | None:
        data = self.first(kind)
        return None if data is None else parse_avps(data)


def parse_u32(data: bytes) -> int:
    if len(data) != 4:
        raise Malformed("a number does not take four bytes")
    return int.from_bytes(data, "big")


def parse_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        # out of the handler's context, which holds the bytes
        pass
    raise Malformed("a text is not UTF-8", 5004)


def parse_avps(data: bytes) -> Avps:
    """Malformed."""
    found: list[Avp] = []
    at = 0
    while at < len(data):
        if len(found) >= MOST_AVPS:
            raise Malformed("too many AVPs", 5012)
        if len(data) - at < 8:
            raise Malformed("an AVP is cut off")
        code, rest = _HEAD.unpack_from(data, at)
        flags, length = rest >> 24, rest & 0xFFFFFF
        if flags & _RESERVED:
            raise Malformed("an AVP has flags that are not known", 3009)
        head_bytes = 12 if flags & _VENDOR else 8
        if length < head_bytes or at + length > len(data):
            raise Malformed("an AVP has no possible length")
        vendor = _U32.unpack_from(data, at + 8)[0] if flags & _VENDOR else 0
        found.append(Avp(code, vendor, data[at + head_bytes : at + length], bool(flags & _MANDATORY)))
        at += length + -length % 4  # the last one may come without its padding
    return Avps(tuple(found))
