"""Strict in-memory ports: they hold the delivery floor to the contract of gateway.model.ports."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from gateway.model.cluster import SEQ_SHIFT
from gateway.model.cohort import Cohort
from gateway.model.condition import Condition, decide
from gateway.model.errors import InvalidField, QueueFull, StoreUnavailable
from gateway.model.frames import FrameReader, FrameType, Notify, parse_body
from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step
from gateway.model.ports import ACK_SHOWN, ACK_WHOLE, Ack, Death, Delivery, EdgeEvents, PushRecord, Receipt
from gateway.model.registration import NO_PROFILE, App, Profile, Registration, build_token, parse_token


class Clock:
    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class MemoryDirectory:
    def __init__(self) -> None:
        self.apps: dict[str, App] = {}
        self.records: dict[int, Registration] = {}
        self._groups: dict[tuple[str, Cohort], int] = {}
        self.seen_s: dict[int, int] = {}
        self.gone: list[tuple[int, str]] = []

    def add_app(self, name: str = "shop", **options: object) -> App:
        self.apps[name] = App(name=name, number=len(self.apps) + 1, **options)  # type: ignore[arg-type]
        return self.apps[name]

    def add(self, app: str = "shop", version: str = "1.0", **options: object) -> Registration:
        number = len(self.records) + 1
        self.records[number] = Registration(
            number=number,
            token=struct.pack(">QQ", 7, number),
            device=f"d{number}",
            app=app,
            version=version,
            **options,  # type: ignore[arg-type]
        )
        self.group_of(number)
        return self.records[number]

    def group_of(self, number: int) -> int:
        record = self.records[number]
        return self._groups.setdefault((record.app, record.cohort), len(self._groups) + 1)

    def app(self, name: str) -> App | None:
        return self.apps.get(name)

    def app_names(self) -> list[str]:
        return list(self.apps)

    async def put_app(self, app: App) -> App:
        self.apps[app.name] = app
        return app

    def address_gone(self, number: int, channel: str, address: str, gone_at_ms: int) -> bool:
        record = self.records[number]
        if record.addresses.get(channel, "") != address or 0 < gone_at_ms < record.addressed_at.get(channel, 0):
            return False
        self.gone.append((number, channel))
        return True

    def reach(self, token: str, app: str) -> int:
        return self.find(token, app)

    def find(self, token: str, app: str) -> int:
        raw = parse_token(token)
        for number, record in self.records.items():
            if record.token == raw and record.app == app and not record.revoked_at:
                return number
        return -1

    def registration(self, number: int) -> Registration | None:
        return self.records.get(number)

    def by_alias(self, app: str, alias: str) -> list[int]:
        return [n for n, r in self.records.items() if r.app == app and r.alias == alias]

    def by_tag(self, app: str, tag: str) -> Sequence[int]:
        return [n for n, r in self.records.items() if r.app == app and tag in r.tags]

    def cohort(self, number: int) -> Cohort:
        record = self.records.get(number)
        return Cohort("") if record is None else record.cohort

    def group_cohort(self, group: int) -> Cohort:
        return next(cohort for (_, cohort), g in self._groups.items() if g == group)

    def seen_ago_s(self, number: int) -> int:
        return self.seen_s.get(number, 0)

    def _may_match(self, cohort: Cohort, versions: str, where: Condition | None) -> bool:
        return self._parse(versions).contains(cohort.version) and (where is None or decide(where, cohort) is not False)

    def by_versions(self, app: str, versions: str, where: Condition | None = None) -> Iterator[Sequence[int]]:
        for n, record in list(self.records.items()):
            yield [n] if record.app == app and self._may_match(record.cohort, versions, where) else []

    def everybody(self) -> Iterator[Sequence[int]]:
        yield from ([n] for n in list(self.records))

    def groups(self, app: str, versions: str, where: Condition | None = None) -> list[int]:
        self._parse(versions)
        return [g for (a, c), g in self._groups.items() if a == app and self._may_match(c, versions, where)]

    def _parse(self, versions: str) -> SpecifierSet:
        try:
            return SpecifierSet(versions, prereleases=True)
        except InvalidSpecifier:
            raise InvalidField("not a version range", field="versions") from None

    async def update(
        self,
        number: int,
        *,
        alias: str | None = None,
        tags: Sequence[str] | None = None,
        addresses: Mapping[str, str] | None = None,
        fallback: Sequence[str] | None = None,
        profile: Profile = NO_PROFILE,
    ) -> Registration:
        raise AssertionError("delivery does not change registrations")

    async def revoke(self, number: int) -> None:
        raise AssertionError("delivery does not revoke")


@dataclass
class Row:
    delivery: Delivery
    collapse_key: str
    timer_ms: int
    steps: list[Step] = field(default_factory=list)


class MemoryJournal:
    """Commits when the loop turns, or when told to (`hold`)."""

    def __init__(self, clock: Clock, max_pending: int = 1_000_000) -> None:
        self.clock = clock
        self.rows: dict[int, Row] = {}
        self.notifications: dict[int, Notification] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.broadcast_seqs: set[int] = set()
        self.commits = 0
        self.hold = False
        self.fail = False
        self.max_pending = max_pending
        self._next = 1
        self._uncommitted: list[tuple[asyncio.Future[None], Notification | None, list[int]]] = []
        self._scheduled = False
        self._writable = True
        self.settled_more_than_once: list[int] = []
        #: counts what becomes of single deliveries that grew out of a broadcast
        self.of_broadcast: Callable[[int, str, int], None] = lambda seq, what, n: None

    @property
    def writable(self) -> bool:
        return self._writable

    @writable.setter
    def writable(self, value: bool) -> None:
        self._writable = value

    @property
    def next_seq(self) -> int:
        return self._next

    def reserve(self, count: int) -> int:
        assert count >= 1
        first = self._next
        self._next += count
        return first

    def append(self, notification: Notification, registrations: Sequence[int]) -> asyncio.Future[None]:
        n = len(registrations)
        assert notification.count == (n if n > 1 else 0)
        assert not notification.target.is_broadcast
        if not self._writable:
            raise StoreUnavailable
        if len(self.rows) + n > self.max_pending:
            raise QueueFull
        first = notification.seq + (1 if n > 1 else 0)
        assert first + max(n, 1) <= self._next, "sequences must be reserved"
        self.notifications[notification.seq] = notification
        for i, registration in enumerate(registrations):
            seq = first + i
            assert seq not in self.rows.keys() | self.outcomes.keys(), "a sequence is used once"
            self.rows[seq] = Row(
                Delivery(seq, registration, notification.seq, State.ACCEPTED, 0, notification.expires_s),
                notification.collapse_key,
                notification.expires_s * 1000,
            )
        return self._enqueue(notification, list(range(first, first + n)))

    def broadcast(self, notification: Notification) -> asyncio.Future[None]:
        assert notification.target.is_broadcast
        if not self._writable:
            raise StoreUnavailable
        self.notifications[notification.seq] = notification
        self.broadcast_seqs.add(notification.seq)
        return self._enqueue(notification, [])

    def _enqueue(self, notification: Notification | None, seqs: list[int]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._uncommitted.append((future, notification, seqs))
        if not self.hold and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self.commit)
        return future

    def commit(self) -> None:
        self._scheduled = False
        batch, self._uncommitted = self._uncommitted, []
        self.commits += bool(batch)
        for future, notification, seqs in batch:
            if self.fail:
                for seq in seqs:
                    self.rows.pop(seq, None)
                if notification is not None:
                    self.notifications.pop(notification.seq, None)
                    self.broadcast_seqs.discard(notification.seq)
                future.set_exception(StoreUnavailable())
            else:
                future.set_result(None)

    def notification(self, seq: int) -> Notification | None:
        return self.notifications.get(seq)

    def get(self, seq: int) -> Delivery | None:
        row = self.rows.get(seq)
        return row.delivery if row else None

    def set_state(self, seq: int, state: int, hop: int) -> None:
        assert not State(state).is_final
        assert hop >= 0
        row = self.rows[seq]
        row.delivery = row.delivery._replace(state=state, hop=hop)

    def arm(self, seq: int, at_ms: int) -> None:
        row = self.rows[seq]
        row.timer_ms = min(at_ms, row.delivery.expires_s * 1000)

    def due(self, now_ms: int, limit: int) -> list[int]:
        fired = [seq for seq, row in self.rows.items() if row.timer_ms <= now_ms][:limit]
        for seq in fired:
            row = self.rows[seq]
            expires_ms = row.delivery.expires_s * 1000
            row.timer_ms = expires_ms if now_ms < expires_ms else now_ms + 1000
        return fired

    def pending_of(self, registration: int, limit: int = 0, below: int = 0) -> list[int]:
        found = sorted(
            seq
            for seq, row in self.rows.items()
            if row.delivery.registration == registration
            and not (below and seq >= below and seq >> SEQ_SHIFT == below >> SEQ_SHIFT)
        )
        return found[:limit] if limit else found

    def collapsed_by(self, registration: int, collapse_key: str) -> list[int]:
        return [
            seq
            for seq, row in sorted(self.rows.items())
            if row.delivery.registration == registration and row.collapse_key == collapse_key
        ]

    def step(self, seq: int, step: Step) -> None:
        row = self.rows[seq]
        broadcast = self.notifications[row.delivery.notification].broadcast
        if broadcast and step.what == "notified" and all(before.what != "notified" for before in row.steps):
            self.of_broadcast(broadcast, "notified", 1)
        row.steps.append(step)

    def steps_of(self, seq: int) -> list[Step]:
        return list(self.rows[seq].steps)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            assert State(outcome.state).is_final
            if outcome.seq in self.outcomes:
                self.settled_more_than_once.append(outcome.seq)
            row = self.rows.pop(outcome.seq)
            assert outcome.registration == row.delivery.registration
            assert outcome.notification == row.delivery.notification
            assert outcome.app == self.notifications[outcome.notification].app
            self.outcomes[outcome.seq] = msgspec.structs.replace(outcome, steps=row.steps + outcome.steps)
            broadcast = self.notifications[outcome.notification].broadcast
            if broadcast:
                self.of_broadcast(broadcast, State(outcome.state).name.lower(), 1)
                self.of_broadcast(broadcast, "@adopted", -1)

    def settled_for(self, seq: int) -> int:
        return self.outcomes[seq].registration if seq in self.outcomes else -1

    def amend(self, seq: int, step: Step, registration: int) -> None:
        if seq in self.outcomes and self.outcomes[seq].registration == registration:
            self.outcomes[seq].steps.append(step)

    def pending_count(self) -> int:
        return len(self.rows)

    def committed(self) -> asyncio.Future[None]:
        if not self._writable:
            raise StoreUnavailable
        return self._enqueue(None, [])


class MemoryBroadcasts:
    def __init__(self, journal: MemoryJournal, directory: MemoryDirectory, clock: Clock) -> None:
        self._journal = journal
        journal.of_broadcast = self._count
        self._directory = directory
        self._clock = clock
        self.seen: set[tuple[int, int]] = set()
        self.ended: dict[int, int] = {}
        self._figures: dict[int, dict[str, int]] = {}
        self.counted_whole: set[int] = set()

    def live(self, app: str) -> list[int]:
        return sorted(
            seq
            for seq in self._journal.broadcast_seqs
            if seq not in self.ended
            and self._journal.notifications[seq].app == app
            and self._journal.notifications[seq].expires_s * 1000 > self._clock.now_ms
        )

    def waiting(self, registration: int) -> list[int]:
        record = self._directory.records.get(registration)
        if record is None:
            return []
        return [
            seq
            for seq in self.live(record.app)
            if (seq, registration) not in self.seen and self.matches(self._journal.notifications[seq], registration)
        ]

    def is_waiting(self, seq: int, registration: int) -> bool:
        return seq in self.waiting(registration)

    def acked(self, seq: int, registrations: Sequence[int], at_ms: int) -> None:
        for registration in registrations:
            self.seen.add((seq, registration))

    def matches(self, notification: Notification, registration: int) -> bool:
        record = self._directory.records.get(registration)
        target = notification.target
        parts = self._directory.by_versions(notification.app, target.versions, target.where)
        return record is not None and any(registration in part for part in parts)

    def count(self, seq: int, what: str, registrations: Sequence[int]) -> None:
        assert what in ("targeted", "sent", "acked", "shown", "notified")
        self._count(seq, what, len(registrations))

    def count_sent(self, seq: int, group: int, links: int) -> None:
        self._count(seq, "sent", links)

    def adopted(self, seq: int, registration: int, *, undone: bool = False) -> None:
        self._count(seq, "@adopted", -1 if undone else 1)

    def is_recalled(self, seq: int) -> bool:
        return self.ended.get(seq) == State.RECALLED

    def counted(self, seq: int) -> None:
        self.counted_whole.add(seq)

    def recount(self, seq: int) -> bool:
        if seq in self.counted_whole:
            return False
        self._figures.get(seq, {}).pop("targeted", None)
        return True

    def count_expired(self, seq: int) -> None:
        figures = self._figures.get(seq, {})
        over = sum(figures.get(name, 0) for name in ("acked", "expired", "rejected", "replaced", "limited", "@adopted"))
        self._count(seq, "expired", figures.get("targeted", 0) - over)

    def _count(self, seq: int, what: str, n: int) -> None:
        figures = self._figures.setdefault(seq, {})
        figures[what] = figures.get(what, 0) + n

    def figures(self, seq: int) -> dict[str, int]:
        return {name: n for name, n in self._figures.get(seq, {}).items() if "@" not in name}

    def end(self, seq: int, state: int, at_ms: int) -> None:
        assert state in (State.EXPIRED, State.RECALLED)
        assert seq not in self.ended
        self.ended[seq] = state


class MemorySchedules:
    """Keeps pushes for their time; durable when the journal commits."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal
        self.kept: dict[int, tuple[int, Notification]] = {}
        self.asked: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        self.names: dict[int, int] = {}
        self._out: set[int] = set()

    def add(self, notification: Notification, due_ms: int) -> asyncio.Future[None]:
        self.kept[notification.seq] = (due_ms, notification)
        self.asked[notification.seq] = due_ms
        return self._journal.committed()

    def due(self, now_ms: int, limit: int) -> list[int]:
        found = [seq for seq, (at, _) in self.kept.items() if at <= now_ms and seq not in self._out][:limit]
        self._out.update(found)
        return found

    def again(self, seq: int, at_ms: int) -> None:
        if seq in self.kept:
            self.kept[seq] = (at_ms, self.kept[seq][1])
            self._out.discard(seq)

    def due_ms(self, seq: int) -> int:
        return self.asked[seq] if seq in self.kept else 0

    def notification(self, seq: int) -> Notification | None:
        entry = self.kept.get(seq)
        return None if entry is None else entry[1]

    def released(self, seq: int, became: int) -> None:
        del self.kept[seq]
        self.names[seq] = became

    def end(self, seq: int, state: int, at_ms: int) -> None:
        if self.kept.pop(seq, None) is not None:
            self.ended[seq] = state

    def became(self, seq: int) -> int:
        return self.names.get(seq, 0)


