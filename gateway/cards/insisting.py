"""Writes that have to be made sooner or later: tried again until the store takes them; must never give one up, nor hide
an error that is not the store's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull, StoreUnavailable

#: between two tries
PAUSE_S = 0.5

T = TypeVar("T")


async def insist(write: Callable[[], Awaitable[None]], metrics: Metrics, pause_s: float = PAUSE_S) -> None:
    """Returns when it is durable. `write` is called again for each try."""
    while True:
        try:
            await write()
        except (StoreUnavailable, QueueFull):
            metrics.count(Metric.OTA_CAMPAIGN_WAITS, label="store")
            await asyncio.sleep(pause_s)
        else:
            return


async def insist_all(
    write: Callable[[T], asyncio.Future[None]], rows: Sequence[T], metrics: Metrics, pause_s: float = PAUSE_S
) -> None:
    """The same for many rows, which go with one commit where they can."""
    left = rows
    while left:
        refused: list[T] = []
        written: list[tuple[T, asyncio.Future[None]]] = []
        for row in left:
            try:
                written.append((row, write(row)))
            except (StoreUnavailable, QueueFull):
                refused.append(row)
        for row, future in written:
            try:
                await future
            except (StoreUnavailable, QueueFull):
                refused.append(row)
        left = refused
        if left:
            metrics.count(Metric.OTA_CAMPAIGN_WAITS, label="store")
            await asyncio.sleep(pause_s)
