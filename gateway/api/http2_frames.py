"""Looks at HTTP/2 frame headers as they pass, before the codec does any work for them; sans-IO, keeps no payload.

What costs the sender next to nothing and us something (PING, SETTINGS, RST_STREAM, empty DATA, CONTINUATION …) is
counted here, so that a flood is cut before it is answered (CVE-2019-9512 and following, CVE-2023-44487, VU#421644).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

#: RFC 9113 §3.4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
# RFC 9113 §6
DATA, HEADERS, RST_STREAM, CONTINUATION = 0x0, 0x1, 0x3, 0x9
_END_STREAM, _END_HEADERS = 0x1, 0x4


#: DATA smaller than this, and not the last of its body, is no honest part of one
SMALL_DATA_BYTES = 16
#: frames in one piece: what a codec has to do for many small ones must not be done in one turn of the loop
PIECE_FRAMES = 64
#: a request counts as so many: it is decoded and handled
_REQUEST_FRAMES = 8


class Seen(NamedTuple):
    """What one piece of bytes began."""

    #: frames that carry neither a request nor a part of a body worth the name
    cheap: int
    resets: int
    #: where the piece ends
    end: int


class FrameScan:
    """Give it everything that came, in order, the preface included."""

    __slots__ = ("_head", "_skip", "header_bytes", "in_headers")

    def __init__(self) -> None:
        self._head = b""
        self._skip = len(PREFACE)
        #: a header block began and is not complete
        self.in_headers = False
        #: of the block under way, compressed
        self.header_bytes = 0

    def feed(self, data: bytes) -> Seen:
        """The next piece: to the end of the data, or of as many frames as one piece may have."""
        cheap = resets = frames = at = 0
        end = len(data)
        while at < end:
            if frames >= PIECE_FRAMES and not self._skip:
                break
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            head = self._head + data[at : at + HEADER_BYTES - len(self._head)]
            at += len(head) - len(self._head)
            if len(head) < HEADER_BYTES:
                self._head = head
                break
            self._head = b""
            self._skip = size = int.from_bytes(head[:3], "big")
            kind, flags = head[3], head[4]
            frames += _REQUEST_FRAMES if kind == HEADERS else 1
            if kind in (HEADERS, CONTINUATION):
                self.header_bytes = size + (self.header_bytes if kind == CONTINUATION else 0)
                self.in_headers = not flags & _END_HEADERS
                cheap += kind == CONTINUATION
            elif kind == RST_STREAM:
                resets += 1
            elif kind != DATA or (size < SMALL_DATA_BYTES and not flags & _END_STREAM):
                cheap += 1
        return Seen(cheap, resets, at)


class Bucket:
    """What a peer may do at once, and how fast it may go on; work done for real gives some back."""

    __slots__ = ("_at_s", "_burst", "_clock", "_left", "_per_s")

    def __init__(self, burst: float, per_s: float, clock: Callable[[], float]) -> None:
        self._burst = self._left = burst
        self._per_s = per_s
        self._clock = clock
        self._at_s = clock()

    def take(self, count: int) -> bool:
        """False where that is more than there is."""
        if not count:
            return True
        now_s = self._clock()
        self.give((now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        self._left -= count
        return self._left >= 0

    def give(self, count: float) -> None:
        self._left = min(self._burst, self._left + count)
