"""Cuts a streamed batch into its items without parsing them: JSON array, NDJSON lines, msgpack array or sequence.

Sans-IO: bytes go in as they come, whole items come out. Must never hold more than one unfinished item of bounded size,
and must look at each byte a bounded number of times, however small the pieces are in which it comes.
"""

from __future__ import annotations

import re
from typing import Protocol

from gateway.api.media import JSON, MSGPACK, NDJSON
from gateway.model.errors import BadRequest, GatewayError, PayloadTooLarge

#: an item cut out, or the reason why this one can not be taken while the rest still can
Piece = bytes | GatewayError


class Cutter(Protocol):
    def feed(self, data: bytes) -> list[Piece]:
        """Items complete by now. Raises GatewayError where the rest of the stream makes no sense any more."""
        ...

    def end(self) -> list[Piece]:
        """The stream is over: what is left. Raises GatewayError where it broke off in the middle."""
        ...


def build_cutter(kind: str, limit: int) -> Cutter:
    """For a content kind of `media`; `limit` is the largest item in bytes."""
    cutters: dict[str, type[JsonArray | Lines | MsgpackItems]] = {JSON: JsonArray, NDJSON: Lines, MSGPACK: MsgpackItems}
    return cutters[kind](limit)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"One item of the batch is larger than {limit} bytes.")


