"""Registrations that wait for their portion of a spread broadcast; must never hand one out before its moment.

Four bytes a registration, given back portion by portion. Who is not in here (away, or the gateway was restarted) is
found again by its cursor when it comes, and waits for its portion then.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from gateway.delivery.holds import portion_at_ms, portion_of, portions
from gateway.model.notification import Notification

_TIDY_FROM = 64


class Spread:
    """One broadcast."""

    def __init__(self, notification: Notification) -> None:
        self.notification = notification
        self._waiting: list[array[int] | None] = [None] * portions(notification.over_s)
        self._tidy_at: dict[int, int] = {}  # portion → length at which it is looked through for doubles
        self._next = 0

    def at_ms(self, registration: int) -> int:
        """When this registration gets it."""
        n = self.notification
        return portion_at_ms(n, portion_of(registration, n.seq, n.over_s))

    def add(self, registration: int) -> bool:
        """Remember it for its portion; False where that was handed out already."""
        portion = portion_of(registration, self.notification.seq, self.notification.over_s)
        if portion < self._next:
            return False
        waiting = self._waiting[portion]
        if waiting is None:
            waiting = self._waiting[portion] = array("I")
        waiting.append(registration)
        # A device that asks again and again is added each time.
        if len(waiting) >= self._tidy_at.get(portion, _TIDY_FROM):
            waiting = self._waiting[portion] = array("I", sorted(set(waiting)))
            self._tidy_at[portion] = max(_TIDY_FROM, 2 * len(waiting))
        return True

    def due(self, now_ms: int) -> Iterator[Sequence[int]]:
        """The portions whose moment has come, those where somebody waits."""
        while not self.is_over and portion_at_ms(self.notification, self._next) <= now_ms:
            waiting = self._waiting[self._next]
            self._waiting[self._next] = None
            self._tidy_at.pop(self._next, None)
            self._next += 1
            if waiting is not None:
                yield array("I", sorted(set(waiting)))

    @property
    def waiting(self) -> int:
        """Numbers held; some of them twice."""
        return sum(len(waiting) for waiting in self._waiting if waiting is not None)

    @property
    def is_over(self) -> bool:
        return self._next == len(self._waiting)
