"""Cursors of a feed; must never give one out that a reader may have passed already.

One machine counts. In a fleet cursors are numbered by the clock, so that the feeds of all partitions have one order,
and a reader of several needs a watermark of each: it takes what lies at or below all of them. A watermark that was told
holds, whatever clocks do and whoever owns the partition next; so one is told only up to a mark that is durable, and
numbers go on behind that mark.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.model.cluster import CURSOR_SHIFT
from gateway.store.commit import Committer
from gateway.store.records import PUT, Db, pack_u64

#: how far the mark is ahead of the clock when it is written, and when it is written again. Behind a node that died
#: cursors are so much ahead, and readers of several partitions wait for them that long
AHEAD_MS = 3_000
RENEW_MS = 1_500


class FeedNumbers:
    """Control thread only. `last`: the last cursor given out; `key`: of the mark in META, `mark`: its value."""

    def __init__(
        self, committer: Committer, clock: Callable[[], int], last: int, *, key: bytes = b"", mark: int = 0
    ) -> None:
        self._committer = committer
        self._clock = clock
        self._key = key  # empty: one machine
        self._next = max(last, mark) + 1
        self._mark = mark  # durable: watermarks may be told up to here
        self._asked = mark
        self._stopped = False
        self._open: dict[int, int] = {}  # last cursor of a piece that is not durable → its first; ascending

    def _floor(self) -> int:
        """The first cursor of this millisecond."""
        return self._clock() << CURSOR_SHIFT if self._key else 0

    def restore(self, last: int) -> None:
        self._next = max(self._next, last + 1)

    def take(self, count: int) -> int:
        """The first of so many; `landed` with the last of them."""
        first = max(self._next, self._floor())
        self._next = first + count
        if self._key:
            self._open[self._next - 1] = first
        return first

    def landed(self, last: int) -> None:
        """That piece is in the store, or never will be."""
        self._open.pop(last, None)

    @property
    def last(self) -> int:
        return self._next - 1

    def watermark(self, seen: int = 0) -> int:
        """No row with a cursor at or below it will ever appear any more. `seen`: a cursor that another partition gave
        out. Where its clock was ahead of ours, numbers go on behind that: readers of both wait for the lower one."""
        if not self._key:
            return self.last
        floor = max(self._floor(), seen + 1)
        safe = max(self.last, floor - 1)
        if self._open:
            safe = min(safe, next(iter(self._open.values())) - 1)
        wanted = floor + (AHEAD_MS << CURSOR_SHIFT)
        if self._asked - max(self.last, floor) < RENEW_MS << CURSOR_SHIFT and not self._stopped:
            self._extend(max(wanted, self.last + (AHEAD_MS << CURSOR_SHIFT)))
        safe = min(safe, self._mark)
        self._next = max(self._next, safe + 1)
        return safe

    def _extend(self, mark: int) -> None:
        self._asked = mark

        def landed() -> None:
            if not self._stopped:
                self._mark = max(self._mark, mark)

        self._committer.keep([(PUT, Db.META, self._key, pack_u64(mark))], done=landed)

    def stop(self) -> None:
        """The next start goes on just behind what was given out and told."""
        if self._key:
            self._committer.keep([(PUT, Db.META, self._key, pack_u64(self.last))])
            self._mark = self.last
            self._stopped = True
