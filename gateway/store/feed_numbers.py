"""Cursors of a feed; must never give one out that a reader may have passed already, nor tell an app by one how much
others have.

Cursors are numbered by the clock. One machine numbers each app for itself: what an app sees of its cursors is when they
were given out, and how many of its own there were in that millisecond. After a start numbers go on behind the highest
of all apps, wherever the clock stands; so they do where older versions counted all apps in one row.

In a fleet the feeds of all partitions have one order, and a reader of several needs a watermark of each: it takes what
lies at or below all of them. A watermark that was told holds, whatever clocks do and whoever owns the partition next;
so one is told only up to a mark that is durable, and numbers go on behind that mark. It holds for all apps, so there
the apps of a partition share one row of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.model.cluster import CURSOR_SHIFT
from gateway.store.commit import Committer
from gateway.store.records import PUT, Db, pack_u64

#: how far the mark is ahead of the clock when it is written, and when it is written again. Behind a node that died
#: cursors are so much ahead, and readers of several partitions wait for them that long
AHEAD_MS = 3_000
RENEW_MS = 1_500


class FeedNumbers:
    """Control thread only. `last`: the highest cursor given out; `key`: of the mark in META, `mark`: its value."""

    def __init__(
        self, committer: Committer, clock: Callable[[], int], last: int, *, key: bytes = b"", mark: int = 0
    ) -> None:
        self._committer = committer
        self._clock = clock
        self._key = key  # empty: one machine
        self._next = max(last, mark) + 1
        self._next_of: dict[int, int] = {}  # of one machine: app number → what it is given next at least
        self._start = self._next  # the same for those that were given none since the start
        self._mark = mark  # durable: watermarks may be told up to here
        self._asked = mark
        self._stopped = False
        self._open: dict[int, int] = {}  # last cursor of a piece that is not durable → its first; ascending

    def _floor(self) -> int:
        """The first cursor of this millisecond."""
        return self._clock() << CURSOR_SHIFT

    def restore(self, last: int) -> None:
        self._next = self._start = max(self._next, last + 1)

    def take(self, counts: Mapping[int, int]) -> dict[int, int]:
        """App number → the first of so many for it; `landed` with the last of all."""
        floor = self._floor()
        if self._key:
            first = max(self._next, floor)
            self._next = first + max(counts.values())
            self._open[self._next - 1] = first
            return dict.fromkeys(counts, first)
        firsts = {app: max(self._next_of.get(app, self._start), floor) for app in counts}
        for app, count in counts.items():
            self._next_of[app] = firsts[app] + count
            self._next = max(self._next, self._next_of[app])
        return firsts

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
