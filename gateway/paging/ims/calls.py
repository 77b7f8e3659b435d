"""The requests that SIP servers hold (C14): pages who is called, answers the server, and stops when the request is
held no more; must never let one call, whatever happens to it, reach another.

A request with a token in its pn-prid is a push to that registration: taken in as any push, over the channel first, by
the app's chain, and recalled at its end. Every other goes to the pagers of `ims.pagers` in turn, with a registration
that is there for this call alone. That push id leads to nothing that could be fetched: a page says "register", no more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from gateway.config.operator_sections import Ims
from gateway.config.sections import Config
from gateway.delivery.accept import Acceptor
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.identity.opaque_ids import parse_opaque_id
from gateway.metrics import Metric, Metrics
from gateway.model.errors import BadRequest, GatewayError, UnknownToken
from gateway.model.frames import Urgency
from gateway.model.notification import Content, Notification, Target
from gateway.model.ports import Directory, Journal, Notifier, NotifierResult
from gateway.model.registration import TOKEN_BYTES, App, Registration, parse_token
from gateway.paging.ims.called import Called
from gateway.paging.ims.contact import BadParams, parse_push_params
from gateway.paging.ims.link import CscfLink
from gateway.paging.ims.messages import End, Page, Paged, Pong, Refused, Told

#: registrations of a call have numbers from here on: no stored one gets so far
FIRST_NUMBER = 1 << 31
COLLAPSE_KEY = "ims"
#: a server says that a hold has ended within this time of its end
GRACE_S = 2.0

_log = structlog.get_logger(__name__)


class Parts(NamedTuple):
    """What the gateway lends."""

    config: Config
    directory: Directory
    journal: Journal
    acceptor: Acceptor
    dispatcher: Dispatcher
    notifiers: Mapping[str, Notifier]
    called: Called
    metrics: Metrics
    clock: Callable[[], int]


class Unpageable(Exception):
    """Never: nobody, who opted out, no number, an id that is dead. Which of these, nobody is told."""


class NotNow(Exception):
    """Something on the way did not work, or time was up."""


class _Call:
    __slots__ = ("end_s", "is_paged", "link", "page", "task")

    def __init__(self, link: CscfLink, page: Page, end_s: float) -> None:
        self.link = link
        self.page = page
        self.end_s = end_s  # loop time
        self.is_paged = False
        self.task: asyncio.Task[None] | None = None


class HeldCalls:
    """`on_message` of every link. On the loop; `close` ends all pages."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ims: Ims = parts.config.ims
        self._metrics = parts.metrics
        self._calls: dict[tuple[str, str], _Call] = {}
        #: whom a page is for → number of the registration it goes out with, the newest last
        self._numbers: OrderedDict[bytes, int] = OrderedDict()
        self._last_number = 0
        self._warned: set[str] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def on_message(self, link: CscfLink, message: Told) -> None:
        if isinstance(message, Page):
            self._on_page(link, message)
        elif isinstance(message, End):
            self._on_end(link, message)
        else:
            assert isinstance(message, Pong)

    async def close(self) -> None:
        """The servers' holds go on without the gateway, and are asked for again by the next one."""
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._calls.clear()

    def _warn(self, event: str, **about: str) -> None:
        """Once: it is the operator's to set right, and every call says it."""
        if event not in self._warned:
            self._warned.add(event)
            _log.warning(event, **about)

    def _count(self, result: str) -> None:
        self._metrics.count(Metric.IMS_CALLS, label=result)

    def _on_page(self, link: CscfLink, page: Page) -> None:
        known = self._calls.get((link.name, page.id))
        if known is not None:
            known.link = link
            if known.is_paged:
                link.send(Paged(page.id))  # the first time may have been lost
            return
        if len(self._calls) >= self._ims.calls:
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="ims calls")
            self._count("refused")
            link.send(Refused(page.id, "failed"))
            return
        self._count("held")
        loop = asyncio.get_running_loop()
        end_s = loop.time() + min(page.left_s, self._ims.hold_max_s)
        call = _Call(link, page, end_s)
        self._calls[link.name, page.id] = call
        self._metrics.set(Metric.IMS_HELD, len(self._calls))
        call.task = loop.create_task(self._serve(call), name="ims-call")

    def _on_end(self, link: CscfLink, end: End) -> None:
        call = self._calls.get((link.name, end.id))
        if end.why == "refused":  # counted when it was said
            return
        if call is None:
            self._metrics.count(Metric.IMS_EVENTS, label="end of nothing")
            return
        self._count(end.why)
        assert call.task is not None
        call.task.cancel()

    # --- one call

    async def _serve(self, call: _Call) -> None:
        loop = asyncio.get_running_loop()
        no_sooner_s = loop.time() + self._ims.refuse_ms / 1000
        try:
            try:
                async with asyncio.timeout_at(call.end_s):
                    await self._page(call)
                    await loop.create_future()  # until the server says that it has ended, or should have long ago
            except TimeoutError:
                # the server's hold ends as well, with its own answer; who refuses first is of no use to anybody
                await asyncio.sleep(GRACE_S)
                if call.is_paged:
                    return
                refusal = Refused(call.page.id, "failed")
            except Unpageable:
                refusal = Refused(call.page.id, "unpageable")
            except NotNow:
                refusal = Refused(call.page.id, "failed")
            except Exception as error:
                # ours; its text may hold what a message held
                _log.warning("ims_page_failed", error=type(error).__name__)
                refusal = Refused(call.page.id, "failed")
            await asyncio.sleep(no_sooner_s - loop.time())
            self._count("refused" if refusal.reason == "unpageable" else "failed")
            call.link.send(refusal)
        finally:
            self._calls.pop((call.link.name, call.page.id), None)
            self._metrics.set(Metric.IMS_HELD, len(self._calls))

    async def _page(self, call: _Call) -> None:
        """Returns when a page has gone out. Unpageable, NotNow."""
        app = self._parts.directory.app(self._ims.app)
        if app is None:
            self._warn("ims_app_missing", app=self._ims.app)
            raise NotNow
        prid = self._prid(call.page.params)
        if prid:
            try:
                await self._page_by(call, app, prid)
                return
            except Unpageable:
                pass  # dead, or nobody's; who is called may be known all the same
        try:
            subscriber = await self._parts.called.find(call.page.impu)
        except (TimeoutError, OSError, ValueError, GatewayError):
            raise NotNow from None
        if subscriber is None:
            raise Unpageable
        with self._parts.called.named(subscriber) as name:
            await self._ask_pagers(call, app, name, subscriber.handle)

    def _prid(self, params: str) -> str:
        """What the contact that may be asleep is known by here; empty where it is none of ours."""
        try:
            contact = parse_push_params(params)
        except BadParams:
            self._metrics.count(Metric.IMS_EVENTS, label="bad contact")
            return ""
        if contact.provider != self._ims.provider or contact.param not in (None, self._ims.app):
            return ""
        return contact.prid or ""

    async def _page_by(self, call: _Call, app: App, prid: str) -> None:
        if parse_token(prid) is not None:
            await self._push(call, app, prid)
        elif parse_opaque_id(prid) is not None:
            try:
                subscriber = await self._parts.called.resolve(prid, app.name)
            except (TimeoutError, OSError, ValueError):
                raise NotNow from None
            if subscriber is None:
                raise Unpageable
            # by whom it stands for: a call by IMPU, or by another id, is the same page
            await self._ask_pagers(call, app, prid, subscriber.handle)
        else:
            raise Unpageable

    def _paged(self, call: _Call) -> None:
        call.is_paged = True
        self._count("paged")
        call.link.send(Paged(call.page.id))

    # --- as a push to a registration

    async def _push(self, call: _Call, app: App, token: str) -> None:
        left_s = max(1, int(call.end_s - asyncio.get_running_loop().time()))
        request = PushRequest(
            target=TargetRequest(token=token),
            data={"ims": call.page.method},
            ttl=left_s,
            urgency="high",
            collapse_key=COLLAPSE_KEY,
            body="at_once",
        )
        try:
            accepted = self._parts.acceptor.push(app, request, self._parts.clock())
            await accepted.done
        except (UnknownToken, BadRequest):
            raise Unpageable from None
        except GatewayError:
            raise NotNow from None
        self._paged(call)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            # acked long ago in most cases: what is over can not be recalled
            with contextlib.suppress(GatewayError):
                await self._parts.dispatcher.recall(app.name, accepted.seq)

    # --- by pagers

    async def _ask_pagers(self, call: _Call, app: App, address: str, key: bytes) -> None:
        """Each in turn until one takes it; those that may do so later again, until the hold ends."""
        notification = self._build(call, app)
        left = [name for name in self._ims.pagers if name in self._parts.notifiers]
        if not left:
            self._warn("ims_pagers_missing", pagers=" ".join(self._ims.pagers))
            raise NotNow
        registration = Registration(
            number=self._number(key),
            token=bytes(TOKEN_BYTES),
            device="",
            app=app.name,
            version="",
            addresses=dict.fromkeys(left, address),
        )
        while left:
            rests_ms: list[int] = []
            for name in list(left):
                result = await self._ask(name, app, registration, notification)
                if result.ok:
                    self._paged(call)
                    return
                if result.dead:
                    left.remove(name)
                else:
                    rests_ms.append(result.retry_after_ms)
            if left:
                await asyncio.sleep(max(self._ims.retry_ms, min(rests_ms)) / 1000)
        raise Unpageable

    def _number(self, key: bytes) -> int:
        """The same for every call of a subscriber: a page stands for all that come within paging.coalesce_s."""
        number = self._numbers.pop(key, 0)
        if not number:
            if len(self._numbers) >= self._ims.calls:
                self._numbers.popitem(last=False)
            self._last_number = (self._last_number + 1) % FIRST_NUMBER
            number = FIRST_NUMBER + self._last_number
        self._numbers[key] = number
        return number

    async def _ask(self, name: str, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        try:
            return await self._parts.notifiers[name].notify(app, registration, notification)
        except Exception as error:
            _log.warning("ims_pager_failed", pager=name, error=type(error).__name__)
            return NotifierResult(ok=False)

    def _build(self, call: _Call, app: App) -> Notification:
        now_ms = self._parts.clock()
        left_s = call.end_s - asyncio.get_running_loop().time()
        return Notification(
            seq=self._parts.journal.reserve(1),  # its own, so that no push of another is taken for it
            app=app.name,
            target=Target(),
            content=Content(),
            accepted_ms=now_ms,
            expires_s=int(now_ms / 1000 + left_s + 1),
            urgency=Urgency.HIGH,
            collapse_key=COLLAPSE_KEY,
            ack_ms=1,
            notifier_ack_ms=1,
        )
