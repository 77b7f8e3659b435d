"""Who may connect now: bounds on connects at once and on connects begun in a second; must let nobody starve.

Those whose user was active last go first, but every fourth turn is of the one who waits longest.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque

#: each so-many-th turn goes to whoever waits longest
FAIR_TURN = 4
#: what a late timer may catch up with, seconds
SLACK_S = 0.05


class _Waiter:
    __slots__ = ("future", "is_over")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future
        self.is_over = False


class Admission:
    """Whoever has entered leaves. Waiters are bounded by the accounts that are to be connected (im.max_sessions)."""

    def __init__(self, at_once: int, per_s: float) -> None:
        self._free = at_once
        self._gap_s = 1.0 / per_s
        #: when the next may begin, by the loop's clock
        self._next_at = 0.0
        self._by_rank: list[tuple[float, int, _Waiter]] = []
        self._by_age: deque[_Waiter] = deque()
        self._order = 0
        self._turn = 0
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return self._waiting

    async def enter(self, rank: float) -> None:
        """Wait for one's turn; a higher rank goes first."""
        waiter = _Waiter(asyncio.get_running_loop().create_future())
        self._order += 1
        heapq.heappush(self._by_rank, (-rank, self._order, waiter))
        self._by_age.append(waiter)
        self._waiting += 1
        self._grant()
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.is_over:
                self.leave()  # its turn had come
            else:
                waiter.is_over = True
                self._waiting -= 1
                self._forget_the_gone()
            raise

    def leave(self, *, unused: bool = False) -> None:
        """`unused`: nothing was begun, so the next may begin in its stead."""
        self._free += 1
        if unused:
            self._next_at -= self._gap_s
        self._grant()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _grant(self) -> None:
        loop = asyncio.get_running_loop()
        while self._free and self._waiting:
            now = loop.time()
            if self._next_at > now:
                if self._timer is None:
                    self._timer = loop.call_at(self._next_at, self._on_timer)
                return
            waiter = self._pop()
            waiter.is_over = True
            self._waiting -= 1
            self._free -= 1
            self._next_at = max(self._next_at, now - SLACK_S) + self._gap_s
            waiter.future.set_result(None)

    def _on_timer(self) -> None:
        self._timer = None
        self._grant()

    def _pop(self) -> _Waiter:
        """The next that still waits; there is one."""
        self._turn += 1
        is_fair = self._turn % FAIR_TURN == 0
        while True:
            waiter = self._by_age.popleft() if is_fair else heapq.heappop(self._by_rank)[2]
            if not waiter.is_over:
                self._forget_the_gone()
                return waiter

    def _forget_the_gone(self) -> None:
        """Each waiter is in both queues and leaves one: neither may grow by what the other has let go."""
        bound = 2 * self._waiting + 64
        if len(self._by_age) > bound:
            self._by_age = deque(waiter for waiter in self._by_age if not waiter.is_over)
        if len(self._by_rank) > bound:
            self._by_rank = [entry for entry in self._by_rank if not entry[2].is_over]
            heapq.heapify(self._by_rank)
