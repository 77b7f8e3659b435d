"""Writes that have to be made sooner or later: tried again until the store takes them; must never give one up, nor hide
an error that is not the store's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull, StoreUnavailable

#: between two tries
PAUSE_S = 0.5


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
