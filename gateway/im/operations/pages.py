"""How much of a list goes into one answer: no more than was asked for, and what a frame to a device has room for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from gateway.model.frames import FRAME_BYTES

Row = TypeVar("Row")

_encode = msgspec.msgpack.Encoder().encode
#: bytes of rows; the rest of the frame is for what stands around them
PAGE_BYTES = FRAME_BYTES - 4_096


def fit(rows: Iterable[Row], limit: int) -> tuple[list[Row], bool]:
    """The first of them, one at least, and whether there are more. Takes no more rows than it looks at."""
    page: list[Row] = []
    left = PAGE_BYTES
    for row in rows:
        left -= len(_encode(row))
        if len(page) == limit or (page and left < 0):
            return page, True
        page.append(row)
    return page, False
