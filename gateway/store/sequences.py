"""Journal sequence numbers; one must never be given out twice, not even after a crash before anything was committed.

A mark in the store runs ahead of what is given out. After a crash numbering goes on at the mark, so numbers that only
devices have seen are left out; a clean stop moves the mark back to the next number.
"""

from __future__ import annotations

from gateway.model.errors import StoreUnavailable
from gateway.store.commit import Committer
from gateway.store.records import PUT, Db, pack_u64

MARK_KEY = b"sequence"
#: numbers reserved at once; so many can be given out while no commit succeeds
BLOCK = 1 << 24
FIRST = 1
END = 1 << 62


class Sequences:
    """Control thread only."""

    def __init__(self, committer: Committer, mark: int, *, first: int = FIRST, end: int = END) -> None:
        self._committer = committer
        self._end = end  # numbers from here on are another partition's
        self._next = max(mark, first)
        self._durable = self._next  # numbers below it may be given out
        self._asked = self._next
        self._stopped = False
        self._extend()

    @property
    def next(self) -> int:
        return self._next

    def reserve(self, count: int) -> int:
        """The first of `count` consecutive numbers; StoreUnavailable where the mark could not be moved in time."""
        if self._stopped or self._next + count > self._durable:
            if not self._stopped:
                self._extend(count)
            raise StoreUnavailable("no sequence numbers are reserved yet; nothing was accepted")
        if self._next + count > self._end:
            raise StoreUnavailable("all sequence numbers are used up; nothing was accepted")
        first = self._next
        self._next += count
        if self._durable - self._next < BLOCK // 2:
            self._extend()
        return first

    def _extend(self, count: int = 0) -> None:
        mark = self._next + count + BLOCK
        if self._asked - self._next >= BLOCK // 2 + count:
            return  # on its way
        self._asked = mark

        def landed() -> None:
            self._durable = max(self._durable, mark)

        self._committer.keep([(PUT, Db.META, MARK_KEY, pack_u64(mark))], done=landed)

    def stop(self) -> None:
        """No number is given out after this: the next start goes on without a gap."""
        self._stopped = True
        self._committer.keep([(PUT, Db.META, MARK_KEY, pack_u64(self._next))])
