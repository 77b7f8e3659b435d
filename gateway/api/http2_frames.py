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
DATA, HEADERS, RST_STREAM, GOAWAY, CONTINUATION = 0x0, 0x1, 0x3, 0x7, 0x9
_END_STREAM, _END_HEADERS = 0x1, 0x4
#: RFC 9113 §6.5.2: what a peer may send while nothing else was agreed; nothing else is
MAX_FRAME_BYTES = 16_384
_GOAWAY_BYTES = 8  # RFC 9113 §6.8, at least


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
    #: what of it is for the codec: a frame's header once it is whole, and no GOAWAY
    data: bytes
    #: it is the peer's GOAWAY
    goaway: bool = False
    #: the frame that begins now is larger than any may be
    oversized: bool = False


class FrameScan:
    """Give it everything that came, in order, the preface included."""

    __slots__ = ("_head", "_is_kept", "_skip", "header_bytes", "in_headers")

    def __init__(self) -> None:
        self._head = b""
        self._skip = len(PREFACE)
        self._is_kept = False  # the frame under way is not for the codec
        #: a header block began and is not complete
        self.in_headers = False
        #: of the block under way, compressed
        self.header_bytes = 0

    def feed(self, data: bytes) -> Seen:
        """The next piece: to the end of the data, or of as many frames as one piece may have. What the codec must not
        see makes a piece of its own."""
        held = len(self._head)
        if held:
            data, self._head = self._head + data, b""
        cheap = resets = frames = 0
        end = len(data)
        at = self._step(0, end)
        if self._is_kept:
            self._is_kept = self._skip > 0
            return Seen(0, 0, at, b"")
        while at < end and frames < PIECE_FRAMES:
            head = data[at : at + HEADER_BYTES]
            if len(head) < HEADER_BYTES:
                self._head = head
                return Seen(cheap, resets, end - held, data[:at])
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            # GOAWAY in the wrong place is the codec's to refuse.
            stream = int.from_bytes(head[5:], "big") & 0x7FFF_FFFF
            goaway = kind == GOAWAY and stream == 0 and size >= _GOAWAY_BYTES and not self.in_headers
            if goaway or size > MAX_FRAME_BYTES:
                if at:
                    break
                self._skip = size
                at = self._step(HEADER_BYTES, end)
                self._is_kept = self._skip > 0
                return Seen(1, 0, at - held, b"", goaway, size > MAX_FRAME_BYTES)
            frames += _REQUEST_FRAMES if kind == HEADERS else 1
            if kind in (HEADERS, CONTINUATION):
                self.header_bytes = size + (self.header_bytes if kind == CONTINUATION else 0)
                self.in_headers = not flags & _END_HEADERS
                cheap += kind == CONTINUATION
            elif kind == RST_STREAM:
                resets += 1
            elif kind != DATA or (size < SMALL_DATA_BYTES and not flags & _END_STREAM):
                cheap += 1
            self._skip = size
            at = self._step(at + HEADER_BYTES, end)
        return Seen(cheap, resets, at - held, data[:at])

    def _step(self, at: int, end: int) -> int:
        """Over the frame under way, as far as it is here."""
        step = min(self._skip, end - at)
        self._skip -= step
        return at + step


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
