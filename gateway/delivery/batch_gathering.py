"""Puts batches together that would wait for the same commit anyway, so that many small ones cost what a large one does;
must never change their order, nor let one wait longer for its commit than it would alone.

While a commit is under way the first few batches are taken in at once, so that where there is little to do a push is
sent before its commit. Those after them wait here for its end, and are taken in together, as part of the next one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import structlog

from gateway.delivery.batch_accept import Result, TakenBatch
from gateway.model.errors import GatewayError
from gateway.model.ports import Journal
from gateway.model.registration import App

#: batches that are taken in at once while a commit is under way
AT_ONCE = 2
#: pushes, and bytes of them, that are taken in as one
MOST_PUSHES = 4_096
MOST_BYTES = 1_048_576
#: and that wait; past either they are taken in before the commit has ended
HELD_PUSHES = 16_384
HELD_BYTES = 16_777_216
#: of a packed array of pushes as a fleet's nodes send it
HEAD_BYTES = 5
_ARRAY = b"\xdd"

_log = structlog.get_logger("gateway.delivery")

#: is told what became of its batch: accepted or refused; or the error for all of it
Hear = Callable[["TakenPart | GatewayError"], None]


def pack_array_head(count: int) -> bytes:
    return _ARRAY + count.to_bytes(4, "big")


def pack_array(parts: Iterable[bytes | memoryview], count: int) -> bytes:
    """A packed array of so many, from what is packed already."""
    return b"".join((pack_array_head(count), *parts))


class Accepts(Protocol):
    """delivery.batch_accept.BatchAcceptor."""

    def accept(self, app: App, arrays: list[bytes | memoryview], most: int, now_ms: int) -> TakenBatch: ...


class TakenPart:
    """As `TakenBatch`, of one batch that was taken in together with others."""

    __slots__ = ("_start", "_taken", "apart", "count", "done", "when_settled")

    def __init__(self, taken: TakenBatch, start: int, count: int) -> None:
        self._taken = taken
        self._start = start
        self.count = count
        self.apart: list[int] = []
        if taken.apart:
            begin, end = (bisect_left(taken.apart, index) for index in (start, start + count))
            self.apart = [index - start for index in taken.apart[begin:end]]
        self.done = taken.done
        self.when_settled = taken.when_settled

    @property
    def first(self) -> int:
        return self._taken.first + self._start if self._taken.first else 0

    @property
    def refusal(self) -> GatewayError | None:
        return self._taken.refusal

    def result(self, index: int) -> Result:
        return self._taken.result(self._start + index)

    def raw(self, index: int) -> bytes:
        return self._taken.raw(self._start + index)


class _Held(NamedTuple):
    app: App
    pushes: bytes | memoryview
    length: int
    is_plain: bool
    hear: Hear


class BatchGathering:
    """Loop thread only. Of one journal."""

    def __init__(self, acceptor: Accepts, journal: Journal, clock: Callable[[], int]) -> None:
        self._acceptor = acceptor
        self._journal = journal
        self._clock = clock
        self._at_once = 0  # taken in since the commit under way began
        self._is_waiting = False  # for its end
        self._held: list[_Held] = []
        self._held_pushes = 0
        self._held_bytes = 0

    def take(self, app: App, pushes: bytes | memoryview, count: int, is_plain: bool, hear: Hear) -> None:
        """`pushes`: packed array of so many (5 bytes of head), each well-formed msgpack. `is_plain`: none of them is to
        be looked at alone; other batches stay alone, for that begins when they are heard of. `hear` is called before
        this returns, or when the commit under way has ended; it does not raise."""
        self._held.append(_Held(app, pushes, count, is_plain, hear))
        self._held_pushes += count
        self._held_bytes += len(pushes)
        if not (self._journal.is_committing and self._journal.writable):
            self._take_in()  # or have it refused, where the commit does not end
            return
        if not self._is_waiting:
            self._is_waiting = True
            self._at_once = 0
            self._journal.at_commit_end(self._on_commit_end)
        if len(self._held) == 1 and self._at_once < AT_ONCE:
            self._at_once += 1
            self._take_in()
        elif self._held_pushes >= HELD_PUSHES or self._held_bytes >= HELD_BYTES:
            self._take_in()

    def _on_commit_end(self) -> None:
        self._is_waiting = False
        self._take_in()

    def _take_in(self) -> None:
        """All that is held, in order."""
        held, self._held, self._held_pushes, self._held_bytes = self._held, [], 0, 0
        if len(held) == 1:
            self._accept(held)
            return
        start = 0
        while start < len(held):
            end, pushes, size = start, 0, 0
            while end < len(held) and held[end].app is held[start].app:
                pushes += held[end].length
                size += len(held[end].pushes)
                is_plain = held[start].is_plain and held[end].is_plain
                if end > start and (not is_plain or pushes > MOST_PUSHES or size > MOST_BYTES):
                    break
                end += 1
            self._accept(held[start:end])
            start = end

    def _accept(self, held: list[_Held]) -> None:
        length = sum(each.length for each in held)
        try:
            taken = self._acceptor.accept(held[0].app, [each.pushes for each in held], length, self._clock())
        except Exception as exc:  # nobody may wait for ever, and the commit that called goes on
            error = exc if isinstance(exc, GatewayError) else GatewayError()
            if error is not exc:
                _log.error("a batch could not be taken in", kind=type(exc).__name__)
            for each in held:
                each.hear(error)
            return
        start = 0
        for each in held:
            each.hear(TakenPart(taken, start, each.length))
            start += each.length
