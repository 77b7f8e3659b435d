"""Subscribers who are off line are asked for again until their pushes expire (C11); must never ask faster than it may,
nor outlive what waits.

Evenly spread: one question after another, so that all have had their turn in `ip.requery_s`, or later where the GGSN
may not be asked so often (`ip.requery_rate`). In RAM: after a restart what waits goes by its own timers. Kept by opaque
id, which is looked up anew for each question: who opted out meanwhile, or was forgotten, is asked for no more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from gateway.config.operator_sections import Ip
from gateway.metrics import Metric, Metrics


class Watch:
    """`is_online` of (opaque id, app) is None where it stands for nobody any more; may raise TimeoutError, OSError,
    ValueError. `clock`: Unix ms."""

    def __init__(
        self,
        ip: Ip,
        metrics: Metrics,
        is_online: Callable[[str, str], Awaitable[bool | None]],
        on_back: Callable[[bytes], object],
        clock: Callable[[], int],
    ) -> None:
        self._ip = ip
        self._metrics = metrics
        self._is_online = is_online
        self._on_back = on_back
        self._clock = clock
        #: by handle: opaque id, app, and until when; asked longest ago first
        self._watched: OrderedDict[bytes, tuple[str, str, int]] = OrderedDict()
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, handle: bytes, opaque: str, app: str, until_ms: int) -> None:
        known = self._watched.get(handle)
        if known is not None:
            # its turn stays, or one who is pushed to often would never be asked for
            self._watched[handle] = (opaque, app, max(until_ms, known[2]))
            return
        if len(self._watched) >= self._ip.watched:
            self._watched.popitem(last=False)
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="ip watched")
        self._watched[handle] = (opaque, app, until_ms)
        self._some.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._ask_again(), name="ip-requery")

    def drop(self, handle: bytes) -> None:
        self._watched.pop(handle, None)

    async def _ask_again(self) -> None:
        while True:
            if not self._watched:
                self._some.clear()
                await self._some.wait()
            pause_s = max(self._ip.requery_s / len(self._watched), 1 / self._ip.requery_rate)
            await asyncio.sleep(pause_s)
            if not self._watched:
                continue
            handle, (opaque, app, until_ms) = next(iter(self._watched.items()))
            self._watched.move_to_end(handle)
            result = await self._look(handle, opaque, app, until_ms)
            self._metrics.count(Metric.IP_REQUERIES, label=result)

    async def _look(self, handle: bytes, opaque: str, app: str, until_ms: int) -> str:
        if self._clock() >= until_ms:
            self.drop(handle)
            return "expired"
        try:
            is_back = await self._is_online(opaque, app)
        except (TimeoutError, OSError, ValueError):
            return "failed"  # its turn comes again
        if is_back is None:
            self.drop(handle)
            return "nobody"
        if not is_back:
            return "off_line"
        self.drop(handle)
        self._on_back(handle)
        return "on_line"

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
