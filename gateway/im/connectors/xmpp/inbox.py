"""Events that wait for their reader; must never grow without bound, nor drop one: past the first bound the network is
not read, past the second the session ends."""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.im.connectors.xmpp.stream import Stream
from gateway.model.im import Event, Transient

#: events, after which nothing more is read from the network
FULL = 256
#: what one read may bring on top of it
OVERFULL = 8_192


class Inbox:
    """One reader."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._is_paused = False

    def put(self, event: Event) -> None:
        if len(self._events) >= OVERFULL:
            self._stream.fail(Transient("more came than was read"))
            return
        self._events.append(event)
        self._wake.set()
        if len(self._events) >= FULL and not self._is_paused:
            self._is_paused = True
            self._stream.pause()

    def take(self) -> Event | None:
        if not self._events:
            return None
        event = self._events.popleft()
        if self._is_paused and len(self._events) < FULL // 2:
            self._is_paused = False
            self._stream.resume()
        return event

    def wake(self) -> None:
        self._wake.set()

    async def wait(self) -> None:
        """Until there is something to take, or to do."""
        await self._wake.wait()
        self._wake.clear()
