"""BER-TLV and COMPREHENSION-TLV data objects as bytes, both directions; must never read past a length, nor take one
that could be written shorter.

Source: ETSI TS 101 220 §7.1. A length has one byte below 0x80, else 0x81, 0x82 or 0x83 and as many bytes as that says.
A COMPREHENSION-TLV tag has one byte, whose bit 8 is the comprehension flag, or three: 0x7F, then 16 bits with the flag
on top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gateway.ota.malformed import Malformed

#: data objects beside each other; more is no command
MOST_ITEMS = 64
_LONG_TAG = 0x7F
_FLAG = 0x80
#: not used, or reserved (TS 101 220 §7.1.1.1)
_NO_TAGS = (0x00, 0x80, 0xFF)


class Tlv(NamedTuple):
    #: without the comprehension flag
    tag: int
    value: bytes
    #: a receiver that does not know the tag must not go on
    required: bool = False

    def __repr__(self) -> str:
        return f"Tlv({self.tag:#04x}, {len(self.value)} bytes)"


def build_length(length: int) -> bytes:
    """ValueError past 0xFFFFFF."""
    if length < 0x80:
        return bytes((length,))
    for width in (1, 2, 3):
        if length < 1 << 8 * width:
            return bytes((0x80 + width,)) + length.to_bytes(width, "big")
    raise ValueError("a length has three bytes at most")


def parse_length(data: bytes, at: int) -> tuple[int, int]:
    """(length, where the value begins). Malformed."""
    if at >= len(data):
        raise Malformed("a length is missing")
    first = data[at]
    if first < 0x80:
        return first, at + 1
    width = first - 0x80
    if not 1 <= width <= 3 or at + 1 + width > len(data):
        raise Malformed("a length has one to four bytes")
    length = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    if length < (0x80 if width == 1 else 1 << 8 * (width - 1)):
        raise Malformed("a length could be written shorter")
    return length, at + 1 + width


def build_ber(tag: int, value: bytes) -> bytes:
    """One with a tag of one byte, as all of the card application toolkit have it."""
    return bytes((tag,)) + build_length(len(value)) + value


def parse_ber(data: bytes, *, whole: bool = True) -> tuple[int, bytes, bytes]:
    """(tag, value, what is behind it). Malformed; also where something is behind it and `whole` is asked for."""
    if not data:
        raise Malformed("a tag is missing")
    length, start = parse_length(data, 1)
    if start + length > len(data) or (whole and start + length < len(data)):
        raise Malformed("a value is not as long as its length says")
    return data[0], data[start : start + length], data[start + length :]


def build_tlv(tlv: Tlv) -> bytes:
    """ValueError where the tag does not fit."""
    if 0 < tlv.tag < _LONG_TAG:
        head = bytes((tlv.tag | (_FLAG if tlv.required else 0),))
    elif _LONG_TAG <= tlv.tag < 0x8000:
        head = bytes((_LONG_TAG,)) + (tlv.tag | (0x8000 if tlv.required else 0)).to_bytes(2, "big")
    else:
        raise ValueError("a tag is 1 to 0x7fff")
    return head + build_length(len(tlv.value)) + tlv.value


def build_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    return b"".join(map(build_tlv, tlvs))


def parse_tlvs(data: bytes) -> list[Tlv]:
    """All of them, in order. Malformed."""
    found: list[Tlv] = []
    at = 0
    while at < len(data):
        if len(found) == MOST_ITEMS:
            raise Malformed(f"more than {MOST_ITEMS} data objects")
        tag = data[at]
        if tag in _NO_TAGS:
            raise Malformed("no such tag")
        at += 1
        required, tag = bool(tag & _FLAG), tag & ~_FLAG
        if tag == _LONG_TAG:
            if required or at + 2 > len(data):
                raise Malformed("a tag of three bytes ends early")
            tag = int.from_bytes(data[at : at + 2], "big")
            required, tag = bool(tag & 0x8000), tag & 0x7FFF
            at += 2
            if tag < _LONG_TAG:
                raise Malformed("a tag could be written shorter")
        length, start = parse_length(data, at)
        at = start + length
        if at > len(data):
            raise Malformed("a value is not as long as its length says")
        found.append(Tlv(tag, data[start:at], required))
    return found


def find(tlvs: Iterable[Tlv], tag: int) -> bytes | None:
    """The value of the first with this tag."""
    return next((tlv.value for tlv in tlvs if tlv.tag == tag), None)


def need(tlvs: Iterable[Tlv], tag: int, *lengths: int) -> bytes:
    """The value of the first with this tag; Malformed where there is none, or it has none of these lengths."""
    value = find(tlvs, tag)
    if value is None:
        raise Malformed(f"data object {tag:#04x} is missing")
    if lengths and len(value) not in lengths:
        raise Malformed(f"data object {tag:#04x} has a wrong length")
    return value
