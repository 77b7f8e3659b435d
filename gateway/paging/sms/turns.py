"""Turns at a rate, in the order in which they were asked for: what one kind of traffic may take of an SMSC; must never
make anybody wait longer than it was told.

A bucket without a reserve: SMSCs throttle who sends in bursts. Who would wait too long gets no turn and a time to come
back, each a different one, so that they do not all come back at once.
"""

from __future__ import annotations

from collections.abc import Callable

#: nobody is sent away for longer
LONGEST_AWAY_S = 3_600.0


class TooLong(Exception):
    """No turn in time; `for_s`: until there may be one."""

    def __init__(self, for_s: float) -> None:
        super().__init__(round(for_s, 3))
        self.for_s = for_s


class Turns:
    """`rate` a second, 0: as many as are asked for. `now_s`: a clock that never goes back."""

    def __init__(self, rate: float, longest_s: float, now_s: Callable[[], float]) -> None:
        self._each_s = 1 / rate if rate else 0.0
        self._longest_s = longest_s
        self._now_s = now_s
        self._next_s = 0.0  # when the next turn is
        self._away_s = 0.0  # when the last of those that were sent away comes back

    def take(self, count: int) -> list[float]:
        """When so many turns in a row are, by the clock. TooLong where the first of them is too far away. A turn that
        is not used is lost: that costs others as much as if it had been."""
        now_s = self._now_s()
        if not self._each_s:
            return [now_s] * count
        first_s = max(self._next_s, now_s)
        if first_s - now_s > self._longest_s:
            self._away_s = max(self._away_s, first_s) + self._each_s * count
            raise TooLong(min(self._away_s - now_s, LONGEST_AWAY_S))
        self._next_s = first_s + self._each_s * count
        return [first_s + self._each_s * turn for turn in range(count)]
