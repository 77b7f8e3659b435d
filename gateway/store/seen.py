"""When each device was connected last, exact to the hour; must never write more than a slice in one tick.

The hour lies beside the registration in the native registry. Pages of 1,024 registrations that changed are written
behind, each once in a round of ten minutes: a killed process forgets no more than that.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway._native.registry import Registry
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import PUT, Db, Row, pack_u32, unpack_u32

#: all pages are looked at once in so many ticks of a second
ROUND_TICKS = 600
HOUR_MS = 3_600_000
#: what `ago_s` says of a device that was never connected
NEVER_S = 1 << 40


class Seen:
    """Control thread only."""

    def __init__(
        self, environment: Environment, committer: Committer, registry: Registry, clock: Callable[[], int]
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._registry = registry
        self._clock = clock
        self._at = 0
        registry.set_hour(clock() // HOUR_MS)

    def load(self) -> None:
        """Recovery, after the registrations."""
        for key, page in self._environment.scan(Db.SEEN):
            self._registry.load_seen(unpack_u32(key), page)

    def ago_s(self, number: int) -> int:
        """Seconds since its device was connected, whole hours, 0 while it is; NEVER_S where it never was."""
        if not self._registry.has(number):
            return NEVER_S
        hour = self._registry.seen_hour(number)
        return max(0, self._clock() // HOUR_MS - hour) * 3_600 if hour else NEVER_S

    def tick(self) -> None:
        """Once a second: the clock moves on, and a slice of the pages is written where it changed."""
        self._registry.set_hour(self._clock() // HOUR_MS)
        pages = self._registry.seen_pages
        self.write(-(-pages // ROUND_TICKS))

    def write(self, count: int) -> None:
        """Look at the next `count` pages."""
        pages = self._registry.seen_pages
        if not pages or not self._committer.writable:
            return
        rows: list[Row] = []
        places: list[int] = []
        for _ in range(min(count, pages)):
            self._at = (self._at + 1) % pages
            page = self._registry.seen_page(self._at)
            if page is not None:
                places.append(self._at)
                rows.append((PUT, Db.SEEN, pack_u32(self._at), page))

        def redo() -> None:
            for place in places:
                self._registry.seen_again(place)

        if rows:
            self._committer.refresh(rows, redo=redo)

    def stop(self) -> None:
        """Everything that changed."""
        self.write(self._registry.seen_pages)
