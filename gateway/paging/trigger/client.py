"""Has the network trigger the device that an opaque id stands for, in its signalling (C10); must never let a network id
or a text reach a log, a metric, an error or a history.

Source: 3GPP TS 23.682 §5.2 (device triggering). How it gets into the network is its way's (T8, Tsp).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping

from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric
from gateway.model.notification import Notification
from gateway.model.outcome import Step
from gateway.model.ports import NotifierResult
from gateway.model.registration import App, Registration
from gateway.model.subscriber import Subscriber
from gateway.notifiers.upstream import Answer, Upstream, Verdict, build_limits
from gateway.paging.app_payload import AppPayload, build_payload
from gateway.paging.pager import Parts
from gateway.paging.trigger import errors
from gateway.paging.trigger.settings import NAME, build_port, check_settings
from gateway.paging.trigger.t8 import build_t8
from gateway.paging.trigger.tracking import Entry, Tracking
from gateway.paging.trigger.tsp import build_tsp
from gateway.paging.trigger.way import DeviceTrigger, OnOutcome, Outcome, Replacing, TriggerWay, Watching

#: how often what is overdue is looked for, where no trigger goes out
SWEEP_S = 5.0
#: devices asked about at a time after a trigger was not delivered; a further one waits for its own timer (counted)
MOST_ASKING = 64
#: what an outcome says of the device: it was not there
_AWAY = (Outcome.FAILED, Outcome.EXPIRED)

BuildWay = Callable[[OnOutcome], TriggerWay]


class TriggerNotifier:
    """Notifier port over a way into the network. Its queue is the caller's (delivery.notify_queue)."""

    name = NAME
    secrets: frozenset[str] = frozenset()

    def __init__(self, parts: Parts, build_way: BuildWay) -> None:
        self._trigger = parts.config.trigger
        self._metrics = parts.metrics
        self._push_ids: PushIds = parts.push_ids
        self._guard = parts.guard
        self._waiting = parts.waiting
        self._reports = parts.reports
        self._clock = parts.clock
        self._upstream = Upstream(self.name, build_limits(parts.config.delivery), parts.metrics, parts.clock)
        self._tracking = Tracking(self._trigger.outstanding, parts.metrics, parts.clock, self._on_silent)
        self._way = build_way(self._on_outcome)
        self._sweeping: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen now, so that what is wrong shows at the start. `notify` does it by itself."""
        if self._sweeping is None:
            self._way.start()
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="trigger-reports")

    def check(self, settings: Mapping[str, str]) -> None:
        check_settings(settings)

    def lane(self, app: App, registration: Registration) -> str:  # noqa: ARG002 - the port's signature
        """The network is the gateway's, and so is the credential there: all apps share a circuit."""
        return self._way.name

    async def notify(self, app: App, registration: Registration, notification: Notification) -> NotifierResult:
        self.start()
        port = build_port(app.notifiers.get(self.name, {}), self._trigger)

        async def send(subscriber: Subscriber) -> Answer:
            return await self._send(port, subscriber, registration, notification)

        lane = self.lane(app, registration)
        return await self._guard.page(self._upstream, lane, app, registration, send, wakes=True)

    # --- out

    async def _send(
        self, port: int, subscriber: Subscriber, registration: Registration, notification: Notification
    ) -> Answer:
        seq = self._reports.delivery_of(notification, registration.number) if self._reports is not None else -1
        left_s = notification.expires_s - self._clock() // 1000
        validity_s = min(max(left_s, self._trigger.validity_min_s), self._trigger.validity_max_s)
        until_ms = self._clock() + int((validity_s + self._trigger.report_s) * 1000)
        opaque = registration.addresses[self.name]
        old = self._tracking.newest(registration.number) if self._trigger.replace else None
        if old is not None and old.external_id != opaque:
            old = None  # it went to whom the registration stood for before
        entry = self._tracking.open(seq, registration.number, notification.app, opaque, until_ms)
        trigger = DeviceTrigger(
            reference=entry.reference,
            payload=self._build_payload(registration, notification),
            port=port,
            validity_s=validity_s,
            is_urgent=notification.urgency >= 3,
            external_id=opaque,
        )
        was_refused = True
        try:
            answer, has_replaced = await self._ask(old, subscriber, trigger)
            was_refused = answer.row.verdict is not Verdict.OK
        except (TimeoutError, asyncio.CancelledError):
            was_refused = False  # it may have been taken: its report is listened for
            raise
        finally:
            if was_refused:
                self._tracking.drop(entry)
        if answer.row is errors.UNREACHABLE:
            self._look_for(entry)
        if not was_refused:
            self._tracking.taken(entry)
            if has_replaced and old is not None and self._tracking.take(old.reference) is not None:
                self._tell(old, "replaced", "")
        return answer

    async def _ask(self, old: Entry | None, subscriber: Subscriber, trigger: DeviceTrigger) -> tuple[Answer, bool]:
        if old is not None and isinstance(self._way, Replacing):
            return await self._way.replace(old.reference, subscriber, trigger)
        return await self._way.send(subscriber, trigger), False

    def _build_payload(self, registration: Registration, notification: Notification) -> bytes:
        content = notification.content
        payload = AppPayload(
            push_id=base64.urlsafe_b64decode(self._push_ids.build(notification.app, notification.push_seq) + "=="),
            token=registration.token,
            expires_s=notification.expires_s,
            urgency=notification.urgency,
            title=content.title,
            text=content.text,
            is_cut=content.data != b"",
        )
        return build_payload(payload, self._trigger.payload_bytes)

    # --- back

    def _on_outcome(self, reference: int, outcome: Outcome, detail: str) -> None:
        entry = self._tracking.take(reference)
        if entry is None:
            self._metrics.count(Metric.TRIGGER_REPORTS, label="late")
            return
        self._tell(entry, outcome.value, detail)
        if outcome in _AWAY:
            self._look_for(entry)

    def _on_silent(self, entry: Entry) -> None:
        self._tell(entry, Outcome.UNCONFIRMED.value, "no report")

    def _tell(self, entry: Entry, what: str, detail: str) -> None:
        self._metrics.count(Metric.TRIGGER_REPORTS, label=what)
        if self._reports is not None and entry.seq >= 0:
            self._reports.report(entry.seq, entry.registration, Step(self._clock(), what, self.name, detail))

    def _look_for(self, entry: Entry) -> None:
        """The device is away: what waits for it goes when the network says that it is back."""
        if len(self._asking) >= MOST_ASKING:
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="trigger asking")
            return
        task = asyncio.get_running_loop().create_task(self._await_back(entry), name="trigger-watch")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _await_back(self, entry: Entry) -> None:
        subscriber = await self._guard.resolve(entry.external_id, entry.app)
        if subscriber is None:
            return
        self._waiting.add(subscriber, entry.registration)
        if isinstance(self._way, Watching):
            await self._way.watch(subscriber, entry.external_id)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._tracking.sweep()

    async def close(self) -> None:
        tasks = [*self._asking, *([self._sweeping] if self._sweeping is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._way.close()


def _find_way(parts: Parts) -> BuildWay | None:
    """None: the configuration names none."""
    trigger = parts.config.trigger

    def over_t8(on_outcome: OnOutcome) -> TriggerWay:
        return build_t8(
            trigger,
            timeout_s=parts.config.delivery.notifier_timeout_s,
            metrics=parts.metrics,
            clock=parts.clock,
            on_outcome=on_outcome,
            on_back=parts.waiting.back,
        )

    node = parts.diameter
    if trigger.way == "tsp" and node is not None:
        return lambda on_outcome: build_tsp(parts.config, node, on_outcome)
    return over_t8 if trigger.way == "t8" and trigger.t8 else None


def build_trigger(parts: Parts) -> TriggerNotifier | None:
    """As `trigger` says, None where it names no way into the network. ConfigError; reads disk."""
    build_way = _find_way(parts)
    return TriggerNotifier(parts, build_way) if build_way is not None else None
