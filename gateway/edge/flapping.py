"""Counts logins of each device in a minute, in fixed memory; must never refuse one that logs in rarely.

A count-min sketch of two rows: with two million logins in a minute a cell holds two on average, so the smaller of a
device's two cells reaches a limit of some tens only through the device itself.
"""

from __future__ import annotations

CELLS = 1 << 20
WINDOW_MS = 60_000


class FlappingGuard:
    def __init__(self, logins_per_minute: int) -> None:
        self._limit = logins_per_minute  # at most 255, what a cell holds
        self._rows = (bytearray(CELLS), bytearray(CELLS)) if logins_per_minute else ()
        self._began_ms = 0

    def admit(self, device: int, now_ms: int) -> bool:
        """Count a login of the device (64-bit hash); False past the limit."""
        if not self._rows:
            return True
        if not 0 <= now_ms - self._began_ms < WINDOW_MS:  # over, or the clock was set back
            self._rows = (bytearray(CELLS), bytearray(CELLS))
            self._began_ms = now_ms
        first, second = self._rows
        a, b = device % CELLS, (device >> 32) % CELLS
        count = min(first[a], second[b])
        if count >= self._limit:
            return False
        first[a] = max(first[a], count + 1)
        second[b] = max(second[b], count + 1)
        return True