@dataclass
class Flight:
    sent_ms: int
    deadline_ms: int


class MemoryEdge:
    """Links with windows. Events are given back one call at a time, as the real mailbox does."""

    def __init__(self, clock: Clock, directory: MemoryDirectory, window: int = 32) -> None:
        self.clock = clock
        self.directory = directory
        self.window = window
        self.events: EdgeEvents | None = None
        self.bound: set[int] = set()
        self.floors: dict[int, int] = {}
        self.flights: dict[tuple[int, int], Flight] = {}
        self.spilled: list[tuple[int, int]] = []
        self.wants_ready: set[int] = set()
        self.frames: list[tuple[int, Notify]] = []  # (registration, NOTIFY) as they went out
        self.recalled: list[tuple[int, int]] = []
        self.fanned: list[tuple[int, int]] = []
        self.mailbox_full = False
        #: called inside notify before the answer: to cut a link between routing and sending
        self.before_notify: Callable[[int], None] | None = None

    # --- port
    is_certain = True

    def is_connected(self, registration: int) -> bool:
        return registration in self.bound

    def urgency_floor(self, registration: int) -> int:
        return self.floors.get(registration, 0) if registration in self.bound else 0

    def notify(self, registration: int, frame: bytes, seq: int, ack_ms: int, *, again: bool = False) -> bool:
        assert ack_ms > 0
        if self.before_notify is not None:
            self.before_notify(registration)
        if registration not in self.bound or self.mailbox_full:
            return False
        self._put(registration, frame, seq, ack_ms, again)
        return True

    def fanout(self, groups: Sequence[int], frame: bytes, seq: int, ack_ms: int, urgency: int) -> None:
        links = [
            r for r in sorted(self.bound) if self.directory.group_of(r) in groups and urgency >= self.urgency_floor(r)
        ]
        for registration in links:
            self._put(registration, frame, seq, ack_ms, False)
        self.fanned.append((seq, len(links)))

    def room(self, registration: int) -> int:
        return self.window if registration in self.bound else 0

    def await_room(self, registration: int) -> None:
        if registration in self.bound:
            self.wants_ready.add(registration)

    def recall(self, registration: int, seq: int) -> None:
        self.flights.pop((registration, seq), None)
        self.recalled.append((registration, seq))

    def recall_fanout(self, groups: Sequence[int], seq: int) -> None:
        for registration in sorted(self.bound):
            if self.directory.group_of(registration) in groups:
                self.recall(registration, seq)

    # --- the other side
    def _put(self, registration: int, frame: bytes, seq: int, ack_ms: int, again: bool) -> None:
        key = (registration, seq)
        if key in self.flights and not again:
            return
        if key not in self.flights and self.in_flight(registration) >= self.window:
            self.spilled.append(key)
            self.wants_ready.add(registration)
            return
        [(kind, body)] = FrameReader().feed(frame)
        assert kind == FrameType.NOTIFY
        notify = parse_body(body, Notify)
        assert notify.id == seq
        if notify.token:
            assert notify.token == build_token(self.directory.records[registration].token)
        else:
            assert notify.app
        self.frames.append((registration, notify))
        self.flights[key] = Flight(self.clock.now_ms, self.clock.now_ms + ack_ms)

    def in_flight(self, registration: int) -> int:
        return sum(1 for r, _ in self.flights if r == registration)

    def flush_spilled(self) -> None:
        assert self.events
        fanned, self.fanned = self.fanned, []
        for seq, links in fanned:
            self.events.on_fanned(seq, 0, links)
        spilled, self.spilled = self.spilled, []
        for registration, seq in spilled:
            self.events.on_lost(seq, registration, spilled=True)

    def connect(self, *registrations: int) -> None:
        assert self.events
        self.bound.update(registrations)
        self.events.on_ready(list(registrations))
        self.flush_spilled()

    def disconnect(self, *registrations: int, tell: bool = True) -> None:
        assert self.events
        for registration in registrations:
            self.bound.discard(registration)
            self.wants_ready.discard(registration)
            for key in [k for k in self.flights if k[0] == registration]:
                del self.flights[key]
                if tell:
                    self.events.on_lost(key[1], registration, spilled=False)

    def ack(self, registration: int, *seqs: int, shown: bool = False, whole: bool = False) -> None:
        assert self.events
        flags = shown * ACK_SHOWN | whole * ACK_WHOLE
        acks = []
        for seq in seqs:
            flight = self.flights.pop((registration, seq), None)
            acks.append(Ack(seq, registration, flight.sent_ms if flight else 0, self.clock.now_ms, flags, registration))
        self.events.on_acks(acks)
        if registration in self.wants_ready:
            self.say_ready(registration)

    def say_ready(self, *registrations: int) -> None:
        """There is room again; for all that wait where none is named."""
        assert self.events
        ready = sorted(registrations or self.wants_ready)
        self.wants_ready.difference_update(ready)
        self.flush_spilled()
        for registration in ready:
            self.events.on_ready([registration], {(seq, r) for r, seq in self.flights if r == registration})
        self.flush_spilled()

    def answer_room(self) -> None:
        """As the reactor does: at once where there is room."""
        ready = [
            number for number in self.wants_ready if self.in_flight(number) < self.window and not self.mailbox_full
        ]
        if ready:
            self.say_ready(*ready)

    def fire_timeouts(self) -> None:
        assert self.events
        for (registration, seq), flight in sorted(self.flights.items()):
            if flight.deadline_ms <= self.clock.now_ms:
                self.flights.pop((registration, seq), None)
                self.events.on_ack_timeout(seq, registration)

    def sent_to(self, registration: int) -> list[int]:
        return [notify.id for r, notify in self.frames if r == registration]


