"""The receiving half of a CAT_TP link: order, gaps, windows, SDUs; must never give an SDU twice, nor out of
order, nor hold more than its window.

Source: ETSI TS 102 127 §4 (RCV_CUR, RCV_WIN, the out-of-sequence list).
"""

from __future__ import annotations

from enum import Enum, auto

from gateway.ota.cattp_pdu import HEAD_BYTES, MOST_EACKS, NUL, SEG, Pdu
from gateway.ota.sequence import distance, following


class Verdict(Enum):
    TAKEN = auto()
    #: it waits for one that is missing
    HELD = auto()
    DUPLICATE = auto()
    OUTSIDE = auto()


class TooLarge(Exception):
    """A PDU or an SDU is larger than the peer was told that it may be."""


class Receiving:
    def __init__(self, current: int, window: int, max_pdu: int, max_sdu: int) -> None:
        #: RCV_CUR: the last number that came in order
        self.current = current
        #: RCV_WIN: how many past it are taken
        self.window = window
        self._max_data = max_pdu - HEAD_BYTES
        self._max_sdu = max_sdu
        self._held: dict[int, Pdu] = {}
        self._partial = bytearray()

    @property
    def gaps(self) -> tuple[int, ...]:
        """The numbers that came out of order, oldest first, as many as a PDU can name."""
        return tuple(sorted(self._held, key=lambda number: distance(self.current, number))[:MOST_EACKS])

    def take(self, pdu: Pdu) -> tuple[Verdict, list[bytes]]:
        """(what becomes of it, the SDUs that it completes). TooLarge."""
        ahead = distance(self.current, pdu.sequence)
        if ahead == 0 or ahead >= 0x8000 or pdu.sequence in self._held:
            return Verdict.DUPLICATE, []
        if ahead > self.window:
            return Verdict.OUTSIDE, []
        if len(pdu.data) > self._max_data:
            raise TooLarge
        if ahead > 1:
            self._held[pdu.sequence] = pdu
            return Verdict.HELD, []
        sdus: list[bytes] = []
        here: Pdu | None = pdu
        while here is not None:
            self._append(here, sdus)
            here = self._held.pop(following(self.current), None)
        return Verdict.TAKEN, sdus

    def _append(self, pdu: Pdu, sdus: list[bytes]) -> None:
        self.current = pdu.sequence
        if pdu.flags & NUL:
            return
        if len(self._partial) + len(pdu.data) > self._max_sdu:
            raise TooLarge
        self._partial += pdu.data
        if not pdu.flags & SEG:
            sdus.append(bytes(self._partial))
            self._partial.clear()
