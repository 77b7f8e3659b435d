"""The fleet's broadcasts in one process (model.reach.BroadcastLog), for several nodes in it, with switches for what
networks do; must keep the contract of the real stream, which tests hold both to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.model.errors import LogUnavailable

MOST_BYTES = 524_288


class SharedBroadcasts:
    """What all nodes have in common. `is_up` False: nobody reaches it. `lose_answers`: so many of the next appends are
    carried out and not answered."""

    def __init__(self) -> None:
        self.messages: dict[int, bytes] = {}
        self.last = 0
        self.is_up = True
        self.lose_answers = 0
        self._once: dict[str, int] = {}
        self._readers: list[MemoryBroadcasts] = []

    def node(self) -> MemoryBroadcasts:
        return MemoryBroadcasts(self)

    def drop(self, place: int) -> None:
        """Its time is over."""
        self.messages.pop(place, None)

    def forget_onces(self) -> None:
        """Minutes have passed."""
        self._once.clear()

    def put(self, message: bytes, once: str) -> int:
        place = self._once.get(once)
        if place is None:
            self.last += 1
            place = self._once[once] = self.last
            self.messages[place] = message
            for reader in self._readers:
                reader.wake()
        return place

    def join(self, reader: MemoryBroadcasts) -> None:
        self._readers.append(reader)

    def leave(self, reader: MemoryBroadcasts) -> None:
        if reader in self._readers:
            self._readers.remove(reader)


class MemoryBroadcasts:
    """One node's end of it."""

    def __init__(self, shared: SharedBroadcasts) -> None:
        self._shared = shared
        self._hear: Callable[[int, bytes], Any] | None = None
        self._place = 0
        self._is_woken = False

    @property
    def most_bytes(self) -> int:
        return MOST_BYTES

    async def start(self, hear: Callable[[int, bytes], Any]) -> None:
        self._hear = hear
        self._shared.join(self)
        self._read()

    def wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        self._is_woken = False
        while self._hear is not None and self._shared.is_up and self._place < self._shared.last:
            self._place += 1
            message = self._shared.messages.get(self._place)
            if message is not None:
                self._hear(self._place, message)

    async def append(self, message: bytes, *, once: str, ttl_s: int) -> int:  # noqa: ARG002 - tests `drop`
        await asyncio.sleep(0)
        if not self._shared.is_up:
            raise LogUnavailable
        place = self._shared.put(message, once)
        if self._shared.lose_answers:
            self._shared.lose_answers -= 1
            raise LogUnavailable
        return place

    async def catch_up(self) -> int:
        await asyncio.sleep(0)
        if not self._shared.is_up:
            raise LogUnavailable
        self._read()
        return self._place

    async def close(self) -> None:
        self._hear = None
        self._shared.leave(self)
