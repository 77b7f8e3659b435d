"""One node's watch over the fleet's records, kept alive; must never take silence of the servers for news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.cluster.leases import End, Hear, InDoubt, Leases

_log = structlog.get_logger(__name__)

#: it is made anew at least so often
_WATCH_S = 60.0
#: own beats that got through and did not come back: nothing else does either. After so many beats, this at least
_PATIENCE_BEATS, _PATIENCE_MIN_S = 3, 0.5
_BETWEEN_S = 1.0


class RecordsWatch:
    """`bucket`: when the one was made whose records these are; empty: not known."""

    def __init__(self, leases: Leases, name: str, beat_s: float, now: Callable[[], float], *, bucket: str = "") -> None:
        self._leases = leases
        self._name = name
        self._bucket = bucket
        self._patience_s = max(_PATIENCE_BEATS * beat_s, _PATIENCE_MIN_S)
        self._now = now
        self._end: End | None = None
        self._task: asyncio.Task[None] | None = None
        self._made_at = now()
        self._has_missed = False

    async def start(self, hear: Hear) -> None:
        """InDoubt: not now."""
        self._end = await self._leases.watch(hear)

    def missed(self) -> None:
        """A beat did not get through: so may something that was told."""
        self._has_missed = True

    def renewed(self) -> None:
        if self._has_missed:
            self._has_missed = False
            self._soon()

    def look(self, renewed_at: float, seen_at: float) -> None:
        """`renewed_at`: when an own beat got through; `seen_at`: when the last one that came back was sent."""
        since_s = self._now() - self._made_at
        if renewed_at - seen_at > self._patience_s and since_s > self._patience_s + _BETWEEN_S:
            _log.warning("watch_again", node=self._name)
            self._soon()
        elif since_s > _WATCH_S:
            self._soon()

    def _soon(self) -> None:
        if self._task is None or self._task.done():
            self._made_at = self._now()
            self._task = asyncio.get_running_loop().create_task(self._again())

    async def _again(self) -> None:
        try:
            if self._bucket and await self._leases.made() != self._bucket:
                return  # nothing of another one is news; the beats say that it is one
            await self._leases.watch_again()
        except InDoubt:
            self._has_missed = True  # with the next beat that gets through

    async def stop(self) -> None:
        """Nothing is made anew any more; what comes is still heard."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def end(self) -> None:
        if self._end is not None:
            await self._end()
