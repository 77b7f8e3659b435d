"""The table's hands: gathers the facts, asks the policy, executes its actions in order; must never decide by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

from gateway.config.sections import Config
from gateway.delivery import chain
from gateway.delivery.caps import DeviceCaps
from gateway.delivery.forms import build_notify, goes_light
from gateway.delivery.holds import quiet_hold, spread_hold, spread_retry
from gateway.delivery.notify_queue import Call, Job, NotifyQueue
from gateway.delivery.policy import Action, Facts, decide
from gateway.delivery.trails import Remembered, Trail, UnderWay
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import SEQ_SHIFT
from gateway.model.frames import Urgency
from gateway.model.notification import Notification, said_to
from gateway.model.outcome import CLOSING, Event, Outcome, State, Step
from gateway.model.ports import Delivery, Directory, Edge, Journal, Notifier, NotifierResult
from gateway.model.registration import Registration, build_token

#: failures for now of the notifiers of one delivery that were its message's or its address's, after which none is tried
#: again
MAX_TRIES = 5
#: retries after which the history has no more lines of notifiers that fail for now again
MAX_TOLD = 12
#: the retry pause doubles up to this many times delivery.retry_ms
MAX_BACKOFF = 16
#: the longest pause a notifier may ask for
MAX_RETRY_AFTER_MS = 3_600_000
#: what RAM remembers of unusual deliveries (trails.py says what an eviction costs)
MAX_TRAILS = 200_000
MAX_FETCHED = 65_536
MAX_BRIEFS = 262_144

#: the gateway's own channel in a history
EDGE = "edge"

_SENDS = frozenset((Action.SEND, Action.SEND_AGAIN, Action.SEND_BODY))
_USES_CHAIN = frozenset(
    (
        Event.ROUTE,
        Event.BACK,
        Event.LOST,
        Event.ACK_TIMEOUT,
        Event.NOTIFIER_RETRY,
        Event.NOTIFIER_DEAD,
        Event.NOTIFIER_TIMEOUT,
    )
)
#: where the device is there and wants it, the table does not look at the notifiers (checked by its test)
_CHANNEL_FIRST = frozenset((Event.ROUTE, Event.BACK, Event.LOST, Event.NOTIFIER_TIMEOUT))
#: what sends a delivery that was not sent before
_LOOKS = frozenset((Event.ROUTE, Event.BACK, Event.FETCH))
_FAILED = frozenset((Event.NOTIFIER_RETRY, Event.NOTIFIER_DEAD))
_ENDS = frozenset((Event.ACK, Event.EXPIRE, Event.RECALL, Event.REPLACE, Event.REVOKE))


class Sent(IntEnum):
    """What became of the channel when an event was applied."""

    NOTHING = 0  # the event did not lead to a send
    QUEUED = 1
    REFUSED = 2  # no link, or no room


class Executor:
    """Applies events to deliveries. Loop thread only; one event is carried out whole before the next."""

    def __init__(
        self,
        *,
        edge: Edge,
        journal: Journal,
        directory: Directory,
        notifiers: Mapping[str, Notifier],
        config: Config,
        metrics: Metrics,
        clock: Callable[[], int],
        is_recalled: Callable[[int], bool],
    ) -> None:
        self._is_recalled = is_recalled  # a broadcast, by its sequence
        self._first_new = journal.next_seq
        self._edge = edge
        self._journal = journal
        self._directory = directory
        self._metrics = metrics
        self._clock = clock
        self._retry_ms = config.delivery.retry_ms
        self._inline_bytes = config.delivery.inline_bytes
        self._notifiers = notifiers
        self._queues = {
            name: NotifyQueue(
                notifier,
                delivery=config.delivery,
                load=self._load_call,
                on_result=self._on_notifier_result,
                on_gone=self._on_gone,
                on_room=self._on_room,
                metrics=metrics,
                clock=clock,
            )
            for name, notifier in notifiers.items()
        }
        self._trails: Remembered[Trail] = Remembered(MAX_TRAILS, metrics, "trail", self._on_forgotten)
        self._under_way = UnderWay()
        self._caps = DeviceCaps()
        self._fetched: Remembered[bool] = Remembered(MAX_FETCHED, metrics, "fetched")
        #: notifications that nothing may leave of before their commit
        self.held: set[int] = set()
        #: deliveries that are to be looked at when it is certain who is connected
        self.unsure: set[int] = set()
        #: notification → (app, goes light), so that an ack needs no read of the journal
        self._briefs: dict[int, tuple[str, bool]] = {}

    @property
    def notifiers(self) -> Mapping[str, Notifier]:
        """What a fallback chain may hold, by name."""
        return self._notifiers

    async def drain(self, seconds: float) -> None:
        """No call of a notifier begins any more; those under way have so long to end."""
        await asyncio.gather(*(queue.drain(seconds) for queue in self._queues.values()))

    async def close(self) -> None:
        await asyncio.gather(*(queue.close() for queue in self._queues.values()))

    def apply(self, seq: int, event: Event) -> Sent:
        """Let an event happen to a delivery; too late where it has ended."""
        delivery = self._journal.get(seq)
        notification = self._journal.notification(delivery.notification) if delivery is not None else None
        if delivery is None or notification is None:
            self._metrics.count(Metric.EVENTS_IGNORED, label=event.name.lower())
            return Sent.NOTHING
        return self.carry_out(delivery, notification, event)

    def note_underway(self, seq: int, registration: int) -> None:
        """Its link has it. Where an owner before this one sent it, what ends it has to find it sent. One that
        waits was sent by us: its ack time is over, and what it waits for sends it again."""
        delivery = self._journal.get(seq)
        if delivery is not None and delivery.state == State.ACCEPTED and delivery.registration == registration:
            self.apply(seq, Event.UNDERWAY)

    def carry_out(
        self,
        delivery: Delivery,
        notification: Notification,
        event: Event,
        *,
        channel: str = EDGE,
        detail: str = "",
        after_ms: int = 0,
    ) -> Sent:
        # It may have been taken back, and what grew out of it not found yet: a restart came between.
        if notification.broadcast and event not in _ENDS and self._is_recalled(notification.broadcast):
            event = Event.RECALL
        if event is Event.LOST and delivery.state == State.ACCEPTED:
            event = Event.ROUTE  # an owner before this one sent it: it is new here
        if self.held and event in _LOOKS and delivery.notification in self.held:
            return Sent.NOTHING
        seq, registration = delivery.seq, delivery.registration
        if event is Event.ROUTE and not self._edge.is_certain and not self._edge.is_connected(registration):
            self.unsure.add(seq)  # no notifier, and no end of TTL 0, for one that may be there
            return Sent.NOTHING
        now = self._clock()
        facts, notifier = self._facts(delivery, notification, event, now, channel)
        old = State(delivery.state)
        is_first = event is Event.ROUTE and old is State.ACCEPTED and self._is_new(seq)
        if is_first and not self._is_allowed(notification, registration, now):
            event = Event.LIMIT
        state, actions = decide(old, event, facts)
        hop = delivery.hop + (Action.NOTIFY in actions)
        if Action.REOPEN in actions:
            hop = self._reopened(delivery, channel)
        if not state.is_final and (state is not old or hop != delivery.hop):
            self._journal.set_state(seq, state, hop)
        sent = Sent.NOTHING
        for action in actions:
            if action in _SENDS:
                sent = self._send(delivery, notification, action)
            elif action is Action.SETTLE:
                self._settle(delivery, notification, state, now)
            elif action is Action.NOTIFY:
                self._notify(delivery, notification, notifier)
            elif action is Action.CANCEL:
                self._edge.recall(registration, seq)
            elif action is Action.ARM_RECHECK:
                self._journal.arm(seq, now + notification.notifier_ack_ms)  # B5
            elif action is Action.ARM_RETRY:
                if not self._waits_for_room(delivery, notification):
                    self._arm_retry(seq, now, after_ms, is_spread=channel != EDGE)
            elif action is Action.IGNORE:
                self._metrics.count(Metric.EVENTS_IGNORED, label=event.name.lower())
            elif action is not Action.REOPEN:
                self._step(delivery, notification, action, now, channel, detail)
        if state is State.WAITING and (until := self._held_until(delivery, notification, now)):
            self._journal.arm(seq, until)
        return sent

    def _held_until(self, delivery: Delivery, notification: Notification, now: int) -> int:
        """Unix ms until which nothing of it is to be sent, by no channel; 0: nothing holds it back."""
        cohort = self._directory.cohort(delivery.registration)
        if not notification.over_s and not cohort.quiet:
            return 0
        return max(quiet_hold(notification, cohort, now), spread_hold(notification, delivery.seq, now))

    def _is_new(self, seq: int) -> bool:
        """Since the start: what the journal held then was let through when it came."""
        return seq >= self._first_new and seq >> SEQ_SHIFT == self._first_new >> SEQ_SHIFT

    def _is_allowed(self, notification: Notification, registration: int, now: int) -> bool:
        app = self._directory.app(notification.app)
        counts = not notification.broadcast and notification.urgency < Urgency.HIGH
        if app is None or not counts or not (app.device_per_hour or app.device_per_day):
            return True
        return self._caps.admit(app, registration, now)

    def _facts(
        self, delivery: Delivery, notification: Notification, event: Event, now: int, channel: str
    ) -> tuple[Facts, str]:
        """And the notifier that would be next."""
        registration = delivery.registration
        connected = self._edge.is_connected(registration)
        is_held = bool(self._held_until(delivery, notification, now))
        wanted = not is_held and (not connected or notification.urgency >= self._edge.urgency_floor(registration))
        notifier, tries = "", False
        if event in _USES_CHAIN and not is_held and not (connected and wanted and event in _CHANNEL_FIRST):
            trail = self._trails.get(delivery.seq)
            notifier = self._next_notifier(delivery, notification, trail, "" if channel == EDGE else channel)
            if event is Event.NOTIFIER_RETRY:
                tries = trail is None or trail.tries < MAX_TRIES
            else:
                tries = trail is not None and bool(trail.later) and trail.tries < MAX_TRIES
            is_forgotten = event in _FAILED and self._under_way.take_forgotten(delivery.seq)
            if is_forgotten and notifier and delivery.state == State.NOTIFIED:
                # Who failed before it was forgotten, so it is as the last of its chain: it waits. Asked at once they
                # would go round without a pause for as long as there is no room to remember them.
                self._trail(delivery.seq).full = ""
                notifier, tries = "", True
        asked = delivery.seq in self._fetched
        facts = Facts(
            connected=connected,
            wanted=wanted,
            light=not asked and goes_light(notification, self._inline_bytes),
            more_notifiers=bool(notifier),
            tries_left=tries,
            ttl_left=notification.expires_s * 1000 > now,
            asked=asked,
        )
        return facts, notifier

    def _send(self, delivery: Delivery, notification: Notification, action: Action) -> Sent:
        seq, registration = delivery.seq, delivery.registration
        token = notification.target.token
        if not token:
            record = self._directory.registration(registration)
            if record is None:  # revoked this moment; REVOKE is on its way
                return Sent.REFUSED
            token = build_token(record.token)
        goes = goes_light(notification, self._inline_bytes)
        if action is Action.SEND_BODY and goes:
            self._fetched.put(seq, True)
        light = goes and seq not in self._fetched
        self._remember_brief(notification, goes)
        locale = self._directory.cohort(registration).locale if notification.content.localized else ""
        frame = build_notify(notification, seq, token, light=light, locale=locale)
        if self._edge.notify(registration, frame, seq, notification.ack_ms, again=action is not Action.SEND):
            return Sent.QUEUED
        # Route, store, look again: nothing was queued, so nothing will be reported.
        if not self._edge.is_connected(registration):
            self.apply(seq, Event.LOST)
            return Sent.REFUSED
        self.apply(seq, Event.SPILLED)
        self._edge.await_room(registration)
        return Sent.REFUSED

    def _notify(self, delivery: Delivery, notification: Notification, name: str) -> None:
        queue = self._queues.get(name)
        job = Job(delivery.seq, name)
        self._under_way.begin(*job)
        if queue is None:
            self._on_notifier_result(job, NotifierResult(ok=False, dead=True, detail="not configured"))
            return
        refused = queue.offer(job, notification.app, self._lane(name, delivery, notification))
        if refused is not None:
            if not refused.retry_after_ms:
                self._trail(job.seq).full = name
            self._on_notifier_result(job, refused)

    def _lane(self, name: str, delivery: Delivery, notification: Notification) -> str:
        """One that is gone by now waits in a lane of its own: its turn ends it."""
        app, record = self._directory.app(notification.app), self._directory.registration(delivery.registration)
        return self._queues[name].lane(app, record) if app is not None and record is not None else ""

    def _step(
        self, delivery: Delivery, notification: Notification, action: Action, now: int, channel: str, detail: str
    ) -> None:
        what = action.removeprefix("step: ")
        if action is Action.STEP_ACK_TIMEOUT:
            self._trail(delivery.seq).timed_out = True
            self._journal.step(delivery.seq, Step(now - notification.ack_ms, "sent", EDGE))
        elif action is Action.STEP_RECHECK:
            channel = EDGE
        elif action is Action.STEP_NOTIFIER_FAILED and self._is_told(delivery.seq, channel, detail):
            return
        self._journal.step(delivery.seq, Step(now, what, channel, detail))
        self._metrics.count(Metric.DELIVERY_STEPS, label=what)

    def _is_told(self, seq: int, channel: str, detail: str) -> bool:
        """An outage of days must not take the room for what comes after it, nor a queue that is full again."""
        trail = self._trails.get(seq)
        if trail is None:
            return False
        is_full = trail.full == channel
        if trail.retries < MAX_TOLD and not is_full:
            return False
        return any(
            step.channel == channel and step.what == "notifier_failed" and (step.detail == detail or not is_full)
            for step in self._journal.steps_of(seq)
        )

    def _trail(self, seq: int) -> Trail:
        trail = self._trails.get(seq)
        if trail is None:
            trail = Trail()
            self._trails.put(seq, trail)
        return trail

    def _on_forgotten(self, seq: int) -> None:
        """As after a restart: of its notifiers those are used up that took it, and those that are asked just now."""
        delivery = self._journal.get(seq)
        if delivery is not None:
            took = chain.count_took(self._journal.steps_of(seq))
            under_way = self._under_way.note_forgotten(seq)
            self._journal.set_state(seq, delivery.state, min(took + under_way, delivery.hop))

    def _arm_retry(self, seq: int, now: int, after_ms: int, *, is_spread: bool) -> None:
        """`is_spread`: what failed together is not tried together."""
        trail = self._trail(seq)
        pause = self._retry_ms * min(1 << min(trail.retries, 16), MAX_BACKOFF)
        trail.retries += not trail.full  # it says nothing of how the next try will end
        trail.full, trail.is_kept = "", False
        self._journal.arm(seq, now + max(pause, after_ms) + (spread_retry(pause, seq) if is_spread else 0))

    def _waits_for_room(self, delivery: Delivery, notification: Notification) -> bool:
        """Its notifier's queue says when there is room: a burst must not wait for timers while the upstream idles."""
        seq = delivery.seq
        trail = self._trails.get(seq)
        # On a live link it would be sent again at once.
        if trail is None or not trail.full or self._edge.is_connected(delivery.registration):
            return False
        if not self._queues[trail.full].keep(seq, notification.app, self._lane(trail.full, delivery, notification)):
            return False
        now = self._journal.get(seq)
        if trail.is_blank(trail.full) and (now is None or not now.hop):
            self._trails.pop(seq)  # nobody else is used up either
        trail.full, trail.is_kept = "", True
        return True

    def _on_room(self, seq: int) -> None:
        delivery, trail = self._journal.get(seq), self._trails.get(seq)
        # One that was tried since has a timer of its own.
        if delivery is not None and delivery.state == State.WAITING and (trail is None or trail.is_kept):
            self.apply(seq, Event.ROUTE)

    def _settle(self, delivery: Delivery, notification: Notification, state: State, now: int) -> None:
        step = Step(now, CLOSING[state], EDGE if state is State.ACKED else "")
        self._journal.settle(
            [Outcome(delivery.seq, delivery.notification, delivery.registration, notification.app, state, now, [step])]
        )
        self._metrics.count(Metric.DELIVERIES, label=state.name.lower())
        self.forget(delivery.seq, delivery.notification)

    def forget(self, seq: int, notification: int) -> None:
        if self._trails:
            self._trails.pop(seq)
        if self._fetched:
            self._fetched.pop(seq)
        if seq == notification:
            self._briefs.pop(seq, None)

    def brief(self, seq: int) -> tuple[str, bool]:
        brief = self._briefs.get(seq)
        if brief is not None:
            return brief
        notification = self._journal.notification(seq)
        if notification is None:
            return "", False
        return self._remember_brief(notification, goes_light(notification, self._inline_bytes))

    def _remember_brief(self, notification: Notification, light: bool) -> tuple[str, bool]:
        brief = self._briefs.get(notification.seq)
        if brief is None:
            if len(self._briefs) >= MAX_BRIEFS:
                del self._briefs[next(iter(self._briefs))]
            brief = self._briefs[notification.seq] = (notification.app, light)
        return brief

    def is_light(self, seq: int, light: bool) -> bool:
        """Was the last frame of this delivery its light form?"""
        return light and seq not in self._fetched

    def was_timed_out(self, seq: int) -> bool:
        """A link took it, and no ack came."""
        trail = self._trails.get(seq)
        return trail is not None and trail.timed_out

    def was_spilled(self, seq: int) -> bool:
        """A link had no room for it, and that was the last to be heard of it."""
        steps = self._journal.steps_of(seq)
        return bool(steps) and steps[-1].what == "spilled"

    def was_tried(self, seq: int) -> bool:
        """In vain, since the start."""
        return seq in self._trails

    @property
    def has_trails(self) -> bool:
        return bool(self._trails)

    # --- notifiers

    def _load_call(self, job: Job) -> Call | None:
        """What to call the notifier with; None where the call is not to be made."""
        call = None
        try:
            call = self._find_call(job)
        finally:
            if call is None:
                self._under_way.end(*job)
                self._under_way.tidy(job.seq)
        return call

    def _find_call(self, job: Job) -> Call | None:
        delivery = self._journal.get(job.seq)
        if delivery is None:
            return None
        is_elsewhere = delivery.state == State.NOTIFIED and not self._under_way.is_last(*job)
        if is_elsewhere or delivery.state in (State.SENT, State.ANNOUNCED):
            # Given to another, or on the channel again: this one was not asked, and is not used up.
            self._journal.set_state(job.seq, delivery.state, max(0, delivery.hop - 1))
            return None
        notification = self._journal.notification(delivery.notification)
        registration = self._directory.registration(delivery.registration)
        if registration is None or registration.revoked_at:
            self.apply(job.seq, Event.REVOKE)
            return None
        if registration.signed_out:  # A5, while the call waited
            self._on_notifier_result(job, NotifierResult(ok=False, detail="signed out", asked=False))
            return None
        app = self._directory.app(notification.app) if notification is not None else None
        if notification is None or app is None:
            return None
        self._under_way.begin(*job)
        return app, registration, said_to(notification, registration.locale)

    def _on_notifier_result(self, job: Job, result: NotifierResult) -> None:
        try:
            self._hear_result(job, result)
        finally:
            self._under_way.tidy(job.seq)

    def _hear_result(self, job: Job, result: NotifierResult) -> None:
        is_last = self._under_way.is_last(*job)
        self._under_way.end(*job)
        delivery = self._journal.get(job.seq)
        if delivery is None:
            return
        notification = self._journal.notification(delivery.notification)
        if notification is None:
            return
        if not is_last and delivery.state == State.NOTIFIED:
            # The delivery has moved on to another notifier: only its history and its trail hear of this one.
            if not result.ok:
                self._trail(job.seq).failed(job.notifier, dead=result.dead)
            step = Action.STEP_NOTIFIED if result.ok else Action.STEP_NOTIFIER_FAILED
            self._step(delivery, notification, step, self._clock(), job.notifier, result.detail)
            return
        event = Event.NOTIFIER_OK if result.ok else Event.NOTIFIER_DEAD if result.dead else Event.NOTIFIER_RETRY
        if event is Event.NOTIFIER_OK:
            self._under_way.pass_on(job.seq)
        elif event is Event.NOTIFIER_RETRY:
            trail = self._trail(job.seq)
            if result.asked:
                trail.full = ""
            trail.tries += result.asked and not result.is_lanes
            trail.failed(job.notifier, dead=False)
        elif event is Event.NOTIFIER_DEAD and self._is_to_name(job.seq):
            self._trail(job.seq).failed(job.notifier, dead=True)
        self.carry_out(
            delivery,
            notification,
            event,
            channel=job.notifier,
            detail=result.detail,
            after_ms=min(max(result.retry_after_ms, result.hold_ms), MAX_RETRY_AFTER_MS),
        )

    def _is_to_name(self, seq: int) -> bool:
        """Does its number not say which notifier is dead? Another failed before, perhaps in front of a restart."""
        return seq in self._trails or any(step.what == "notifier_failed" for step in self._journal.steps_of(seq))

    def _on_gone(self, channel: str, registration: Registration, result: NotifierResult) -> NotifierResult | None:
        """The address it was asked for is dead for good: its provider hears of it, and it is not asked again. None: it
        has another by now, of which nothing is known."""
        number, asked = registration.number, registration.addresses.get(channel, "")
        record = self._directory.registration(number)
        address = "" if record is None else record.addresses.get(channel, "")
        if address and address != asked:
            return None
        if not self._directory.address_gone(number, channel, asked, result.gone_at_ms) and address:
            return result._replace(dead=False, gone=False)  # registered since
        return result

    def _next_notifier(self, delivery: Delivery, notification: Notification, trail: Trail | None, answered: str) -> str:
        """Of its chain as it is now; empty: none is left."""
        names = self._chain(notification, delivery.registration)
        if not names or delivery.hop >= chain.MAX_HOPS:
            return ""
        under_way = self._under_way.names(delivery.seq)
        used: Sequence[str] = under_way
        if delivery.hop:
            used = chain.used_up(
                self._journal.steps_of(delivery.seq),
                delivery.hop,
                (answered, *under_way) if answered else under_way,
                failed=(*trail.later, *trail.dead) if trail is not None else (),
                opened=trail.opened if trail is not None else (),
            )
        return chain.find_next(names, (*used, *trail.dead) if trail is not None else used)

    def _reopened(self, delivery: Delivery, channel: str) -> int:
        """How many notifiers stay used up: those that took it, are dead or are under way. One whose queue is full is
        waited for, and the others are asked again when it has failed as well."""
        trail = self._trail(delivery.seq)
        opened = trail.reopen(channel if trail.full == channel else "")
        took = chain.count_took(self._journal.steps_of(delivery.seq))
        return max(min(took, delivery.hop), delivery.hop - opened)

    def _chain(self, notification: Notification, registration: int) -> Sequence[str]:
        """Notifiers in order: the push's own, else the registration's, else the app's; none while it is signed out."""
        record = self._directory.registration(registration)
        if record is not None and record.signed_out:
            return ()  # A5: another account uses the device, and a notifier would show this one's there
        if notification.fallback is not None:
            return notification.fallback
        if record is not None and record.fallback is not None:
            return record.fallback
        app = self._directory.app(notification.app)
        return app.fallback if app is not None else ()
