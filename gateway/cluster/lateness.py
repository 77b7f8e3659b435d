"""Which questions of other nodes are older than who asked would wait; must never take one for old that is not, by
whatever the clocks of two machines say.

A question says when it was asked, by its node's own monotonic clock. What that is behind ours is the difference of the
clocks and the time on the way; the least of it that was seen lately is the way when nothing holds it up, and what is
above that is waiting: in the asking node's outbox, at NATS, or here. What is not known counts as none.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: the least of so long, and of as long before it: clocks drift apart by some tens of milliseconds in that
WINDOW_S = 600.0


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class _Way:
    """From one node: the least that a question was behind, in this window and the one before."""

    __slots__ = ("before", "least", "since_ms")

    def __init__(self, behind_ms: int, now_ms: int) -> None:
        self.least = self.before = behind_ms
        self.since_ms = now_ms


class Lateness:
    """One number for each node that was heard; `forget` those that are gone, for their clocks may have stood."""

    def __init__(self, now_ms: Callable[[], int] = monotonic_ms) -> None:
        self._now_ms = now_ms
        self._ways: dict[int, _Way] = {}

    def waited_ms(self, node: int, asked_ms: int) -> int:
        """How long a question waited on its way; 0 where that is not known (asked_ms 0, or nothing to compare with)."""
        if not asked_ms:
            return 0
        now_ms = self._now_ms()
        behind_ms = now_ms - asked_ms
        way = self._ways.get(node)
        if way is None:
            self._ways[node] = _Way(behind_ms, now_ms)
            return 0
        if now_ms - way.since_ms > WINDOW_S * 1000:
            way.before, way.least, way.since_ms = way.least, behind_ms, now_ms
        way.least = min(way.least, behind_ms)
        return behind_ms - min(way.least, way.before)

    def forget(self, node: int) -> None:
        self._ways.pop(node, None)
