"""Removes records of the fleet that nobody needs any more, one at a time; must never wait for it, nor try again by
itself."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gateway.cluster.leases import Changed, InDoubt, Leases


class RecordsCleaner:
    """All nodes do it, and it does not matter whose try gets through."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def remove(self, key: str, revision: int) -> None:
        self._task = asyncio.get_running_loop().create_task(self._remove(key, revision))

    async def _remove(self, key: str, revision: int) -> None:
        with suppress(Changed, InDoubt):
            await self._leases.delete(key, revision)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
