"""Streams answered before the whole of their request came; none may linger past its bounds of bytes and time.

RFC 9113 §8.1 lets a server reset such a stream at once. But who is still sending then, curl 7.88 for one, takes the
reset for a failure and never shows the answer. So the rest, which is small as a rule, is let come and thrown away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.api.http_protocol import Limits


class Lingering:
    """Those of one connection. `give_up` is called for each that goes on too long."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, give_up: Callable[[int], None]) -> None:
        self._loop = loop
        self._limits = limits
        self._give_up = give_up
        self._until_s: dict[int, float] = {}  # by stream, the oldest first
        self._bytes: dict[int, int] = {}
        self._deadline: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, stream: int) -> None:
        self._until_s[stream] = self._loop.time() + self._limits.linger_s
        self._bytes[stream] = 0
        self._arm()

    def took(self, stream: int, size: int) -> None:
        """So much more of its request came."""
        if stream in self._bytes:
            self._bytes[stream] += size
            if self._bytes[stream] > self._limits.linger_bytes:
                self.drop(stream)
                self._give_up(stream)

    def drop(self, stream: int) -> bool:
        """Its request is whole, or taken back. False where it was not one of these."""
        self._bytes.pop(stream, None)
        return self._until_s.pop(stream, None) is not None

    def close(self) -> None:
        self._until_s.clear()
        self._bytes.clear()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _arm(self) -> None:
        if self._deadline is None and self._until_s:
            self._deadline = self._loop.call_at(next(iter(self._until_s.values())), self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline = None
        now_s = self._loop.time()
        for stream in [stream for stream, until_s in self._until_s.items() if until_s <= now_s]:
            if self.drop(stream):
                self._give_up(stream)
        self._arm()
