"""Device triggering through the network's exposure function over T8 (C10); must never keep what a device is known by
beyond the call, nor believe a report that came to a path it did not draw.

Source: 3GPP TS 29.122 §4.4.6, §5.7 (DeviceTriggering), §5.2.5 (notifications).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from gateway.config.operator_sections import Trigger
from gateway.identity.opaque_ids import parse_opaque_id
from gateway.metrics import Metric, Metrics
from gateway.model.subscriber import Subscriber
from gateway.notifiers.connections import Exchange
from gateway.notifiers.upstream import Answer
from gateway.paging.errors import NO_NUMBER
from gateway.paging.trigger import errors
from gateway.paging.trigger.callback_paths import REPORTS, CallbackPaths
from gateway.paging.trigger.listener import Bounds, Listener
from gateway.paging.trigger.notifications import BadNotification, Report, Test, parse_report, resource_name
from gateway.paging.trigger.reachability import Watches
from gateway.paging.trigger.scef import TRIGGERING, Scef, parse_resource
from gateway.paging.trigger.settings import Access, build_access, build_callback_context
from gateway.paging.trigger.way import DeviceTrigger, OnOutcome

#: feature 2, Notification_test_event (TS 29.122 §5.7.4); one hexadecimal digit holds four
NO_FEATURES, TEST_NOTIFICATION = "0", "2"
#: reports that are known to be repeated ones
MOST_OVER = 4_096
#: the resource can not be replaced (any more): a trigger of its own goes out. 501 and 405: it never can
_NOT_REPLACED = (403, 404, 405, 409, 410, 501)


class _Transaction:
    """One trigger that the network has."""

    __slots__ = ("digest", "reference", "until_ms", "url")

    def __init__(self, reference: int, digest: bytes, until_ms: int) -> None:
        self.reference = reference
        self.digest = digest
        self.until_ms = until_ms
        self.url = ""  # of the resource, once it is known to be one of ours


def build_ids(identify: str, subscriber: Subscriber, opaque: str) -> dict[str, str] | None:
    """What the network knows the device by: exactly one of externalId and msisdn (TS 29.122 §5.7.2.1.2). None where it
    is not known."""
    if identify == "msisdn":
        digits = subscriber.msisdn.lstrip("+")
        usable = digits.isascii() and digits.isdigit() and len(digits) <= 15
        return {"msisdn": digits} if usable else None
    if identify == "opaque_id":
        found = parse_opaque_id(opaque)
        return {"externalId": found.canonical} if found is not None else None
    local, at, host = subscriber.nai.partition("@")
    return {"externalId": subscriber.nai} if local and at and host else None


class T8Way:
    """TriggerWay, Replacing and Watching. `clock`: Unix ms."""

    name = "t8"

    def __init__(
        self,
        trigger: Trigger,
        access: Access,
        *,
        timeout_s: float,
        metrics: Metrics,
        clock: Callable[[], int],
        on_outcome: OnOutcome,
        on_back: Callable[[bytes], object],
    ) -> None:
        self._trigger = trigger
        self._metrics = metrics
        self._clock = clock
        self._on_outcome = on_outcome
        self._scef = Scef(access, timeout_s=timeout_s, clock=clock, on_token=self._count_token)
        self._outside = trigger.callback_url.rstrip("/")
        self._paths = CallbackPaths(self._outside)
        bounds = Bounds(
            trigger.callback_connections,
            trigger.callback_body_bytes,
            trigger.callback_timeout_s,
            trigger.callback_retry_s,
            trigger.callback_retry_max_s,
        )
        self._listener = Listener(
            trigger.callback_host,
            trigger.callback_port,
            bounds,
            metrics,
            self._handle_post,
            build_callback_context(trigger),
        )
        self._watches = Watches(
            trigger, self._scef, self._paths, metrics, timeout_s=timeout_s, clock=clock, on_back=on_back
        )
        self._wants_test = trigger.test_notification
        #: oldest first
        self._by_reference: dict[int, _Transaction] = {}
        self._by_digest: dict[bytes, _Transaction] = {}
        self._over: dict[bytes, None] = {}

    def start(self) -> None:
        self._listener.start()

    async def close(self) -> None:
        await self._listener.close()
        await self._scef.close()

    # --- out

    async def send(self, subscriber: Subscriber, trigger: DeviceTrigger) -> Answer:
        prepared = await self._prepare(subscriber, trigger)
        if isinstance(prepared, Answer):
            return prepared
        return await self._post(*prepared)

    async def replace(self, old: int, subscriber: Subscriber, trigger: DeviceTrigger) -> tuple[Answer, bool]:
        prepared = await self._prepare(subscriber, trigger)
        if isinstance(prepared, Answer):
            return prepared, False
        known = self._by_reference.get(old)
        if known is None or not known.url:
            return await self._post(*prepared), False
        url, known.url = known.url, ""  # it is replaced once
        fresh, body = prepared
        got = await self._call("PUT", url, body, fresh)
        if isinstance(got, Answer):
            known.url = url
            return got, False
        if got.status in (200, 204):
            fresh.url = url
            self._finish(known)
            return Answer(errors.OK, detail="replaced"), True
        if got.status not in _NOT_REPLACED:
            known.url = url
            self._forget(fresh)
            return errors.parse_refusal(got.status, got.headers, got.body, self._clock()), False
        return await self._post(fresh, body), False

    async def watch(self, subscriber: Subscriber, external_id: str) -> None:
        ids = build_ids(self._trigger.identify, subscriber, external_id)
        if (
            self._trigger.watch_reachability
            and ids is not None
            and await self._listener.opened(self._trigger.callback_retry_s)
        ):
            await self._watches.watch(subscriber.handle, ids, self._outside or self._listener.url)

    async def _prepare(
        self, subscriber: Subscriber, trigger: DeviceTrigger
    ) -> tuple[_Transaction, dict[str, Any]] | Answer:
        """The transaction, which can be reported on from now on, and the body."""
        ids = build_ids(self._trigger.identify, subscriber, trigger.external_id)
        if ids is None:
            return Answer(NO_NUMBER)
        self.start()
        if not await self._listener.opened(self._trigger.callback_retry_s):
            return Answer(errors.NOT_LISTENING)
        path, digest = self._paths.draw(REPORTS)
        until_ms = self._clock() + int((trigger.validity_s + self._trigger.report_s) * 1000)
        body: dict[str, Any] = {
            **ids,
            "supportedFeatures": TEST_NOTIFICATION if self._wants_test else NO_FEATURES,
            "validityPeriod": trigger.validity_s,
            "priority": "PRIORITY" if trigger.is_urgent else "NO_PRIORITY",
            "applicationPortId": trigger.port,
            "triggerPayload": base64.b64encode(trigger.payload).decode(),
            "notificationDestination": (self._outside or self._listener.url) + path,
        }
        if self._wants_test:
            body["requestTestNotification"] = True
        return self._open(trigger.reference, digest, until_ms), body

    async def _post(self, fresh: _Transaction, body: dict[str, Any]) -> Answer:
        collection = self._scef.collection(TRIGGERING, "transactions")
        got = await self._call("POST", collection, body, fresh)
        if isinstance(got, Answer):
            return got
        if got.status != 201:
            self._forget(fresh)
            return errors.parse_refusal(got.status, got.headers, got.body, self._clock())
        fresh.url = parse_resource(got.headers.get("location", ""), collection)
        return Answer(errors.OK)

    async def _call(self, method: str, url: str, body: dict[str, Any], fresh: _Transaction) -> Exchange | Answer:
        """Where it is not known whether it was taken, its report is heard all the same."""
        got = await self._scef.call(method, url, body)
        if isinstance(got, Answer):
            self._forget(fresh)
        return got

    # --- back

    def _handle_post(self, path: str, body: bytes) -> int:
        """What came to the listener; returns the status to answer with (TS 29.122 §5.2.5.2)."""
        found = self._paths.find(path)
        if found is None:
            status, result = 404, "unknown"
        elif found[0] == REPORTS:
            status, result = self._handle_report(found[1], body)
        else:
            status, result = self._watches.handle_post(found[1], body)
        self._metrics.count(Metric.TRIGGER_CALLBACKS, label=result)
        return status

    def _handle_report(self, digest: bytes, body: bytes) -> tuple[int, str]:
        transaction = self._by_digest.get(digest)
        if transaction is None:
            return (204, "repeated") if digest in self._over else (404, "unknown")
        try:
            found = parse_report(body)
        except BadNotification:
            return 400, "malformed"
        if isinstance(found, Test):
            self._wants_test = False
            return 204, "test"
        if transaction.url and found.transaction != resource_name(transaction.url):
            return 400, "mismatch"
        self._hear(transaction, found)
        return 204, found.result.lower()

    def _hear(self, transaction: _Transaction, report: Report) -> None:
        if report.outcome is None:
            return
        self._finish(transaction)
        says = report.result.lower()
        self._on_outcome(transaction.reference, report.outcome, "" if says in _PLAIN else says)

    # --- what the network has

    def _open(self, reference: int, digest: bytes, until_ms: int) -> _Transaction:
        now_ms = self._clock()
        while self._by_reference:
            oldest = next(iter(self._by_reference.values()))
            if now_ms < oldest.until_ms and len(self._by_reference) < self._trigger.outstanding:
                break
            self._forget(oldest)  # the pager forgot it too, and has counted it
        fresh = _Transaction(reference, digest, until_ms)
        self._by_reference[reference] = self._by_digest[digest] = fresh
        return fresh

    def _finish(self, transaction: _Transaction) -> None:
        self._forget(transaction)
        if len(self._over) >= MOST_OVER:
            del self._over[next(iter(self._over))]
        self._over[transaction.digest] = None

    def _forget(self, transaction: _Transaction) -> None:
        if self._by_reference.get(transaction.reference) is transaction:
            del self._by_reference[transaction.reference]
        self._by_digest.pop(transaction.digest, None)

    def _count_token(self) -> None:
        self._metrics.count(Metric.NOTIFIER_TOKENS, label="trigger")


#: results that say no more than their outcome does
_PLAIN = ("success", "expired", "unconfirmed")


def build_t8(
    trigger: Trigger,
    *,
    timeout_s: float,
    metrics: Metrics,
    clock: Callable[[], int],
    on_outcome: OnOutcome,
    on_back: Callable[[bytes], object],
) -> T8Way:
    """ConfigError; reads disk."""
    return T8Way(
        trigger,
        build_access(trigger),
        timeout_s=timeout_s,
        metrics=metrics,
        clock=clock,
        on_outcome=on_outcome,
        on_back=on_back,
    )
