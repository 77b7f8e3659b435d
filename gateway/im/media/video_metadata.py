"""Videos in MP4 and QuickTime without what they tell of their maker: boxes of descriptions (a place, a device, a name)
become empty space where they are, so that nothing else moves.

Must never touch a box that playing needs. A file that is not well-formed is left from there on as it is. Tracks of
timed metadata (what an action camera writes all the time) stay.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

VIDEOS = frozenset({"video/mp4", "video/quicktime"})
#: looked into, and taken away, wherever they stand in those
_LOOKED_INTO = frozenset({b"moov", b"trak"})
_HIDDEN = frozenset({b"udta", b"meta", b"uuid"})
_EMPTY = b"free"
#: of one file
_BOXES = 10_000
_PIECE = 65_536


class Box(NamedTuple):
    """Bytes of the file: where it begins, where its content does, where it ends."""

    start: int
    content: int
    end: int


def find_descriptions(read: Callable[[int, int], bytes], size: int) -> list[Box]:
    """`read(offset, count)` gives bytes of the file, fewer at its end."""
    found: list[Box] = []
    ranges = [(0, size)]
    seen = 0
    while ranges and seen < _BOXES:
        at, end = ranges.pop()
        while at + 8 <= end and seen < _BOXES:
            seen += 1
            head = read(at, 16)
            if len(head) < 8:
                break
            length, kind = struct.unpack_from(">I4s", head)
            content = at + 8
            if length == 1:  # the size is in 64 bits
                if len(head) < 16:
                    break
                (length,) = struct.unpack_from(">Q", head, 8)
                content = at + 16
            elif length == 0:  # to the end
                length = end - at
            if at + length > end or at + length < content:
                break
            if kind in _LOOKED_INTO:
                ranges.append((content, at + length))
            elif kind in _HIDDEN:
                found.append(Box(at, content, at + length))
            at += length
    return found


def hide_descriptions(path: Path) -> int:
    """In place; how many boxes. Runs in a thread. OSError."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)

        def read(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        boxes = find_descriptions(read, size)
        for box in boxes:
            file.seek(box.start + 4)
            file.write(_EMPTY)
            file.seek(box.content)
            left = box.end - box.content
            while left > 0:
                left -= file.write(bytes(min(left, _PIECE)))
    return len(boxes)
