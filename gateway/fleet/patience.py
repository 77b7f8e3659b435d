"""A start that waits for NATS, which may be electing a leader or making a stream; must not hide that it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.model.errors import LogUnavailable

_log = structlog.get_logger(__name__)

PATIENCE_S = 30.0
_AGAIN_S = 0.25


async def start_patiently(start: Callable[[], Awaitable[None]]) -> None:
    """Again until it succeeds; it has to look first at what was done. LogUnavailable where that takes PATIENCE_S."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + PATIENCE_S
    while True:
        try:
            return await start()
        except LogUnavailable as exc:
            if loop.time() > until_s:
                raise
            _log.info("waiting_for_nats", reason=exc.message)
        await asyncio.sleep(_AGAIN_S)
