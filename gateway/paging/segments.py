"""A message as the short messages that carry it: sizes, coding, concatenation; must never send what a phone could not
put together again.

A short message holds 140 bytes (3GPP TS 23.040 §9.2.3.24), the user data header among them:

| what | alone | in parts |
|---|---|---|
| binary to a port | 133 bytes | 128 |
| text, GSM 7-bit | 160 characters | 153 |
| text, UCS-2 | 70 units | 67 |

With a 16-bit reference a part holds one byte (a septet, a unit) less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gateway.paging.gsm7 import build_septets, split_septets
from gateway.paging.ucs2 import build_units, split_units
from gateway.paging.udh import Concat, Header, Ports, build_header

USER_DATA_BYTES = 140
#: a part's number is one byte
MOST_PARTS = 255

# data_coding (SMPP 3.4 §5.2.19, TS 23.038 §4)
GSM7, BINARY, UCS2 = 0x00, 0x04, 0x08


class Segment(NamedTuple):
    """One short message's user data."""

    header: bytes
    #: GSM 7-bit: a byte for each septet
    body: bytes
    coding: int

    @property
    def user_data(self) -> bytes:
        return self.header + self.body

    def __repr__(self) -> str:
        return f"Segment({len(self.header)}+{len(self.body)} bytes, coding {self.coding})"


class TooManyParts(ValueError):
    """It takes more than so many short messages."""


def _room_bytes(header: Header) -> int:
    return USER_DATA_BYTES - len(build_header(header))


def _room_septets(header: Header) -> int:
    return _room_bytes(header) * 8 // 7


def _segment(
    data: bytes,
    coding: int,
    *,
    ports: Ports | None,
    reference: int,
    wide: bool,
    most: int,
    room: Callable[[Header], int],
    split: Callable[[bytes, int], list[bytes]],
) -> list[Segment]:
    alone = Header(ports)
    if len(data) <= room(alone):
        return [Segment(build_header(alone), data, coding)]
    reference &= 0xFFFF if wide else 0xFF
    pieces = split(data, room(Header(ports, Concat(reference, 1, 1, wide))))
    if len(pieces) > min(most, MOST_PARTS):
        raise TooManyParts(f"takes {len(pieces)} short messages, at most {min(most, MOST_PARTS)} are allowed")
    return [
        Segment(build_header(Header(ports, Concat(reference, len(pieces), part, wide))), piece, coding)
        for part, piece in enumerate(pieces, 1)
    ]


def split_bytes(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def segment_binary(
    data: bytes, ports: Ports, *, reference: int = 0, wide: bool = False, most: int = MOST_PARTS
) -> list[Segment]:
    """Bytes for an application's port. TooManyParts."""
    return _segment(
        data, BINARY, ports=ports, reference=reference, wide=wide, most=most, room=_room_bytes, split=split_bytes
    )


def segment_text(text: str, *, reference: int = 0, wide: bool = False, most: int = MOST_PARTS) -> list[Segment]:
    """Text for the user to read: GSM 7-bit where it can be said in it, else UCS-2. TooManyParts."""
    septets = build_septets(text)
    if septets is not None:
        return _segment(
            septets,
            GSM7,
            ports=None,
            reference=reference,
            wide=wide,
            most=most,
            room=_room_septets,
            split=split_septets,
        )
    return _segment(
        build_units(text),
        UCS2,
        ports=None,
        reference=reference,
        wide=wide,
        most=most,
        room=_room_bytes,
        split=split_units,
    )
