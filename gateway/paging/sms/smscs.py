"""Several SMSCs in order of preference: which one is asked, and when the next; must never let two take one message.

Another SMSC is asked only where the first did not take the message for certain: it is not bound, was not written to, or
said that it is throttling or full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.metrics import Metrics
from gateway.paging.sms.link import LinkSettings, NotSent, SmscLink, Submitted
from gateway.paging.sms.pdu import Address, ShortMessage, Status

#: right after the start, and where all are down, a message waits so long for a bind
FIRST_BIND_S = 2.0
#: these say "later", to everybody
THROTTLES = (Status.RTHROTTLED, Status.RMSGQFUL)


class NoneBound(Exception):
    """No SMSC is bound."""


class AllRest(Exception):
    """Those that are bound are throttling."""

    def __init__(self, status: int, for_ms: int) -> None:
        super().__init__(status)
        self.status = status
        self.for_ms = for_ms


class Smscs:
    """The links, first choice first. `clock`: Unix ms."""

    def __init__(
        self,
        links: Sequence[LinkSettings],
        metrics: Metrics,
        *,
        throttle_s: float,
        on_message: Callable[[str, ShortMessage], int],
        on_alert: Callable[[Address, bool], None],
        clock: Callable[[], int],
    ) -> None:
        self._throttle_ms = int(throttle_s * 1000)
        self._clock = clock
        self._some_bound = asyncio.Event()
        self.links = [
            SmscLink(each, metrics, on_message=on_message, on_alert=on_alert, on_bound=self._some_bound.set)
            for each in links
        ]
        self._rests: dict[str, tuple[int, int]] = {}  # name → (until, status)
        self._first_bind_s = min(FIRST_BIND_S, min((each.answer_s for each in links), default=0.0))

    def start(self) -> None:
        for link in self.links:
            link.start()

    async def submit(
        self, sm: ShortMessage, on: SmscLink | None = None, on_written: Callable[[], None] = lambda: None
    ) -> tuple[SmscLink, Submitted]:
        """Submit on this link, else on the first that takes it. NoneBound, AllRest, LinkLost, TimeoutError."""
        if on is not None:
            return on, await self._submit(on, sm, on_written)
        await self._until_bound()
        for link in self.links:
            if not link.is_bound or self._rest_ms(link):
                continue
            try:
                answer = await self._submit(link, sm, on_written)
            except (NotSent, AllRest):
                continue
            return link, answer
        resting = [self._rests[link.name] for link in self.links if link.is_bound and self._rest_ms(link)]
        if resting:
            until_ms, status = min(resting)
            raise AllRest(status, max(1, until_ms - self._clock()))
        raise NoneBound

    async def choose(self) -> SmscLink | None:
        """The first that is bound and does not rest."""
        try:
            await self._until_bound()
        except NoneBound:
            return None
        return next((link for link in self.links if link.is_bound and not self._rest_ms(link)), None)

    def rest_ms(self) -> int:
        """Until the first of those that are bound may be asked again; 0 where none is."""
        return min((self._rest_ms(link) for link in self.links if link.is_bound), default=0)

    def rest_of(self, link: SmscLink) -> int:
        """Until this one may be asked again, ms; 0: now."""
        return self._rest_ms(link)

    async def _submit(self, link: SmscLink, sm: ShortMessage, on_written: Callable[[], None]) -> Submitted:
        answer = await link.submit(sm, on_written)
        if answer.status in THROTTLES:
            self._rests[link.name] = (self._clock() + self._throttle_ms, answer.status)
            raise AllRest(answer.status, self._throttle_ms)
        return answer

    def _rest_ms(self, link: SmscLink) -> int:
        until_ms, _ = self._rests.get(link.name, (0, 0))
        return max(0, until_ms - self._clock())

    async def _until_bound(self) -> None:
        if any(link.is_bound for link in self.links):
            return
        self._some_bound.clear()
        try:
            async with asyncio.timeout(self._first_bind_s):
                await self._some_bound.wait()
        except TimeoutError:
            raise NoneBound from None

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self.links))