class Lines:
    """One JSON value a line; blank lines are skipped. A line over the limit is refused alone, its rest is dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buf = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[Piece]:
        out: list[Piece] = []
        *whole, rest = data.split(b"\n")
        for line in whole:
            if not self._skipping:
                self._add(line, out)
                if not self._skipping:
                    self._take(out)
            self._skipping = False
        if not self._skipping:
            self._add(rest, out)
        return out

    def end(self) -> list[Piece]:
        out: list[Piece] = []
        self._take(out)
        return out

    def _add(self, part: bytes, out: list[Piece]) -> None:
        if len(self._buf) + len(part) > self._limit:
            self._buf.clear()
            self._skipping = True
            out.append(_too_large(self._limit))
        else:
            self._buf += part

    def _take(self, out: list[Piece]) -> None:
        line = bytes(self._buf)
        self._buf.clear()
        if line.strip():
            out.append(line)


class JsonArray:
    """Items of one top-level JSON array, cut at its commas; what an item holds is checked by its decoder."""

    #: a whole string, a structural byte, or the quote that opens a string that is not all here yet
    _TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],"]', re.DOTALL)
    _IN_STRING = re.compile(rb'["\\]')

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buf = bytearray()
        self._at = 0  # scanned up to here
        self._depth = 0  # 1 = between the items
        self._in_string = False
        self._seen = 0
        self._over = False

    def feed(self, data: bytes) -> list[Piece]:
        self._buf += data
        out: list[Piece] = []
        start = 0  # of the item being scanned
        if self._depth == 0 and not self._over:
            start = self._open()
            if start < 0:
                return out
        while not self._over:
            if self._in_string and not self._skip_string():
                break
            token = self._TOKEN.search(self._buf, self._at)
            if token is None:
                self._at = len(self._buf)
                break
            self._at = token.end()
            mark = self._buf[token.start()]
            if mark == 0x22:  # "
                self._in_string = token.end() - token.start() == 1
            elif mark == 0x2C:  # ,
                if self._depth == 1:
                    out.append(self._item(start, token.start()))
                    start = self._at
            elif mark in b"[{":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    if mark != 0x5D:
                        raise BadRequest("The batch is not a JSON array: brackets do not match.")
                    if self._seen or self._buf[start : token.start()].strip():
                        out.append(self._item(start, token.start()))
                    start, self._over = self._at, True
        if self._over:
            if self._buf[start:].strip():
                raise BadRequest("Something follows the array of the batch.")
            self._buf.clear()
            self._at = 0
            return out
        del self._buf[:start]
        self._at -= start
        if len(self._buf) > self._limit:
            raise _too_large(self._limit)
        return out

    def end(self) -> list[Piece]:
        if not self._over:
            raise BadRequest("The batch breaks off before its array ends.")
        return []

    def _open(self) -> int:
        head = self._buf.lstrip()
        if not head:
            self._buf.clear()
            return -1
        if head[0] != 0x5B:
            raise BadRequest("A batch in JSON is an array; or send NDJSON or msgpack.")
        self._at = len(self._buf) - len(head) + 1
        self._depth = 1
        return self._at

    def _skip_string(self) -> bool:
        """Move behind the end of the open string; False where that is still to come."""
        while mark := self._IN_STRING.search(self._buf, self._at):
            if self._buf[mark.start()] == 0x22:
                self._at = mark.end()
                self._in_string = False
                return True
            if mark.end() == len(self._buf):  # the escaped character is still to come
                self._at = mark.start()
                return False
            self._at = mark.end() + 1
        self._at = len(self._buf)
        return False

    def _item(self, start: int, end: int) -> Piece:
        item = bytes(self._buf[start:end])
        if not item.strip():
            raise BadRequest("The batch is not valid JSON: an item is missing beside a comma.")
        self._seen += 1
        return item if len(item) <= self._limit else _too_large(self._limit)


#: first byte → (bytes of the header, bytes of the length field, fixed payload, objects held per unit of length)
_FIXED: dict[int, int] = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
_FIXED |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
_FIXED |= dict.fromkeys(range(0x80), 1) | dict.fromkeys(range(0xE0, 0x100), 1)
_FIXED |= {0xA0 + n: 1 + n for n in range(32)}  # fixstr
_SIZED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_SIZED |= {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_HELD = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


class MsgpackItems:
    """Items of one msgpack array, or maps one after the other."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buf = bytearray()
        self._at = 0
        self._open = 1  # objects of the current item still to be skipped
        self._left: int | None = None  # items the array still has; -1 = a sequence without a count

    def feed(self, data: bytes) -> list[Piece]:
        self._buf += data
        out: list[Piece] = []
        start = 0
        if self._left is None:
            start = self._begin()
            if start < 0:
                return out
        while self._left and self._skip():
            out.append(bytes(self._buf[start : self._at]))
            if len(self._buf[start : self._at]) > self._limit:
                out[-1] = _too_large(self._limit)
            start, self._open = self._at, 1
            assert self._left is not None
            self._left -= self._left > 0
        if self._left == 0 and len(self._buf) > self._at:
            raise BadRequest("Something follows the array of the batch.")
        del self._buf[:start]
        self._at -= start
        if max(len(self._buf), self._at) > self._limit:
            raise _too_large(self._limit)
        return out

    def end(self) -> list[Piece]:
        if self._left is None or self._left > 0 or self._buf:
            raise BadRequest("The batch breaks off in the middle of an item, or is empty.")
        return []

    def _begin(self) -> int:
        """Past the array header; -1 where more bytes are needed."""
        if not self._buf:
            return -1
        head = self._buf[0]
        if 0x80 <= head <= 0x8F or head in (0xDE, 0xDF):
            self._left = -1
        elif 0x90 <= head <= 0x9F:
            self._left, self._at = head & 0x0F, 1
        elif head in (0xDC, 0xDD):
            size = _HELD[head][0]
            if len(self._buf) < 1 + size:
                return -1
            self._left, self._at = int.from_bytes(self._buf[1 : 1 + size], "big"), 1 + size
        else:
            raise BadRequest("A batch in msgpack is an array of maps, or maps one after the other.")
        return self._at

    def _skip(self) -> bool:
        """Move behind the current item; False where more bytes are needed (the scan goes on where it stopped)."""
        buf, at, end, left = self._buf, self._at, len(self._buf), self._open
        while left and at < end:
            head = buf[at]
            size = _FIXED.get(head)
            if size is None:
                if 0x80 <= head <= 0x9F:
                    size, left = 1, left + (head & 0x0F) * (1 if head >= 0x90 else 2)
                elif head in _SIZED:
                    width, extra = _SIZED[head]
                    if at + 1 + width > end:
                        break
                    size = 1 + width + extra + int.from_bytes(buf[at + 1 : at + 1 + width], "big")
                elif head in _HELD:
                    width, times = _HELD[head]
                    if at + 1 + width > end:
                        break
                    size, left = 1 + width, left + times * int.from_bytes(buf[at + 1 : at + 1 + width], "big")
                else:
                    raise BadRequest("The batch is not valid msgpack.")
            at, left = at + size, left - 1
            if at - end > self._limit:  # a length that can not come true
                raise _too_large(self._limit)
        self._at, self._open = at, left
        return not left and at <= end
