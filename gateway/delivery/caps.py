"""How many pushes one registration gets in an hour and in a day, where its app limits them; urgent ones do not count.

Each limit is a rate with a burst of its whole size (GCRA): eight bytes a registration, none where no app has such a
limit. In RAM only: a restart begins anew.
"""

from __future__ import annotations

from array import array

from gateway.model.registration import App

HOUR_S = 3_600
DAY_S = 86_400
_GROW = 65_536


class _Rate:
    """Virtual time of each registration, Unix seconds: it moves on by period / limit with every push."""

    __slots__ = ("_period_s", "_until")

    def __init__(self, period_s: int) -> None:
        self._period_s = period_s
        self._until = array("d")

    def has_room(self, number: int, limit: int, now_s: float) -> bool:
        if not limit or number >= len(self._until):
            return True
        if self._until[number] > now_s + 2 * self._period_s:  # the clock was ahead, and is back
            self._until[number] = now_s
        return self._until[number] <= now_s + self._period_s - self._period_s / limit

    def take(self, number: int, limit: int, now_s: float) -> None:
        if not limit:
            return
        if number >= len(self._until):
            self._until.frombytes(bytes(8 * (number + _GROW - len(self._until))))
        self._until[number] = max(self._until[number], now_s) + self._period_s / limit


class DeviceCaps:
    """Loop thread only."""

    def __init__(self) -> None:
        self._hour = _Rate(HOUR_S)
        self._day = _Rate(DAY_S)

    def admit(self, app: App, number: int, now_ms: int) -> bool:
        """Count one push; False where it is one too many."""
        now_s = now_ms / 1000
        if not (
            self._hour.has_room(number, app.device_per_hour, now_s)
            and self._day.has_room(number, app.device_per_day, now_s)
        ):
            return False
        self._hour.take(number, app.device_per_hour, now_s)
        self._day.take(number, app.device_per_day, now_s)
        return True
