"""What waits for accounts that nobody connects fails when its time is over; holds an account and a time, and nothing
of a message."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from gateway.im.messaging.sending import Sending
from gateway.model.im_ports import LogRecords

#: accounts looked at in one turn of the loop
SLICE = 50
#: one whose queue is being sent, or that the store takes nothing of now, is looked at again after so long
AGAIN_MS = 5_000
#: no two looks closer than this, seconds
LEAST_S = 0.05


class Expiry:
    def __init__(self, log: LogRecords, sending: Sending, clock: Callable[[], int]) -> None:
        self._log = log
        self._sending = sending
        self._clock = clock
        #: account → when its first message is over, Unix ms: an account has one entry
        self._due: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Whatever waits is looked at soon, a slice at a time."""
        now_ms = self._clock()
        for account in self._log.waiting_accounts():
            self.note(account, now_ms)

    def note(self, account: int, expires_ms: int) -> None:
        if self._due.get(account, expires_ms + 1) <= expires_ms:
            return
        self._due[account] = expires_ms
        heapq.heappush(self._heap, (expires_ms, account))
        self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due.clear()
        self._heap.clear()

    def _arm(self) -> None:
        if not self._heap:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max((self._heap[0][0] - self._clock()) / 1_000, LEAST_S)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        now_ms = self._clock()
        for _ in range(SLICE):
            if not self._heap or self._heap[0][0] > now_ms:
                break
            due_ms, account = heapq.heappop(self._heap)
            if self._due.get(account) != due_ms:
                continue
            del self._due[account]
            if self._sending.is_draining(account):
                self.note(account, now_ms + AGAIN_MS)
                continue
            next_ms = self._sending.expire(account)
            if next_ms:
                self.note(account, max(next_ms, now_ms + AGAIN_MS) if next_ms <= now_ms else next_ms)
        self._arm()
