"""How fast we may write to an IRC server (RFC 1459 §8.10): a token bucket, so that no server ends us for a flood."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pace:
    """`burst` lines at once, then one each `line_s`. `clock`: seconds."""

    def __init__(self, burst: int, line_s: float, clock: Callable[[], float]) -> None:
        self._burst, self._line_s, self._clock = burst, line_s, clock
        self._tokens, self._at = float(burst), clock()

    def _fill(self) -> None:
        now = self._clock()
        if self._line_s > 0:
            self._tokens = min(self._tokens + (now - self._at) / self._line_s, float(self._burst))
        else:
            self._tokens = float(self._burst)
        self._at = now

    def try_take(self, reserve: int = 0) -> bool:
        """Now or not; `reserve` lines are left for others."""
        self._fill()
        if self._tokens < 1 + reserve:
            return False
        self._tokens -= 1
        return True

    async def take(self) -> None:
        """Wait for one."""
        self._fill()
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens * self._line_s)
