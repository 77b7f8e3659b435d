"""Servers that have just started, or have much to write, may be slow to answer: a node asks again, and so do tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.model.errors import LogUnavailable

_T = TypeVar("_T")

PATIENCE_S = 30.0


async def patiently(start: Callable[[], Awaitable[_T]]) -> _T:
    """LogUnavailable where that lasts."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_S
    while True:
        try:
            return await start()
        except LogUnavailable:
            if loop.time() > end:
                raise
        await asyncio.sleep(0.1)
