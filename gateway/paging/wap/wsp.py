"""The connectionless push PDU that carries a document to a terminal; must never read past what it was given.

Sources: WAP-230 (WSP) §8.2.4.1 (push), §8.4 (headers); WAP-235 (PushOTA) §7 (port 2948, application ids).
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.paging.udh import Ports

PUSH = 0x06
#: connectionless, without security: a push client listens there (WAP-235 §7.1); the source is Kannel's wsp port
WAP_PUSH = Ports(2948, 9200)
# assigned content types, as short integers (WAP-230, table 40)
SIC, SLC = 0x2E, 0x30
CONTENT_LENGTH, APPLICATION_ID = 0x0D, 0x2F
#: the user's browser
WML_UA = 0x02
#: of a header's value: 0 to 30 its length, 31 a longer one follows, to 127 text, else a short integer (§8.4.1.2)
_QUOTE, _TEXT, _SHORT = 31, 32, 128
_UINT_BYTES = 5


class WspPush(NamedTuple):
    transaction: int
    content_type: int  # one that is assigned
    application: int = -1  # assigned id of the application; -1: not said
    content_length: int = -1  # -1: not said
    body: bytes = b""

    def __repr__(self) -> str:
        return f"WspPush({len(self.body)} bytes)"


class BadPush(ValueError):
    """The bytes are no push that is known here."""


def build_uint(value: int) -> bytes:
    """uintvar (§8.1.2)."""
    out = bytes((value & 0x7F,))
    while value := value >> 7:
        out = bytes((0x80 | value & 0x7F,)) + out
    return out


def _build_integer(value: int) -> bytes:
    """Short where it fits, else long (§8.4.2.1)."""
    if value < _SHORT:
        return bytes((_SHORT | value,))
    long = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes((len(long),)) + long


def build_push(push: WspPush) -> bytes:
    headers = bytes((_SHORT | push.content_type,))
    if push.content_length >= 0:
        headers += bytes((_SHORT | CONTENT_LENGTH,)) + _build_integer(push.content_length)
    if push.application >= 0:
        headers += bytes((_SHORT | APPLICATION_ID,)) + _build_integer(push.application)
    return bytes((push.transaction & 0xFF, PUSH)) + build_uint(len(headers)) + headers + push.body


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise BadPush("ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def uint(self) -> int:
        value = 0
        for _ in range(_UINT_BYTES):
            byte = self.byte()
            value = value << 7 | byte & 0x7F
            if not byte & 0x80:
                return value
        raise BadPush("a length is too long")

    def text(self) -> bytes:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise BadPush("a text has no end")
        return self.take(end + 1 - self.at)[:-1]

    def value(self) -> int | bytes:
        """A short integer, or the bytes of anything longer."""
        first = self.byte()
        if first >= _SHORT:
            return first & 0x7F
        if first >= _TEXT:
            self.at -= 1
            return self.text()
        return self.take(self.uint() if first == _QUOTE else first)


def _parse_integer(value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    if not 1 <= len(value) <= 4:
        raise BadPush("an integer is none")
    return int.from_bytes(value, "big")


def parse_push(data: bytes) -> WspPush:
    """What a terminal does with it. Headers that are not known are passed over. BadPush."""
    reader = _Reader(data)
    transaction = reader.byte()
    if reader.byte() != PUSH:
        raise BadPush("is no push")
    headers = _Reader(reader.take(reader.uint()))
    content_type = headers.value()
    if isinstance(content_type, bytes):
        # a type with parameters: the length, then the type itself (§8.4.2.24)
        if not content_type or content_type[0] < _SHORT:
            raise BadPush("the content type is none that is assigned")
        content_type = content_type[0] & 0x7F
    application = content_length = -1
    while headers.at < len(headers.data):
        name = headers.byte()
        if name < _TEXT:
            raise BadPush("a header has no name")
        if name < _SHORT:  # by its name, and then its value is text
            headers.at -= 1
            headers.text()
            headers.text()
            continue
        value = headers.value()
        if name == _SHORT | APPLICATION_ID:
            application = _parse_integer(value)
        elif name == _SHORT | CONTENT_LENGTH:
            content_length = _parse_integer(value)
    return WspPush(transaction, content_type, application, content_length, reader.data[reader.at :])
