"""The one way of every pager to a subscriber: whom the id stands for, and whether that one may be paged now (C2, C8 and
on); must never let who asks learn what another app did, beyond that it has to wait.

A page is a side channel: whoever can cause many, and watch the radio, finds where somebody is. So pages are counted by
subscriber over all apps and pagers, go out after a random moment, and one that only wakes stands for several.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from gateway.config.operator_sections import Paging
from gateway.metrics import Metric, Metrics
from gateway.model.ports import NotifierResult, Subscribers
from gateway.model.registration import App, Registration
from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import LATER, NO_ADDRESS, Answer, Fault, Upstream
from gateway.paging import errors
from gateway.paging.waiting import Waiting

HOUR_MS = 3_600_000

Send = Callable[[Subscriber], Awaitable[Answer]]


class _Allowance:
    """What is left of one subscriber's pages, filled up by and by."""

    __slots__ = ("at_ms", "pages")

    def __init__(self, pages: float, at_ms: int) -> None:
        self.pages = pages
        self.at_ms = at_ms


class _Wake:
    """A page that wakes one registration: under way, or taken until then."""

    __slots__ = ("ended", "failed", "stands", "until_ms")

    def __init__(self, stands: Callable[[], bool]) -> None:
        self.stands = stands
        self.ended = asyncio.Event()
        self.failed: NotifierResult | None = None
        self.until_ms = 0


class Guard:
    """One for all pagers of a gateway."""

    def __init__(
        self,
        paging: Paging,
        subscribers: Subscribers,
        waiting: Waiting,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._paging = paging
        self._waiting = waiting
        self._subscribers = subscribers
        self._metrics = metrics
        self._clock = clock
        self._random = random.SystemRandom()
        #: by Subscriber.handle, the one paged longest ago first
        self._allowances: OrderedDict[bytes, _Allowance] = OrderedDict()
        #: by (pager, registration, what it is woken for), oldest first
        self._wakes: OrderedDict[tuple[str, int, bytes], _Wake] = OrderedDict()

    async def page(
        self,
        upstream: Upstream,
        lane: str,
        app: App,
        registration: Registration,
        send: Send,
        *,
        wakes: bool,
        purpose: bytes = b"",
        stands: Callable[[], bool] = lambda: True,
    ) -> NotifierResult:
        """Page whom the registration's address for `upstream.name` stands for; `send` does it, with what the network
        needs for this one call; where its answer is that the terminal is absent, the network's word that it is back is
        waited for. `wakes`: nothing but a reason to connect is sent, so one page in a while is enough for the same
        `purpose`, as long as `stands` says so: what it led to is still good. Never raises but CancelledError."""
        opaque = registration.addresses.get(upstream.name, "")
        if not opaque:
            return upstream.refuse(NO_ADDRESS)
        try:
            subscriber = await self._subscribers.resolve(opaque, app.name)
        except (TimeoutError, OSError, ValueError):
            return upstream.refuse(errors.LOOKUP)
        if subscriber is None:
            return upstream.refuse(errors.UNKNOWN_SUBSCRIBER)
        known_ms = self._clock()

        async def send_now(known: Subscriber) -> Answer:
            if not self._paging.jitter_s and self._clock() == known_ms:
                return await send(known)
            # it waited: an opt-out, an end, or another owner of the number since then is in force
            try:
                now = await self._subscribers.resolve(opaque, app.name)
            except (TimeoutError, OSError, ValueError):
                return Answer(errors.LOOKUP, asked=False)
            if now is None or now.handle != known.handle:
                return Answer(errors.UNKNOWN_SUBSCRIBER, asked=False)
            return await send(now)

        if not wakes or not self._paging.coalesce_s:
            return await self._paced(upstream, lane, registration, subscriber, send_now)
        wake = _Wake(stands)
        return await self._coalesced(upstream, lane, registration, subscriber, send_now, purpose, wake)

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        """Whom it stands for, for who has to ask again after a page; None where nobody, or it can not be asked now."""
        try:
            return await self._subscribers.resolve(opaque, app)
        except (TimeoutError, OSError, ValueError):
            return None

    async def look_up(self, opaque: str, app: str) -> Subscriber | None:
        """As `Subscribers.resolve`: raises where it can not be asked now."""
        return await self._subscribers.resolve(opaque, app)

    async def _coalesced(
        self,
        upstream: Upstream,
        lane: str,
        registration: Registration,
        subscriber: Subscriber,
        send: Send,
        purpose: bytes,
        wake: _Wake,
    ) -> NotifierResult:
        key = (upstream.name, registration.number, purpose)
        while (known := self._wakes.get(key)) is not None:
            if not known.ended.is_set():
                await known.ended.wait()  # what becomes of it is what becomes of this one
                if known.failed is not None:
                    return known.failed._replace(asked=False, gone=False)
            elif self._clock() < known.until_ms and known.stands():
                return upstream.refuse(errors.COALESCED)
            else:
                break
        self._wakes[key] = wake
        self._wakes.move_to_end(key)
        result: NotifierResult | None = None
        try:
            result = await self._paced(upstream, lane, registration, subscriber, send)
            return result
        finally:
            wake.failed = result if result is not None and not result.ok else None
            wake.ended.set()
            if result is not None and result.ok:
                wake.until_ms = self._clock() + int(self._paging.coalesce_s * 1000)
            self._forget_wakes()

    def _forget_wakes(self) -> None:
        now_ms = self._clock()
        while self._wakes:
            key, oldest = next(iter(self._wakes.items()))
            if not oldest.ended.is_set() or now_ms < oldest.until_ms:
                return  # bounded by what is under way and what a while can send
            del self._wakes[key]

    async def _paced(
        self, upstream: Upstream, lane: str, registration: Registration, subscriber: Subscriber, send: Send
    ) -> NotifierResult:
        if not self._take(subscriber.handle):
            # Not for how long: when there is room again would tell how much others used.
            return upstream.refuse(errors.PACED, detail=LATER)._replace(asked=False)
        asked = False
        try:
            if self._paging.jitter_s:
                await asyncio.sleep(self._random.uniform(0, self._paging.jitter_s))

            async def call() -> Answer:
                nonlocal asked
                asked = True  # cut off from here on, it may have gone out
                answer = await send(subscriber)
                if answer.row.fault is Fault.ABSENT:
                    self._waiting.add(subscriber, registration.number)
                return answer

            result = await upstream.ask(lane, call)
            asked = result.asked
            return result
        finally:
            if not asked:
                self._give_back(subscriber.handle)

    def _take(self, handle: bytes) -> bool:
        """Is there a page left of this subscriber's? Then it is taken."""
        per_hour, burst, now_ms = self._paging.subscriber_per_hour, self._paging.subscriber_burst, self._clock()
        if not per_hour:
            return True
        allowance = self._allowances.pop(handle, None)
        if allowance is None:
            if len(self._allowances) >= self._paging.subscribers_counted:
                self._allowances.popitem(last=False)
                self._metrics.count(Metric.NOTIFIER_BOUNDS, label="paging subscribers")
            allowance = _Allowance(burst, now_ms)
        self._allowances[handle] = allowance
        passed_ms = max(0, now_ms - allowance.at_ms)
        allowance.pages = min(float(burst), allowance.pages + passed_ms * per_hour / HOUR_MS)
        allowance.at_ms = now_ms
        if allowance.pages < 1:
            return False
        allowance.pages -= 1
        return True

    def _give_back(self, handle: bytes) -> None:
        allowance = self._allowances.get(handle)
        if allowance is not None:
            allowance.pages = min(float(self._paging.subscriber_burst), allowance.pages + 1)
