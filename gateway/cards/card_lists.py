"""A list of cards as it comes, one a line: `card_…`, the same as a JSON string, or as {"card": "card_…"}; sans-IO. Must
never repeat a line in an answer: somebody may have sent what is no card id but a number of a person.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.model.cards import HANDLE_BYTES, parse_card_id

#: a line that is longer is none
MAX_LINE_BYTES = 256
#: lines that are told one by one; more are only counted
MAX_TOLD = 100
#: what can be wrong with a line
BAD, UNKNOWN = "not a card id", "no such card"


class BadLine(NamedTuple):
    line: int
    why: str


class _Named(msgspec.Struct):
    card: str


class HandleSet:
    """Handles, each once, in 32 to 64 bytes: open addressing in one block, for a handle is a hash already."""

    def __init__(self) -> None:
        self._slots = 1 << 10
        self._block = bytearray(self._slots * HANDLE_BYTES)
        self._count = 0
        self._has_zero = False

    def __len__(self) -> int:
        return self._count + self._has_zero

    def add(self, handle: bytes) -> bool:
        """False: it was there."""
        if not any(handle):
            new, self._has_zero = not self._has_zero, True
            return new
        if self._count * 2 >= self._slots:
            self._grow()
        return self._put(handle)

    def _put(self, handle: bytes) -> bool:
        block, mask = self._block, self._slots - 1
        slot = int.from_bytes(handle[-8:], "big") & mask
        while True:
            at = slot * HANDLE_BYTES
            there = block[at : at + HANDLE_BYTES]
            if there == handle:
                return False
            if not any(there):
                block[at : at + HANDLE_BYTES] = handle
                self._count += 1
                return True
            slot = (slot + 1) & mask

    def _grow(self) -> None:
        old = self._block
        self._slots *= 2
        self._block = bytearray(self._slots * HANDLE_BYTES)
        self._count = 0
        for at in range(0, len(old), HANDLE_BYTES):
            handle = bytes(old[at : at + HANDLE_BYTES])
            if any(handle):
                self._put(handle)


class CardList:
    """Fed with bytes, or with lines; `handles` are those that are known, each once, in their order."""

    def __init__(self, is_known: Callable[[bytes], bool], most: int) -> None:
        self._is_known = is_known
        self._most = most
        self._seen = HandleSet()
        self._rest = bytearray()
        self._line = 0
        #: 16 bytes each
        self.handles = bytearray()
        self.duplicates = 0
        self.bad_count = 0
        #: the first of them
        self.bad: list[BadLine] = []

    def __len__(self) -> int:
        return len(self.handles) // HANDLE_BYTES

    @property
    def is_too_long(self) -> bool:
        return len(self) > self._most

    def feed(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._rest += line[: MAX_LINE_BYTES + 1]
            self._end_line()
        self._rest += rest[: MAX_LINE_BYTES + 1 - min(len(self._rest), MAX_LINE_BYTES + 1)]

    def end(self) -> None:
        if self._rest:
            self._end_line()

    def _end_line(self) -> None:
        self._line += 1
        line = bytes(self._rest)
        self._rest.clear()
        text = line.strip()
        if text and not text.startswith(b"#"):
            self._take(_read_line(text) if len(line) <= MAX_LINE_BYTES else None)

    def add(self, text: str) -> None:
        """The next one of a list that was cut already."""
        self._line += 1
        self._take(parse_card_id(text))

    def _take(self, handle: bytes | None) -> None:
        if handle is None:
            self._refuse(BAD)
        elif not self._is_known(handle):  # first: only real handles are hashes, and spread in the set
            self._refuse(UNKNOWN)
        elif not self._seen.add(handle):
            self.duplicates += 1
        else:
            self.handles += handle

    def _refuse(self, why: str) -> None:
        self.bad_count += 1
        if len(self.bad) < MAX_TOLD:
            self.bad.append(BadLine(self._line, why))


def _read_line(text: bytes) -> bytes | None:
    try:
        if text.startswith(b'"'):
            return parse_card_id(msgspec.json.decode(text, type=str))
        if text.startswith(b"{"):
            return parse_card_id(msgspec.json.decode(text, type=_Named).card)
        return parse_card_id(text.decode("ascii"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
