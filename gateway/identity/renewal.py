"""Renews ids that app servers are told of before they lapse, so that the feed has the next one unasked (C3, C5); must
never renew many at one instant, nor hold the loop for more than a slice.

An id's end has a random part (allocator), and each is renewed `renew_s` before its own end: no instant is shared. Ids
of a terminal are in no feed and are left alone: it asks when it wants another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.config.sections import Identity as IdentityConfig
from gateway.identity.allocator import Allocator
from gateway.model.errors import GatewayError, TooManyRequests
from gateway.model.subscriber_records import SubscriberRecords

_log = structlog.get_logger(__name__)

#: ends looked at in one turn of the loop
SLICE = 100
TURN_S = 0.05


class Renewal:
    """Control thread only."""

    def __init__(
        self, config: IdentityConfig, records: SubscriberRecords, allocator: Allocator, clock: Callable[[], int]
    ) -> None:
        self._config = config
        self._records = records
        self._allocator = allocator
        self._clock = clock
        #: ends up to this position were looked at; after a start those that are ahead are looked at again
        self._position = b""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._config.renewal_sweep_s and self._config.renewal == "overlap":
            self._task = asyncio.get_running_loop().create_task(self._run(), name="renewal of ids")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._config.renewal_sweep_s)
            try:
                await self.sweep()
            except GatewayError:
                pass  # the store can not be written now: the next pass goes on here
            except Exception:
                _log.exception("renewal_failed")

    async def sweep(self, turn_s: float = TURN_S) -> int:
        """One pass over ends that came into reach since the last. Returns how many ids were drawn."""
        drawn = 0
        while True:
            now_s = self._clock() // 1_000
            # one second less, so that none is looked at a moment before it is due
            ends = self._records.ending(self._position, now_s, now_s + self._config.renew_s - 1, SLICE)
            if not ends:
                return drawn
            for handle in dict.fromkeys(handle for _, handle in ends if handle):
                drawn += await self._renew(handle)
            self._position = ends[-1][0]
            await asyncio.sleep(turn_s)

    async def _renew(self, handle: bytes) -> int:
        try:
            count, written = self._allocator.renew(handle)
        except TooManyRequests:
            return 0  # counted where ids are refused; the next trigger or question draws one
        if written is not None:
            await written
        return count
