"""Things done at a rate, or as fast as they are taken; and how late a loop is: for the IM figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TICK_S = 0.005
#: done in one turn of the loop where no rate is asked for
AT_ONCE = 64


async def pace(count: int, rate: float, do: Callable[[int], None]) -> float:
    """`do(0)` … `do(count - 1)`, so many a second; 0: as fast as the loop turns. Returns the seconds it took."""
    loop = asyncio.get_running_loop()
    began, done = loop.time(), 0
    while done < count:
        due = min(count, int((loop.time() - began) * rate) + 1) if rate else min(count, done + AT_ONCE)
        for number in range(done, due):
            do(number)
        done = due
        await asyncio.sleep(TICK_S if rate else 0)
    return loop.time() - began


class LagProbe:
    """How late the loop comes to what is due, each 5 ms; a turn that took long counts for every tick that it missed."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._late = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + TICK_S
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due = self.note(due, loop.time())

    def note(self, due: float, now: float) -> float:
        """The next tick that is due."""
        while due <= now:
            self._late.append(now - due)
            due += TICK_S
        return due

    async def stop(self) -> dict[str, float]:
        """p50, p99 and the most, ms."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        late = sorted(self._late) or [0.0]
        return {
            "p50_ms": late[len(late) // 2] * 1e3,
            "p99_ms": late[len(late) * 99 // 100] * 1e3,
            "most_ms": late[-1] * 1e3,
        }


def most_in(moments: list[float], window_s: float) -> int:
    """The most of these (rising) moments that lie in one window."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most
