"""Triggers whose report has not come, by their reference; must never grow past its bound, nor hold a network id.

Kept in RAM: a restart forgets which report belongs to which push, so those pushes have no line about it in their
history; nothing else depends on it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from gateway.metrics import Metric, Metrics

MOST_REFERENCE = 0xFFFF_FFFF
#: triggers given up in one go
SLICE = 100


class Entry:
    """One trigger under way."""

    __slots__ = ("app", "external_id", "is_taken", "reference", "registration", "seq", "until_ms")

    def __init__(self, reference: int, seq: int, registration: int, app: str, external_id: str, until_ms: int) -> None:
        self.reference = reference
        self.seq = seq  # of its delivery; -1: none
        self.registration = registration
        self.app = app
        self.external_id = external_id  # the opaque id
        self.until_ms = until_ms
        self.is_taken = False

    def __repr__(self) -> str:
        return f"Entry({self.reference})"


class Tracking:
    """Oldest first. `clock`: Unix ms. `on_silent`: the network took it, and no report came in time."""

    def __init__(
        self, most: int, metrics: Metrics, clock: Callable[[], int], on_silent: Callable[[Entry], None]
    ) -> None:
        self._most = most
        self._metrics = metrics
        self._clock = clock
        self._on_silent = on_silent
        self._entries: dict[int, Entry] = {}
        #: the newest trigger of each registration
        self._newest: dict[int, Entry] = {}
        self._next = secrets.randbelow(MOST_REFERENCE) + 1
        #: (until, number, entry), the next to end first; those that are over stay until there are as many as others
        self._ends: list[tuple[int, int, Entry]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    def open(self, seq: int, registration: int, app: str, external_id: str, until_ms: int) -> Entry:
        """Before it is sent, so that not even the fastest report is missed. References are not repeated while one is
        under way."""
        self.sweep()
        while self._next in self._entries:
            self._next = self._next % MOST_REFERENCE + 1
        entry = Entry(self._next, seq, registration, app, external_id, until_ms)
        self._next = self._next % MOST_REFERENCE + 1
        if len(self._entries) >= self._most:
            self.drop(next(iter(self._entries.values())))
            self._metrics.count(Metric.DELIVERY_MEMORY_EVICTED, label="trigger")
        self._entries[entry.reference] = entry
        heappush(self._ends, (until_ms, next(self._numbers), entry))
        if len(self._ends) > 2 * len(self._entries) + SLICE:
            self._ends = [end for end in self._ends if self._entries.get(end[2].reference) is end[2]]
            heapify(self._ends)
        self._show()
        return entry

    def taken(self, entry: Entry) -> None:
        """The network took it. Its report may have come before."""
        entry.is_taken = True
        if self._entries.get(entry.reference) is entry:
            self._newest[entry.registration] = entry

    def newest(self, registration: int) -> Entry | None:
        """The last trigger to it that was taken and of which nothing is known yet."""
        return self._newest.get(registration)

    def take(self, reference: int) -> Entry | None:
        """Whose report it is; it is over then. None: of none that is known (any more)."""
        entry = self._entries.get(reference)
        if entry is not None:
            self.drop(entry)
        return entry

    def drop(self, entry: Entry) -> None:
        if self._entries.get(entry.reference) is entry:
            del self._entries[entry.reference]
        if self._newest.get(entry.registration) is entry:
            del self._newest[entry.registration]
        self._show()

    def sweep(self) -> None:
        """Give up those whose report is overdue, at most a slice of them."""
        now_ms = self._clock()
        for _ in range(SLICE):
            if not self._ends or self._ends[0][0] > now_ms:
                return
            _, _, entry = heappop(self._ends)
            if self._entries.get(entry.reference) is entry:
                self.drop(entry)
                if entry.is_taken:
                    self._on_silent(entry)

    def _show(self) -> None:
        self._metrics.set(Metric.TRIGGERS_PENDING, len(self._entries))
