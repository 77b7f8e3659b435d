"""CoAP messages as bytes (RFC 7252 §3), as much as a push over IP takes; must never raise anything but BadCoap.

Here, for the gateway sends them and the device SDK takes them. No block transfer, no observation, no DTLS.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

VERSION = 1
#: §4.6: a message that is no larger needs no fragments
MOST_BYTES, MOST_PAYLOAD_BYTES = 1_152, 1_024
MOST_TOKEN_BYTES = 8

EMPTY, POST, CHANGED = 0x00, 0x02, 0x44  # §12.1: 0.00, 0.02, 2.04
NOT_FOUND, NOT_ALLOWED, BAD_REQUEST = 0x84, 0x85, 0x80
URI_PATH, CONTENT_FORMAT = 11, 12
OCTET_STREAM = 42


class CoapType(IntEnum):
    CON = 0
    NON = 1
    ACK = 2
    RST = 3


class BadCoap(ValueError):
    """The bytes are no CoAP message; the text names the rule."""


class Coap(NamedTuple):
    kind: CoapType
    code: int
    message_id: int
    token: bytes = b""
    options: tuple[tuple[int, bytes], ...] = ()  # by rising number
    payload: bytes = b""

    @property
    def is_request(self) -> bool:
        return 0 < self.code < 0x20

    @property
    def path(self) -> tuple[bytes, ...]:
        return tuple(value for number, value in self.options if number == URI_PATH)

    def __repr__(self) -> str:
        return f"Coap({self.kind.name}, {show_code(self.code)})"


def show_code(code: int) -> str:
    """As 2.04."""
    return f"{code >> 5}.{code & 31:02d}"


def build_empty(kind: CoapType, message_id: int) -> bytes:
    """An acknowledgement or a reset without anything in it (§4.2, §4.3)."""
    return build_coap(Coap(kind, EMPTY, message_id))


def build_coap(message: Coap) -> bytes:
    """ValueError where a part does not fit."""
    if len(message.token) > MOST_TOKEN_BYTES:
        raise ValueError("a token has at most 8 bytes")
    out = bytearray((VERSION << 6 | message.kind << 4 | len(message.token), message.code))
    out += message.message_id.to_bytes(2, "big") + message.token
    before = 0
    for number, value in sorted(message.options, key=lambda option: option[0]):
        delta, delta_more = _split(number - before)
        length, length_more = _split(len(value))
        out += bytes((delta << 4 | length,)) + delta_more + length_more + value
        before = number
    if message.payload:
        out += b"\xff" + message.payload
    return bytes(out)


def _split(number: int) -> tuple[int, bytes]:
    """(nibble, extended bytes), §3.1."""
    if number < 13:
        return number, b""
    if number < 269:
        return 13, bytes((number - 13,))
    return 14, (number - 269).to_bytes(2, "big")


def parse_coap(data: bytes) -> Coap:
    """BadCoap."""
    if len(data) < 4:
        raise BadCoap("shorter than a header")
    if data[0] >> 6 != VERSION:
        raise BadCoap("another version")
    kind, token_bytes, code = CoapType(data[0] >> 4 & 3), data[0] & 15, data[1]
    if token_bytes > MOST_TOKEN_BYTES or 4 + token_bytes > len(data):
        raise BadCoap("the length of the token")
    message_id = data[2] << 8 | data[3]
    if code == EMPTY:
        if len(data) != 4 or kind is CoapType.NON:
            raise BadCoap("an empty message with something in it")  # §4.1
        return Coap(kind, code, message_id)
    if kind is CoapType.RST or code >> 5 in (1, 6, 7):
        raise BadCoap("a code that is not allowed here")  # §3, table 1
    if kind is CoapType.ACK and code < 0x40:
        raise BadCoap("a request inside an acknowledgement")
    at, number, options = 4 + token_bytes, 0, list[tuple[int, bytes]]()
    while at < len(data) and data[at] != 0xFF:
        nibbles = data[at]
        delta, at = _join(data, at + 1, nibbles >> 4)
        length, at = _join(data, at, nibbles & 15)
        number += delta
        if number > 0xFFFF or at + length > len(data):
            raise BadCoap("the length of an option")
        options.append((number, data[at : at + length]))
        at += length
    payload = data[at + 1 :]
    if at < len(data) and not payload:
        raise BadCoap("a payload marker, and no payload")
    return Coap(kind, code, message_id, data[4 : 4 + token_bytes], tuple(options), payload)


def _join(data: bytes, at: int, nibble: int) -> tuple[int, int]:
    """(number, where what is behind it begins)."""
    more = {13: 1, 14: 2}.get(nibble, 0)
    if nibble == 15 or at + more > len(data):
        raise BadCoap("an option's head")
    if not more:
        return nibble, at
    return int.from_bytes(data[at : at + more], "big") + (13 if more == 1 else 269), at + more