class MemoryDeaths:
    def __init__(self) -> None:
        self.rows: list[tuple[str, Death]] = []
        self._wakes: list[Callable[[], None]] = []

    def add(self, app: str, token: bytes, why: str = "gone", channel: str = "apns") -> None:
        self.rows.append((app, Death(len(self.rows) + 1, token, 7, why, channel)))
        for wake in self._wakes:
            wake()

    def after(self, app: str, cursor: int, limit: int) -> list[Death]:
        return [row for name, row in self.rows if name == app and row.cursor > cursor][:limit]

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._wakes.append(wake)
        return lambda: self._wakes.remove(wake)


class MemoryReceipts:
    def __init__(self) -> None:
        self.feed: list[tuple[str, Receipt]] = []
        self.cursors: dict[str, int] = {}
        self._wakes: list[Callable[[], None]] = []

    def add(self, app: str, outcome: Outcome) -> None:
        self.feed.append((app, Receipt(len(self.feed) + 1, outcome)))
        for wake in self._wakes:
            wake()

    def lookup(self, app: str, seq: int, *, offset: int = 0, limit: int = 100) -> PushRecord | None:
        raise AssertionError("not asked by delivery")

    def after(self, app: str, cursor: int, limit: int) -> list[Receipt]:
        return [receipt for name, receipt in self.feed if name == app and receipt.cursor > cursor][:limit]

    def last_cursor(self, app: str) -> int:
        return max((receipt.cursor for name, receipt in self.feed if name == app), default=0)

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._wakes.append(wake)
        return lambda: self._wakes.remove(wake)

    def saved_cursor(self, name: str) -> int:
        return self.cursors.get(name, 0)

    def save_cursor(self, name: str, cursor: int) -> None:
        assert cursor >= self.cursors.get(name, 0)
        self.cursors[name] = cursor
