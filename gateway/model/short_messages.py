"""A short message whose receipt is waited for, and where such are kept (C8); nothing here holds a number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec


class OpenPart(msgspec.Struct, array_like=True, frozen=True):
    """One short message of a delivery, as it is kept."""

    destination: bytes  # keyed hash of where it went, 8 bytes
    reference: int  # 16 bits, user_message_reference
    until_ms: int  # its receipt is waited for until then, Unix ms
    seq: int  # of the delivery
    registration: int
    part: int  # from 1
    parts: int
    channel: str  # the pager it was sent for
    by_imsi: bool  # sent to an IMSI
    smsc: str = ""  # who took it, and under which id: empty until it did
    message_id: str = ""


class OpenParts(Protocol):
    """Kept over a restart, durable with the next commit; (destination, low byte of reference) names one."""

    #: key of the hashes of destinations, the same after a restart
    key: bytes

    def put(self, part: OpenPart) -> None: ...

    def remove(self, destination: bytes, reference: int) -> None:
        """Its receipt came, or is waited for no longer."""
        ...

    def all(self) -> Iterator[OpenPart]:
        """What a start finds."""
        ...
