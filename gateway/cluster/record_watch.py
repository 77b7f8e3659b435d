"""The watch over the fleet's records, made anew where it seems dead; must never take one that brings nothing for one
that has nothing to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.cluster.leases import End, Hear, InDoubt, Leases

_log = structlog.get_logger(__name__)

#: it is made anew at least so often
_WATCH_S = 60.0


class RecordWatch:
    """Of one node. `failed` is called where it could not be made anew: `again_soon` when records can be read again."""

    def __init__(
        self, leases: Leases, node: str, beat_s: float, *, failed: Callable[[], None], now: Callable[[], float]
    ) -> None:
        self._leases = leases
        self._node = node
        self._beat_s = beat_s
        self._failed = failed
        self._now = now
        self._end: End | None = None
        self._work: asyncio.Task[None] | None = None
        self._made_at = now()
        self._is_closing = False

    async def start(self, hear: Hear) -> None:
        """InDoubt: call it again."""
        self._end = await self._leases.watch(hear)

    def look_after(self, now: float, *, renewed_at: float, seen_at: float) -> None:
        """Own beats got through, and did not come back: nothing else does either. And now and then in any case."""
        patience_s = max(3 * self._beat_s, 0.5)
        since_s = now - self._made_at
        if renewed_at - seen_at > patience_s and since_s > patience_s + 1.0:
            _log.warning("watch_again", node=self._node)
            self.again_soon()
        elif since_s > _WATCH_S:
            self.again_soon()

    def again_soon(self) -> None:
        if (self._work is None or self._work.done()) and not self._is_closing:
            self._made_at = self._now()
            self._work = asyncio.get_running_loop().create_task(self._again())

    async def _again(self) -> None:
        try:
            await self._leases.watch_again()
        except InDoubt:
            self._failed()

    def stop(self) -> None:
        """It is not made anew any more."""
        self._is_closing = True

    async def close(self) -> None:
        self.stop()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        if self._end is not None:
            await self._end()
