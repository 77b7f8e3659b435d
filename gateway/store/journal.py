"""The journal: accepted notifications and their pending deliveries, by rising sequence; must never lose an accepted
one nor bring back a settled one.

One row a notification, and for a push to several registrations one small row a delivery; RAM (`Pending`) has the state,
the timers and each registration's list. State and timers are not durable: after a restart every pending delivery is
ACCEPTED again, with the notifiers counted as used that its written history says.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterator, Sequence

from gateway._native.intake import Batch, Router
from gateway._native.pending import Pending
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull
from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step
from gateway.model.ports import BatchLimits, Delivery
from gateway.store.batches import Accepted as AcceptedBatch
from gateway.store.batches import Batches
from gateway.store.broadcasts import Broadcasts
from gateway.store.commit import Committer
from gateway.store.contents import Contents
from gateway.store.figures import Figures
from gateway.store.history import History
from gateway.store.receipts import Receipts
from gateway.store.records import (
    DELETE,
    NO_STATE,
    PUT,
    Db,
    PushEnd,
    Row,
    build_delivery,
    build_metadata,
    build_notification,
    collapse_hash,
    pack_u64,
    parse_grown,
)
from gateway.store.sequences import Sequences


class _FanRows:
    """Rows of a push to several registrations, made one by one on the commit thread."""

    __slots__ = ("_notification", "_registrations", "_seq")

    def __init__(self, seq: int, notification: bytes, registrations: array[int]) -> None:
        self._seq = seq
        self._notification = notification
        self._registrations = registrations

    def __len__(self) -> int:
        return 1 + len(self._registrations)

    def __contains__(self, row: object) -> bool:
        return any(row == mine for mine in self)

    def __iter__(self) -> Iterator[Row]:
        yield (PUT, Db.JOURNAL, pack_u64(self._seq), self._notification)
        for distance, registration in enumerate(self._registrations, 1):
            yield (PUT, Db.JOURNAL, pack_u64(self._seq + distance), build_delivery(registration, distance))


class Journal:
    """Control thread only; see model.ports.Journal."""

    def __init__(
        self,
        committer: Committer,
        pending: Pending,
        sequences: Sequences,
        contents: Contents,
        figures: Figures,
        history: History,
        broadcasts: Broadcasts,
        batches: Batches,
        receipts: Receipts,
        config: StoreConfig,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._committer = committer
        self._pending = pending
        self._sequences = sequences
        self._contents = contents
        self._figures = figures
        self._history = history
        self._broadcasts = broadcasts
        self._batches = batches
        self._receipts = receipts
        self._max_pending = config.max_pending
        self._max_of_one = config.max_pending_per_registration
        self._metrics = metrics
        self._clock = clock
        self._outstanding: dict[int, int] = {}  # notification with several deliveries → those not settled

    # --- accepting ------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self._committer.writable

    @property
    def next_seq(self) -> int:
        return self._sequences.next

    def reserve(self, count: int) -> int:
        return self._sequences.reserve(count)

    def append(self, notification: Notification, registrations: Sequence[int]) -> asyncio.Future[None]:
        """See the port. `max_pending_per_registration` refuses a push to a single registration; a push to many is bound
        by `max_pending` alone, for one device that never comes must not stop a push to all the others."""
        seq, count = notification.seq, notification.count
        if len(registrations) != count and (count or len(registrations) > 1):
            raise ValueError("count is the number of registrations where there are several")
        self._check_room(registrations)
        if count == 0 and len(registrations) == 1:
            return self._append_one(notification, registrations[0])
        if not registrations:
            return self._append_none(seq, notification)
        return self._append_many(seq, notification, array("I", registrations))

    def _check_room(self, registrations: Sequence[int]) -> None:
        if len(self._pending) + len(registrations) > self._max_pending:
            self._metrics.count(Metric.STORE_REFUSED, label="pending")
            raise QueueFull("too many deliveries are pending; nothing was accepted")
        if len(registrations) == 1 and self._pending.count_of(registrations[0]) >= self._max_of_one:
            self._metrics.count(Metric.STORE_REFUSED, label="pending_of_registration")
            raise QueueFull("too many deliveries are pending for this token; nothing was accepted")

    def _append_one(self, notification: Notification, registration: int) -> asyncio.Future[None]:
        seq = notification.seq
        row = build_notification(notification, registration)

        def undo() -> None:
            self._pending.remove(seq)
            self._contents.drop(seq)
            self._history.forget(seq)

        future = self._committer.accept(
            [(PUT, Db.JOURNAL, pack_u64(seq), row)], undo=undo, done=lambda: self._contents.landed(seq)
        )
        self._contents.put(notification, len(row))
        self._pending.add(
            seq, registration, seq, notification.expires_s, collapse_hash(notification.collapse_key), State.ACCEPTED, 0
        )
        return future

    def _append_many(self, seq: int, notification: Notification, registrations: array[int]) -> asyncio.Future[None]:
        row = build_notification(notification)
        rows = _FanRows(seq, row, registrations)
        count = len(registrations)

        def undo() -> None:
            for delivery in range(seq + 1, seq + 1 + count):
                self._pending.remove(delivery)
                self._history.forget(delivery)
            self._contents.drop(seq)
            self._figures.drop(seq)
            self._outstanding.pop(seq, None)

        future = self._committer.accept(rows, undo=undo, done=lambda: self._contents.landed(seq))
        self._contents.put(notification, len(row))
        self._figures.open(seq)
        self._outstanding[seq] = count
        self._pending.add_many(
            seq + 1, registrations, seq, notification.expires_s, collapse_hash(notification.collapse_key)
        )
        return future

    def _append_none(self, seq: int, notification: Notification) -> asyncio.Future[None]:
        """Nobody has that alias or tag: it is over already, but can be looked up."""
        self._committer.admit(1)
        row = self._receipts.end_push(seq, PushEnd(self._clock() // 1_000, NO_STATE, build_metadata(notification)))

        def settled() -> None:
            self._receipts.push_landed(seq)

        return self._committer.accept([row], undo=settled, done=settled)

    def broadcast(self, notification: Notification) -> asyncio.Future[None]:
        return self._broadcasts.store(notification)

    def read_batch(self, app: str, arrays: list[bytes | memoryview], limits: BatchLimits) -> Batch:
        return self._batches.read(app, arrays, limits)

    def append_batch(self, batch: Batch, limits: BatchLimits, router: Router, now_ms: int) -> AcceptedBatch:
        return self._batches.append(batch, limits, router, now_ms)

    @property
    def is_committing(self) -> bool:
        return self._committer.is_flying

    def at_commit_end(self, call: Callable[[], None]) -> None:
        self._committer.at_landing(call)

    def acks_settled(self) -> None:
        self._batches.nudge()

    # --- what is pending ------------------------------------------------------------------------------------

    def notification(self, seq: int) -> Notification | None:
        if self._broadcasts.is_live(seq):
            return self._contents.get(Db.BROADCASTS, seq)
        if seq not in self._outstanding:
            # what was settled is gone at once, though its row goes with the next commit
            pending = self._pending.get(seq)
            if pending is None or pending[1] != seq:
                return None
        return self._contents.get(Db.JOURNAL, seq)

    def get(self, seq: int) -> Delivery | None:
        row = self._pending.get(seq)
        if row is None:
            return None
        registration, notification, state, hop, expires_s = row
        return Delivery(seq, registration, notification, state, hop, expires_s)

    def set_state(self, seq: int, state: int, hop: int) -> None:
        self._pending.set_state(seq, state, hop)

    def arm(self, seq: int, at_ms: int) -> None:
        self._pending.arm(seq, at_ms)

    def due(self, now_ms: int, limit: int) -> list[int]:
        return self._pending.due(now_ms, limit)

    def pending_of(self, registration: int, limit: int = 0, below: int = 0) -> list[int]:
        return self._pending.of(registration, limit, below)

    def pending_count(self) -> int:
        return len(self._pending)

    def committed(self) -> asyncio.Future[None]:
        return self._committer.accept(())

    def collapsed_by(self, registration: int, collapse_key: str) -> list[int]:
        if not collapse_key:
            return []
        found = []
        for seq in self._pending.collapsed(registration, collapse_hash(collapse_key)):
            row = self._pending.get(seq)
            notification = None if row is None else self.notification(row[1])
            if notification is not None and notification.collapse_key == collapse_key:
                found.append(seq)
        return found

    # --- history and end ------------------------------------------------------------------------------------

    def step(self, seq: int, step: Step) -> None:
        pending = self._pending.get(seq)
        if pending is None:
            return
        self._batches.mark_odd(seq)
        if step.what == "notified" and pending[1] == seq:
            notification = self._contents.get(Db.JOURNAL, seq)
            if notification is not None and notification.broadcast:
                self._broadcasts.notified(notification.broadcast, pending[0], self._history.steps_of(seq))
        self._history.step(seq, step)

    def steps_of(self, seq: int) -> list[Step]:
        return self._history.steps_of(seq)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        rows: list[Row] = []
        settled: list[Outcome] = []
        ended: list[int] = []
        batched = False
        for given in outcomes:
            is_batched = self._batches.note(given.seq, given.state, given.at_ms)
            batched |= is_batched
            pending = self._pending.remove(given.seq)
            if pending is None:
                continue  # settled already, or undone with its commit
            registration, notification = pending[0], pending[1]
            steps, removals = self._history.take(given.seq)
            outcome = Outcome(
                given.seq, notification, registration, given.app, given.state, given.at_ms, steps + given.steps
            )
            if not is_batched:
                rows.append((DELETE, Db.JOURNAL, pack_u64(given.seq), b""))
            rows += removals
            if notification == given.seq:
                metadata = self._contents.metadata(Db.JOURNAL, notification)
                self._contents.drop(notification)
                rows.append(self._history.settle(outcome, metadata))
                grown = parse_grown(metadata)
                if grown is not None:
                    self._broadcasts.settled(grown.broadcast, outcome, grown.accepted_ms)
            else:
                rows.append(self._history.settle(outcome, b""))
                if self._count_settled(notification, outcome.state):
                    rows += self._end_rows(notification, given.at_ms)
                    ended.append(notification)
            settled.append(outcome)
        if not settled:
            return
        feed, cursor = self._receipts.feed(settled)
        rows += feed

        def landed() -> None:
            for outcome in settled:
                self._history.landed(outcome)
            for seq in ended:
                self._receipts.push_landed(seq)
            self._receipts.feed_landed(cursor)

        if batched:
            self._batches.settle_apart(rows, landed)
        else:
            self._committer.keep(rows, done=landed)

    def _count_settled(self, notification: int, state: int) -> bool:
        """True where this was the last delivery of the notification."""
        self._figures.count(notification, State(state).name.lower(), 1)
        left = self._outstanding.get(notification, 1) - 1
        if left:
            self._outstanding[notification] = left
            return False
        self._outstanding.pop(notification, None)
        return True

    def _end_rows(self, notification: int, at_ms: int) -> list[Row]:
        metadata = self._contents.metadata(Db.JOURNAL, notification)
        self._contents.drop(notification)
        self._figures.close(notification)
        end = PushEnd(at_ms // 1_000, NO_STATE, metadata)
        return [(DELETE, Db.JOURNAL, pack_u64(notification), b""), self._receipts.end_push(notification, end)]

    def settled_for(self, seq: int) -> int:
        outcome = self._history.outcome(seq)
        return -1 if outcome is None else outcome.registration

    def amend(self, seq: int, step: Step, registration: int) -> None:
        pending = self._pending.get(seq)
        if pending is None:
            if self._history.amend(seq, step, registration) and step.what == "shown":
                grown = parse_grown(self._history.metadata(seq))
                if grown is not None:
                    self._broadcasts.count(grown.broadcast, step.what, [registration])
        elif pending[0] == registration:
            self._history.step(seq, step)

    # --- recovery -------------------------------------------------------------------------------------------

    def restore_fan(self, notification: int, outstanding: int) -> None:
        self._outstanding[notification] = outstanding

    def outstanding(self, notification: int) -> int:
        return self._outstanding.get(notification, 0)
