"""Answers that take the same time whatever they found: who measures how long one took must not learn whether a number
is a user's (D9, D11)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.model.errors import GatewayError


@asynccontextmanager
async def even_pace(step_s: float) -> AsyncIterator[None]:
    """What is inside is over at a multiple of `step_s` after it began, also where it fails. 0: when it is done."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        yield
    except GatewayError:
        await _pause(begun, step_s)
        raise
    await _pause(begun, step_s)


async def _pause(begun: float, step_s: float) -> None:
    if step_s > 0:
        passed = asyncio.get_running_loop().time() - begun
        await asyncio.sleep(math.ceil(passed / step_s) * step_s - passed)
