"""Ends a task for certain; must never return while it still runs."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_S = 0.2


async def end_task(task: asyncio.Task[Any] | None) -> None:
    """Cancels until it is over: `asyncio.wait_for` of Python 3.11 swallows a cancellation that comes together with what
    it waits for, and the client of NATS uses it."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_S)
    if task is not None and not task.cancelled():
        task.exception()  # whoever ends it does not ask why it failed
