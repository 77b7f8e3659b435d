"""Counts what each device does in a minute, in fixed memory; must never refuse one that does it rarely.

A count-min sketch of two rows: with two million logins in a minute a cell holds four on average, so the smaller of a
device's two cells reaches a limit of some tens only through the device itself.
"""

from __future__ import annotations

from array import array

CELLS = 1 << 19
WINDOW_MS = 60_000


def _row() -> array[int]:
    return array("H", bytes(2 * CELLS))


class FlappingGuard:
    """Logins of a device, or its changes of registrations; `per_minute` 0 = no limit, at most 65,535."""

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._rows = (_row(), _row()) if per_minute else ()
        self._began_ms = 0

    def is_full(self, device: int, now_ms: int) -> bool:
        """Is the device at its limit? Counts nothing."""
        if not self._rows or not 0 <= now_ms - self._began_ms < WINDOW_MS:
            return False
        first, second = self._rows
        return min(first[device % CELLS], second[(device >> 32) % CELLS]) >= self._limit

    def admit(self, device: int, now_ms: int) -> bool:
        """Count one of the device (64-bit hash); False past the limit."""
        if not self._rows:
            return True
        if not 0 <= now_ms - self._began_ms < WINDOW_MS:  # over, or the clock was set back
            self._rows = (_row(), _row())
            self._began_ms = now_ms
        first, second = self._rows
        a, b = device % CELLS, (device >> 32) % CELLS
        count = min(first[a], second[b])
        if count >= self._limit:
            return False
        first[a] = max(first[a], count + 1)
        second[b] = max(second[b], count + 1)
        return True
