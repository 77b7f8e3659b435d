"""Netstrings (`length:bytes,`), the frames of Kamailio's evapi; must never hold more than one frame's worth of bytes.

Source: D. J. Bernstein, "Netstrings", 1997; Kamailio's evapi module, parameter netstring_format.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"0|[1-9][0-9]{0,5}")
#: digits of a length and its colon
_HEAD_BYTES = 7


class BadFrame(ValueError):
    """The bytes are no netstring, or one that is too long; nothing behind them can be read."""


def build_netstring(data: bytes) -> bytes:
    return b"%d:%b," % (len(data), data)


class Netstrings:
    """Bytes as they come → the contents of whole netstrings."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """BadFrame; it is of no use after that."""
        self._buffer += data
        found: list[bytes] = []
        at = 0
        while True:
            colon = self._buffer.find(b":", at, at + _HEAD_BYTES)
            if colon < 0:
                if len(self._buffer) - at >= _HEAD_BYTES:
                    raise BadFrame("no length")
                break
            digits = bytes(self._buffer[at:colon])
            if _LENGTH.fullmatch(digits) is None:
                raise BadFrame("no length")
            length = int(digits)
            if length > self._most_bytes:
                raise BadFrame("too long")
            end = colon + 1 + length
            if len(self._buffer) <= end:
                break
            if self._buffer[end] != 0x2C:
                raise BadFrame("no comma at the end")
            found.append(bytes(self._buffer[colon + 1 : end]))
            at = end + 1
        del self._buffer[:at]
        return found
