"""Removes paging-only registrations that no id leads to any more; must never look at more of them in one turn of the
loop than a few milliseconds take.

Nothing depends on it but room: an id is resolved for every push, and again for every page. What is still pending for
such a registration ends with it, and its provider is told that the token is dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import structlog

from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.opaque_tokens import OpaqueIndex
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError
from gateway.model.ports import Directory
from gateway.model.registration import PAGING_ONLY

_log = structlog.get_logger(__name__)

#: of a pass; in one at most a part of the directory, or so many paging-only registrations, is looked at
TURN_S = 0.25
LOOKS = 100


class EndedIds:
    """Loop thread only."""

    def __init__(
        self, index: OpaqueIndex, directory: Directory, dispatcher: Dispatcher, metrics: Metrics, *, every_s: float
    ) -> None:
        self._index = index
        self._directory = directory
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Where there are no pagers there is nothing to look for."""
        if not self._index.has_pagers:
            return
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ended ids")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.sweep()
            except GatewayError:
                pass  # the store can not be written now; the next pass finds them again
            except Exception:
                _log.exception("ended_ids_failed")

    async def sweep(self, turn_s: float = TURN_S) -> int:
        """One pass. Returns how many were removed."""
        removed = 0
        for slice_ in self._slices():
            for number in slice_:
                if await self._end(number):
                    removed += 1
            await asyncio.sleep(min(turn_s, self._every_s))
        return removed

    def _slices(self) -> Iterator[list[int]]:
        """Those that no id leads to, as found in one turn."""
        for part in self._directory.everybody():
            paged = [number for number in part if self._directory.cohort(number).version == PAGING_ONLY]
            for at in range(0, len(paged) or 1, LOOKS):
                yield [number for number in paged[at : at + LOOKS] if self._is_ended(number)]

    def _is_ended(self, number: int) -> bool:
        registration = self._directory.registration(number)
        return registration is not None and self._index.is_ended(registration)

    async def _end(self, number: int) -> bool:
        if not self._is_ended(number):
            return False  # a push came by a newer id
        await self._directory.revoke(number)
        self._dispatcher.revoke(number)
        self._metrics.count(Metric.PAGING_ONLY, label="ended")
        return True
