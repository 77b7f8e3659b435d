"""Executes what the policy decides, and hears what edge and notifiers report; must never decide by itself.

Races are closed by order: route, store, look again. A refused send is looked at again on the spot; a link that goes
down after the send is reported by the edge as lost; a device that comes back is reported as ready.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import structlog

from gateway.config.sections import Config
from gateway.delivery.backlog import SLICE, Backlog
from gateway.delivery.broadcast import BroadcastRouter
from gateway.delivery.executor import EDGE, Executor, Sent
from gateway.delivery.recalls import Recalls
from gateway.metrics import Metric, Metrics
from gateway.model.notification import Notification
from gateway.model.outcome import Event, Outcome, State, Step
from gateway.model.ports import ACK_SHOWN, Ack, Broadcasts, Delivery, Directory, Edge, Journal, Notifier, Schedules

TICK_S = 0.1
#: timers handled in one slice of a tick
DUE_SLICE = 1_000
#: of what waits for devices that are ready, looked at in one slice
READY_SLICE = 2_000
#: a timer of what waits for its commit is looked at again after this time
HELD_MS = 100

_LOST_LOOK: dict[State, Event] = {
    State.ACCEPTED: Event.ROUTE,
    State.SENT: Event.LOST,
    State.WAITING: Event.ROUTE,  # its retry timer was in RAM
}

_log = structlog.get_logger(__name__)


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class Dispatcher:
    """EdgeEvents, the timers, the notifiers' results, recalls. Everything on the loop thread; nothing blocks it."""

    def __init__(
        self,
        *,
        edge: Edge,
        journal: Journal,
        broadcasts: Broadcasts,
        schedules: Schedules,
        directory: Directory,
        notifiers: Mapping[str, Notifier],
        config: Config,
        metrics: Metrics,
        clock: Callable[[], int] = unix_ms,
    ) -> None:
        self._edge = edge
        self._journal = journal
        self._broadcasts = broadcasts
        self._schedules = schedules
        self._directory = directory
        self._metrics = metrics
        self._clock = clock
        self._burst = config.edge.window
        self.backlog = Backlog()
        self.broadcast = BroadcastRouter(
            edge=edge,
            journal=journal,
            broadcasts=broadcasts,
            directory=directory,
            backlog=self.backlog,
            metrics=metrics,
            inline_bytes=config.delivery.inline_bytes,
            clock=clock,
            adopt=self._adopt,
            take_back=self.take_back,
        )
        self._executor = Executor(
            edge=edge,
            journal=journal,
            directory=directory,
            notifiers=notifiers,
            config=config,
            metrics=metrics,
            clock=clock,
            is_recalled=broadcasts.is_recalled,
        )
        self._early: dict[int, asyncio.Future[None]] = {}
        self._recalls = Recalls(
            journal=journal,
            schedules=schedules,
            broadcast=self.broadcast,
            executor=self._executor,
            backlog=self.backlog,
            clock=clock,
        )
        self._ready: deque[tuple[int, frozenset[tuple[int, int]]]] = deque()
        self._ready_working = False
        self._reachable: deque[int] = deque()  # at most those whose return a notifier waits for
        self._reachable_working = False
        #: registrations that lost a link with something in flight, each once
        self._cut_off: deque[int] = deque()
        self._is_cut_off: set[int] = set()
        self._cut_off_working = False
        self._task: asyncio.Task[None] | None = None
        # Those who were connected before the restart are back by then; only then is a device "disconnected" (B4).
        self._resume_at_ms: int | None = clock() + config.delivery.notifier_ack_ms
        self._resume_below = journal.next_seq
        self._resume_left = journal.pending_count()

    @property
    def notifiers(self) -> Mapping[str, Notifier]:
        """What a fallback chain may hold, by name."""
        return self._executor.notifiers

    # --- life

    def start(self) -> None:
        """Take up what the journal holds and run the timers."""
        self.broadcast.load()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="delivery-timers")

    async def drain(self, seconds: float) -> None:
        await self._executor.drain(seconds)

    async def close(self) -> None:
        """Stop timers and notifiers; what is pending stays in the journal."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.backlog.close()
        await self._executor.close()

    async def _run(self) -> None:
        while True:
            try:
                more = self.tick()
            except Exception:
                _log.exception("tick_failed")
                more = False
            await asyncio.sleep(0 if more else TICK_S)

    def tick(self) -> bool:
        """Fire what is due, at most one slice; True where more is due now."""
        now = self._clock()
        due = self._journal.due(now, DUE_SLICE)
        for seq in due:
            self._on_due(seq, now)
        self.broadcast.expire(now)
        self.broadcast.tick(now)
        if self._executor.unsure and self._edge.is_certain:
            self.backlog.add(self._look_at_unsure())
        if self._resume_at_ms is not None and now >= self._resume_at_ms:
            self._resume_at_ms = None
            self.broadcast.resume()
            if self._resume_left:
                self.backlog.add(self._resume())
        return len(due) >= DUE_SLICE

    def _on_due(self, seq: int, now: int) -> None:
        delivery = self._journal.get(seq)
        if delivery is None:
            return
        if delivery.notification in self._executor.held or seq in self._executor.unsure:  # what it waits for decides
            self._journal.arm(seq, now + HELD_MS)
            return
        expires_ms = delivery.expires_s * 1000
        if now >= expires_ms:
            if not self._has_last_chance(delivery, now):
                self._executor.apply(seq, Event.EXPIRE)
        elif delivery.state == State.NOTIFIED:
            self._executor.apply(seq, Event.NOTIFIER_TIMEOUT)
        elif delivery.state in (State.WAITING, State.ACCEPTED):
            self._executor.apply(seq, Event.ROUTE)

    def _has_last_chance(self, delivery: Delivery, now: int) -> bool:
        """What was sent before its expiry is given its ack time; TTL 0 handed to a notifier that notifier's too."""
        if delivery.state not in (State.SENT, State.NOTIFIED):
            return False
        notification = self._journal.notification(delivery.notification)
        if notification is None:
            return False
        if delivery.state == State.SENT:
            return now < delivery.expires_s * 1000 + notification.ack_ms + 1_000
        is_ttl_0 = notification.expires_s <= notification.accepted_ms // 1000
        return is_ttl_0 and now < notification.accepted_ms + notification.ack_ms + notification.notifier_ack_ms

    def _look_at_unsure(self) -> Iterator[None]:
        """Who has no link now has none."""
        unsure, self._executor.unsure = sorted(self._executor.unsure), set()
        for start in range(0, len(unsure), SLICE):
            for seq in unsure[start : start + SLICE]:
                delivery = self._journal.get(seq)
                # for one that was bound meanwhile BACK is certain to come
                if delivery is not None and not self._edge.is_connected(delivery.registration):
                    self._executor.apply(seq, Event.ROUTE)
            yield

    def _resume(self) -> Iterator[None]:
        """After a restart: look once at what the journal held then, in slices. What came since had its look."""
        looked = 0
        for part in self._directory.everybody():
            for registration in part:
                for seq in self._journal.pending_of(registration, below=self._resume_below):
                    self._resume_left -= 1
                    delivery = self._journal.get(seq)
                    looked += SLICE // 10
                    if delivery is None:
                        continue
                    event = _LOST_LOOK.get(State(delivery.state))
                    if delivery.state == State.WAITING and self._executor.was_tried(seq):
                        continue  # since the start: it has a timer, or had all its tries
                    if event is not None and not self._edge.is_connected(registration):
                        self._executor.apply(seq, event)
                if self._resume_left <= 0:
                    return
                looked += 1
                if looked >= SLICE:
                    looked = 0
                    yield
            yield

    # --- pushes

    def dispatch(self, notification: Notification, registrations: Sequence[int]) -> None:
        """First look at each delivery of a notification that was just appended; large audiences in slices."""
        if not notification.count:
            if registrations:
                self._route(notification, notification.seq)
            return
        first = notification.seq + 1
        for i in range(min(SLICE, len(registrations))):
            self._route(notification, first + i)
        if len(registrations) > SLICE:
            self.backlog.add(self._dispatch_rest(notification, len(registrations)), notification.app)

    def _dispatch_rest(self, notification: Notification, count: int) -> Iterator[None]:
        first = notification.seq + 1
        for start in range(SLICE, count, SLICE):
            for i in range(start, min(start + SLICE, count)):
                self._route(notification, first + i)
            yield

    def _route(self, notification: Notification, seq: int) -> None:
        delivery = self._journal.get(seq)
        if delivery is not None and delivery.state == State.ACCEPTED:
            self._executor.carry_out(delivery, notification, Event.ROUTE)

    def look_at(self, seqs: Sequence[int], app: str) -> None:
        """First look at deliveries of a batch for which it was not plain."""
        for seq in seqs[:SLICE]:
            self._executor.apply(seq, Event.ROUTE)
        if len(seqs) > SLICE:
            self.backlog.add(self._look_at_rest(seqs), app)

    def _look_at_rest(self, seqs: Sequence[int]) -> Iterator[None]:
        for start in range(SLICE, len(seqs), SLICE):
            for seq in seqs[start : start + SLICE]:
                delivery = self._journal.get(seq)
                if delivery is not None and delivery.state == State.ACCEPTED:
                    self._executor.apply(seq, Event.ROUTE)
            yield

    def take_back(self, deliveries: Sequence[tuple[int, int]]) -> None:
        """(sequence, registration) of deliveries whose commit failed: the journal has dropped them already."""
        for seq, registration in deliveries:
            self._edge.recall(registration, seq)
            self._executor.forget(seq, seq)

    def watch(self, seq: int, acked: asyncio.Future[None]) -> None:
        """Resolve the future when the device acks, where that is before the commit. `forget_watch` ends it."""
        self._early[seq] = acked

    def forget_watch(self, seq: int) -> None:
        self._early.pop(seq, None)

    def hold(self, notification: int) -> None:
        """Nothing of it goes out, not to a device that is back or asks for it either, until `release`."""
        self._executor.held.add(notification)

    def is_stopped(self, notification: int) -> bool:
        """Recalls.is_stopped"""
        return self._recalls.is_stopped(notification)

    def release(self, notification: int) -> bool:
        """True where it was held."""
        if notification not in self._executor.held:
            return False
        self._executor.held.remove(notification)
        return True

    def withdraw(self, notification: Notification, registrations: Sequence[int]) -> None:
        """The commit failed, the journal has dropped the rows: take back what was sent already."""
        first = notification.seq + 1 if notification.count else notification.seq
        for i, registration in enumerate(registrations):
            self._edge.recall(registration, first + i)
            self._executor.forget(first + i, notification.seq)

    def replace_older(self, notification: Notification, registrations: Sequence[int]) -> None:
        """Collapse: older pending ones with the key give way to this one, which is safe now (durable or acked)."""
        if len(registrations) > SLICE:
            self.backlog.add(self._replace_in_slices(notification, registrations), notification.app)
            return
        for registration in registrations:
            for older in self._journal.collapsed_by(registration, notification.collapse_key):
                if older < notification.seq:
                    self._executor.apply(older, Event.REPLACE)

    def _replace_in_slices(self, notification: Notification, registrations: Sequence[int]) -> Iterator[None]:
        for start in range(0, len(registrations), SLICE):
            self.replace_older(notification, registrations[start : start + SLICE])
            yield

    def look_again(self, registration: int) -> None:
        """What was held back for it may go now."""
        if self._edge.is_connected(registration):
            self._edge.await_room(registration)
        else:
            for seq in self._journal.pending_of(registration):
                delivery = self._journal.get(seq)
                if delivery is not None and delivery.state == State.WAITING:
                    self._executor.apply(seq, Event.ROUTE)
            self.broadcast.fall_back_late(registration)

    def revoke(self, registration: int) -> None:
        """Its token was revoked: what is pending for it ends."""
        for seq in self._journal.pending_of(registration):
            self._executor.apply(seq, Event.REVOKE)

    def recall_all(self, registration: int) -> None:
        """Whom it was for has left this device: what is pending for it is taken back, also what was sent and is not
        acked. In this turn, so that it is in one commit with what the caller writes."""
        for seq in self._journal.pending_of(registration):
            self._executor.apply(seq, Event.RECALL)

    async def recall(self, app: str, seq: int) -> int:
        """Recalls.recall"""
        return await self._recalls.recall(app, seq)

    def recall_broadcast(self, seq: int) -> None:
        """The fleet has taken it back: so do we, with what grew out of it."""
        self._recalls.recall_broadcast(seq)

    def _adopt(self, notification: Notification, sent: bool) -> None:
        """A broadcast that became a single delivery for this registration."""
        if sent:
            # Its ack time is over already; the table goes on from there (B3).
            self._journal.set_state(notification.seq, State.SENT, 0)
            self._executor.apply(notification.seq, Event.ACK_TIMEOUT)
        else:
            self._route(notification, notification.seq)

    # --- EdgeEvents

    def meant(self, seq: int, registrations: Sequence[int], *, flags: int) -> Sequence[int]:
        shown = bool(flags & ACK_SHOWN)
        if seq in self.broadcast:
            return self.broadcast.meant(seq, registrations, shown=shown)
        delivery = self._journal.get(seq)
        owner = delivery.registration if delivery is not None else self._journal.settled_for(seq) if shown else -1
        if owner in registrations:
            return (owner,)
        self._metrics.count(Metric.EVENTS_IGNORED, label="ack")
        return ()

    def on_acks(self, acks: Sequence[Ack]) -> None:
        outcomes: dict[int, Outcome] = {}
        of_broadcasts: list[Ack] = []
        for ack in acks:
            seq = ack.seq
            if seq in self.broadcast:
                of_broadcasts.append(ack)
                continue
            settled = outcomes.get(seq)
            delivery = None if settled else self._journal.get(seq)
            if delivery is None:
                self._on_ack_of_settled(ack, settled)
                continue
            if delivery.registration != ack.registration:
                self._count_foreign(ack)
                continue
            app, light = self._executor.brief(delivery.notification)
            if self._executor.is_light(seq, light) and not ack.whole:
                self._executor.apply(seq, Event.ACK_LIGHT)
                if ack.shown:
                    self._journal.step(seq, Step(ack.acked_ms, "shown", EDGE))
                continue
            # ACK settles every pending state, whatever the facts (checked by the table's test): no look-up here.
            steps = [Step(ack.acked_ms, "acked", EDGE, "" if ack.sent_ms else "late")]
            if ack.sent_ms:
                steps.insert(0, Step(ack.sent_ms, "sent", EDGE))
            if ack.shown:
                steps.append(Step(ack.acked_ms, "shown", EDGE))
            outcomes[seq] = Outcome(
                seq, delivery.notification, delivery.registration, app, State.ACKED, ack.acked_ms, steps
            )
        if outcomes:
            self._journal.settle(list(outcomes.values()))
            self._metrics.count(Metric.DELIVERIES, len(outcomes), "acked")
            for seq, outcome in outcomes.items():
                self._executor.forget(seq, outcome.notification)
                waiter = self._early.pop(seq, None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(None)
        if of_broadcasts:
            self.broadcast.on_acks(of_broadcasts)

    def _on_ack_of_settled(self, ack: Ack, settled: Outcome | None) -> None:
        if settled is not None and settled.registration != ack.registration:
            self._count_foreign(ack)
        elif not ack.shown:
            self._metrics.count(Metric.EVENTS_IGNORED, label="ack")
        elif settled is None:
            # The journal looks whether it is this registration's: sequences can be guessed.
            self._journal.amend(ack.seq, Step(ack.acked_ms, "shown", EDGE), ack.registration)
        elif settled.steps[-1].what != "shown":
            settled.steps.append(Step(ack.acked_ms, "shown", EDGE))

    def on_acks_of(self, seq: int, registrations: Sequence[int], at_ms: int) -> None:
        if seq in self.broadcast:
            self.broadcast.on_acks_in_time(seq, registrations, at_ms)
        else:
            self._metrics.count(Metric.EVENTS_IGNORED, len(registrations), "ack")

    def on_acks_settled(self) -> None:
        self._journal.acks_settled()

    def _count_foreign(self, ack: Ack) -> None:
        if ack.sent_ms:
            self._metrics.count(Metric.ACKS_FOREIGN)

    def on_fanned(self, seq: int, group: int, links: int) -> None:
        self._broadcasts.count_sent(seq, group, links)

    def on_ack_timeout(self, seq: int, registration: int) -> None:
        if seq in self.broadcast:
            self.broadcast.on_unacked(seq, registration, spilled=False)
        else:
            self._executor.apply(seq, Event.ACK_TIMEOUT)

    def on_lost(self, seq: int, registration: int, *, spilled: bool) -> None:
        if seq in self.broadcast:
            self.broadcast.on_unacked(seq, registration, spilled=spilled)
        else:
            self._executor.apply(seq, Event.SPILLED if spilled else Event.LOST)
        if not spilled and registration not in self._is_cut_off:
            self._is_cut_off.add(registration)
            self._cut_off.append(registration)
            if not self._cut_off_working:
                self._cut_off_working = True
                self.backlog.add(self._work_cut_off())

    def _work_cut_off(self) -> Iterator[None]:
        """What waited for room behind what was lost: nobody else tells of it that there is no link any more (B4)."""
        try:
            looked = 0
            while self._cut_off:
                registration = self._cut_off.popleft()
                self._is_cut_off.remove(registration)
                pending = () if self._edge.is_connected(registration) else self._journal.pending_of(registration)
                looked += 1
                for seq in pending:
                    try:
                        self._look_at_cut_off(seq)
                    except Exception:
                        _log.exception("cut_off_failed")  # a store that can not be read: the others have their turn
                    looked += 1
                    if looked >= SLICE:
                        looked = 0
                        yield
                        if self._edge.is_connected(registration):
                            break
                if looked >= SLICE:
                    looked = 0
                    yield
        finally:
            self._cut_off_working = False

    def _look_at_cut_off(self, seq: int) -> None:
        delivery = self._journal.get(seq)
        state = State.ACKED if delivery is None else delivery.state
        # ACCEPTED: since the start, when the device was there
        if state == State.ACCEPTED or (state == State.WAITING and self._executor.was_spilled(seq)):
            self._executor.apply(seq, Event.ROUTE)

    def on_ready(self, registrations: Sequence[int], in_flight: Collection[tuple[int, int]] = ()) -> None:
        for seq, registration in in_flight:
            # At once: what is heard of it before its turn comes below must find it sent.
            if seq not in self.broadcast:
                self._executor.note_underway(seq, registration)
        flights = frozenset(in_flight)
        if not self._ready_working and len(registrations) <= SLICE:
            looked = 0
            for place, registration in enumerate(registrations):
                if looked >= READY_SLICE:
                    registrations = registrations[place:]
                    break
                looked += 1 + self._send_waiting(registration, flights)
            else:
                return
        self._ready.extend((registration, flights) for registration in registrations)
        if not self._ready_working:
            self._ready_working = True
            self.backlog.add(self._work_ready())

    def _work_ready(self) -> Iterator[None]:
        try:
            while self._ready:
                looked = 0
                while self._ready and looked < READY_SLICE:
                    looked += 1 + self._send_waiting(*self._ready.popleft())
                yield
        finally:
            self._ready_working = False

    def _send_waiting(self, registration: int, flights: frozenset[tuple[int, int]]) -> int:
        """How many of what waits it had to look at."""
        pending = self._journal.pending_of(registration)
        broadcasts = self.broadcast.waiting(registration)
        if not pending and not broadcasts:
            return 0
        order = sorted(pending + broadcasts) if broadcasts else pending
        if self._executor.has_trails:
            # What a link took and did not ack must not keep the rest from the window.
            order = [s for s in order if not self._executor.was_timed_out(s)] + [
                s for s in order if self._executor.was_timed_out(s)
            ]
        room = self._edge.room(registration)
        for looked, seq in enumerate(order):
            if (seq, registration) in flights:
                continue
            if room <= 0:
                self._edge.await_room(registration)
                return looked
            if seq in self.broadcast:
                sent = self.broadcast.send_one(seq, registration)
                refused, queued = sent is False, sent is True
            else:
                result = self._executor.apply(seq, Event.BACK)
                refused, queued = result is Sent.REFUSED, result is Sent.QUEUED
            if refused:
                self._edge.await_room(registration)
                return looked
            room -= queued
        return len(order)

    def on_reachable(self, registration: int) -> None:
        """A notifier hears that a terminal which was absent is there again: what waits for it is tried now."""
        self._reachable.append(registration)
        if not self._reachable_working:
            self._reachable_working = True
            self.backlog.add(self._work_reachable())

    def _work_reachable(self) -> Iterator[None]:
        try:
            while self._reachable:
                pending = self._journal.pending_of(self._reachable.popleft())
                for start in range(0, len(pending), SLICE):
                    for seq in pending[start : start + SLICE]:
                        delivery = self._journal.get(seq)
                        if delivery is not None and delivery.state == State.WAITING:
                            self._executor.apply(seq, Event.ROUTE)
                    yield
        finally:
            self._reachable_working = False

    def on_fetch(self, registration: int, ids: Sequence[int]) -> tuple[int, bool]:
        if not ids:
            ids = sorted(self._journal.pending_of(registration) + self.broadcast.waiting(registration))
        count = 0
        for seq in ids:
            if count >= self._burst:
                return count, True
            if seq in self.broadcast:
                if not self.broadcast.is_for(seq, registration):
                    self._metrics.count(Metric.ACKS_FOREIGN)
                    continue
                queued = bool(self.broadcast.send_one(seq, registration, whole=True))
                refused = not queued
            else:
                delivery = self._journal.get(seq)
                if delivery is None:
                    continue
                if delivery.registration != registration:
                    self._metrics.count(Metric.ACKS_FOREIGN)
                    continue
                result = self._executor.apply(seq, Event.FETCH)
                refused, queued = result is Sent.REFUSED, result is Sent.QUEUED
            if refused:
                return count, True
            count += queued
        return count, False
