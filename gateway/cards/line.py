"""One card's link to this server, as whoever called the card uses it; must never hold more events than its bound.

It lives under the identification that its PUSH named: a card that comes back with that takes its link over (a NAT that
forgot it, a channel that was opened anew), and what is heard then is `LinkClosed(replaced)`, `LinkOpened`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from gateway.metrics import Metric, Metrics
from gateway.model.cards import CardLinks, LinkClosed, LinkEvent, LinkOpened

#: events not looked at yet; past it the link is given up: no card that was asked for anything says so much
MOST_EVENTS = 256


class Line:
    """Control thread only. `forget` ends it, always."""

    def __init__(self, links: CardLinks, identification: bytes, metrics: Metrics) -> None:
        self._links = links
        self.identification = identification
        self._metrics = metrics
        self._events: deque[LinkEvent] = deque()
        self._changed = asyncio.Event()
        self.opened: LinkOpened | None = None
        #: when the SMSC took the first message that asks for it, loop time; 0: not yet
        self.asked_s = 0.0

    def expect(self, valid_ms: int) -> bool:
        return self._links.expect(self.identification, self._on_event, valid_ms)

    def _on_event(self, event: LinkEvent) -> None:
        if len(self._events) >= MOST_EVENTS:
            self._metrics.count(Metric.OTA_BOUNDS, label="link_events")
            self._events.clear()
            event = LinkClosed(event.link, "illegal", 0, 0)
            self._links.forget(self.identification)
        self._events.append(event)
        self._changed.set()

    async def next_event(self) -> LinkEvent:
        """The next thing that happened, in order."""
        while not self._events:
            self._changed.clear()
            await self._changed.wait()
        event = self._events.popleft()
        if isinstance(event, LinkOpened):
            self.opened = event
        elif isinstance(event, LinkClosed) and self.opened is not None and event.link == self.opened.link:
            self.opened = None
        return event

    @property
    def is_opening(self) -> bool:
        """The card came, though that was not looked at yet."""
        return any(isinstance(each, LinkOpened) for each in self._events)

    @property
    def is_lost(self) -> bool:
        """Its link is over, though that was not looked at yet."""
        opened = self.opened
        return opened is None or any(isinstance(each, LinkClosed) and each.link == opened.link for each in self._events)

    def send(self, sdu: bytes) -> bool:
        return self.opened is not None and self._links.send(self.opened.link, sdu)

    async def hang_up(self, patience_s: float) -> None:
        """Politely: the card hears it once all that was sent is there. Its time is bounded."""
        if self.opened is None:
            return
        self._links.close(self.opened.link)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self.opened is not None:
                    await self.next_event()

    def forget(self) -> None:
        self._links.forget(self.identification)
