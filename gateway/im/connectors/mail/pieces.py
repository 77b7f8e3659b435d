"""Transfer encodings undone piece by piece, as a file comes; sans I/O, and mistakes in it stop nothing."""

from __future__ import annotations

import binascii
import re

_NO_DIGITS = re.compile(rb"[^A-Za-z0-9+/]")
#: a soft line break or an escape that a piece may end in, with spaces before a line end
_QP_TAIL = 1_024


class Decoder:
    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._rest = b""

    def feed(self, piece: bytes) -> bytes:
        if self._encoding == "base64":
            digits = self._rest + _NO_DIGITS.sub(b"", piece)
            whole = len(digits) // 4 * 4
            self._rest = digits[whole:]
            return binascii.a2b_base64(digits[:whole])
        if self._encoding == "quoted-printable":
            data = self._rest + piece
            # whole lines; a line without an end is taken in parts that end in no escape
            end = data.rfind(b"\n") + 1
            if not end and len(data) > _QP_TAIL:
                end = len(data)
                while len(data) - end < _QP_TAIL and (b"=" in data[end - 2 : end] or data[end - 1 : end].isspace()):
                    end -= 1
            self._rest = data[end:]
            return binascii.a2b_qp(data[:end])
        return piece

    def end(self) -> bytes:
        rest, self._rest = self._rest, b""
        if self._encoding == "base64":
            return binascii.a2b_base64(rest + b"=" * (4 - len(rest))) if len(rest) > 1 else b""
        return binascii.a2b_qp(rest) if self._encoding == "quoted-printable" else rest
