"""Pushes of a gateway's store, into those of partitions: what is pending, what waits for its time, what became of the
rest; must never lose a delivery that is pending, nor write one twice.

Everything keeps its sequence, which lies below those of all partitions: order stays, and a delivery is the same message
to a device that has it already. A push to many stands in each partition that has deliveries of it, and at its home; a
delivery of a batch becomes one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from gateway._native.batches import PART
from gateway.model.cluster import broadcast_seq
from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step
from gateway.model.registration import parse_token
from gateway.store.batch_rows import (
    APART,
    RECORD_BYTES,
    SHOWN,
    UNDONE,
    Record,
    head_of_batch,
    parse_batch_head,
    parse_batch_item,
    parse_batched,
    parse_ended_batch,
    parse_record,
)
from gateway.store.environment import Environment
from gateway.store.receipts import CURSOR_KEY
from gateway.store.records import (
    BATCH,
    NO_STATE,
    NOTIFICATION,
    Db,
    PushEnd,
    build_delivery,
    build_figures,
    build_metadata,
    build_notification,
    build_outcome,
    build_push,
    build_receipts,
    metadata_of,
    metadata_of_outcome,
    pack_u32,
    pack_u64,
    parse_delivery,
    parse_figures,
    parse_grown,
    parse_idempotency,
    parse_journal_head,
    parse_metadata,
    parse_notification,
    parse_outcome,
    parse_push,
    parse_receipts,
    receipts_key,
    unpack_u32,
    unpack_u64,
)
from gateway.store.recovery import RECEIPTS_TOLD_KEY
from gateway.store.schedules import build_tie, parse_tie
from gateway.store.split_registrations import SplitRegistrations
from gateway.store.split_scratch import Seat, SplitScratch, Spot
from gateway.store.split_target import SplitTarget

_EDGE = "edge"
#: figure of a broadcast whose audience was counted to the end (broadcasts.py)
_COUNTED = "@counted"
#: where a registration stands in a row of the journal
_NUMBER = slice(1, 5)


class _Delivery(NamedTuple):
    """One of a push to many."""

    seq: int
    seat: Seat
    outcome: Outcome | None  # None: it is pending


class _Part:
    """What one partition has of a push to many."""

    def __init__(self) -> None:
        self.pending = 0
        self.ended_ms = 0
        self.figures: dict[str, int] = {}


class SplitPushes:
    """One thread, after the registrations. `live`: sequences of the broadcasts that live on, ascending."""

    def __init__(
        self,
        source: Environment,
        targets: Sequence[SplitTarget],
        scratch: SplitScratch,
        people: SplitRegistrations,
        live: Sequence[int],
        now_s: int,
        tick: Callable[[], None],
    ) -> None:
        self._source = source
        self._targets = targets
        self._scratch = scratch
        self._people = people
        self._live = {seq: broadcast_seq(place) for place, seq in enumerate(live, 1)}
        self._now_s = now_s
        self._tick = tick
        self.pending = self.scheduled = self.settled = self.receipts = self.keys = 0
        #: rows of a history whose push is not known any more
        self.left_out = 0

    def run(self) -> None:
        self._journal()
        self._ended_pushes()
        self._outcomes()
        self._ended_batches()
        self._broadcasts()
        self._schedules()
        self._ties()
        self._steps()
        self._feed()
        self._idempotency()

    # --- where something goes -------------------------------------------------------------------------------

    def _seat(self, registration: int, token: str, app: str) -> Seat:
        seat = self._scratch.seat(registration) if registration else None
        if seat is not None:
            return seat
        # it is gone, and what was for it tells so in its partition
        raw = parse_token(token) if token else None
        partition = self._people.home(app) if raw is None else self._people.partition_of(raw)
        return Seat(partition, self._targets[partition].nobody())

    def _home(self, notification: Notification) -> SplitTarget:
        """Where a push that has not become deliveries belongs."""
        raw = parse_token(notification.target.token) if notification.target.token else None
        if raw is not None:
            return self._targets[self._people.partition_of(raw)]
        return self._targets[self._people.home(notification.app)]

    # --- one delivery ---------------------------------------------------------------------------------------

    def _journal(self) -> None:
        for key, raw in self._source.scan(Db.JOURNAL):
            self._tick()
            if raw[0] == BATCH:
                self._batch(unpack_u64(key), raw)
            elif raw[0] == NOTIFICATION:
                head = parse_journal_head(raw)
                if head.registration:
                    self._pending_one(unpack_u64(key), head.registration, raw)
                else:
                    self._to_many(parse_notification(raw), raw, None)

    def _pending_one(self, seq: int, registration: int, raw: bytes) -> None:
        seat = self._scratch.seat(registration)
        if seat is None:
            about = parse_metadata(metadata_of(raw))
            seat = self._seat(0, about.target.token, about.app)
        row = bytearray(raw)
        row[_NUMBER] = pack_u32(seat.number)
        grown = parse_grown(metadata_of(raw))
        new = None if grown is None else self._live.get(grown.broadcast)
        if new is not None:
            own = msgspec.structs.replace(parse_notification(raw), broadcast=new)
            row = bytearray(build_notification(own, seat.number))
        self._put_pending(seq, seat, bytes(row))

    def _put_pending(self, seq: int, seat: Seat, row: bytes) -> None:
        self._targets[seat.partition].put(Db.JOURNAL, pack_u64(seq), row)
        self._scratch.put_spot(seq, Spot(seat.partition, seq))
        self.pending += 1

    def _put_outcome(self, outcome: Outcome, spot: Spot, seat: Seat, notification: int, metadata: bytes) -> None:
        old = outcome.seq
        moved = Outcome(spot.seq, notification, seat.number, outcome.app, outcome.state, outcome.at_ms, outcome.steps)
        self._targets[spot.partition].put(Db.OUTCOMES, pack_u64(spot.seq), build_outcome(moved, metadata))
        self._scratch.put_spot(old, spot)
        self.settled += 1

    def _outcomes(self) -> None:
        """Those of pushes to many went with them."""
        for key, raw in self._source.scan(Db.OUTCOMES):
            self._tick()
            seq, outcome = unpack_u64(key), parse_outcome(raw)
            if outcome.notification != seq:
                self.left_out += self._scratch.spot(seq) is None
                continue
            metadata = metadata_of_outcome(raw)
            token = parse_metadata(metadata).target.token if metadata else ""
            seat = self._seat(outcome.registration, token, outcome.app)
            self._put_outcome(outcome, Spot(seat.partition, seq), seat, seq, metadata)

    # --- batches --------------------------------------------------------------------------------------------

    def _batch(self, first: int, raw: bytes) -> None:
        count = parse_batch_head(raw).pushes
        records = b""
        for part in range(-(-count // PART)):
            size = min(PART, count - part * PART) * RECORD_BYTES
            stored = self._source.get(Db.SETTLED, pack_u64(first + part * PART))
            records += bytes(size) if stored is None else stored[:size].ljust(size, b"\0")
        self._batched(first, raw, records)

    def _ended_batches(self) -> None:
        for key, raw in self._source.scan(Db.BATCHES):
            head, records = parse_ended_batch(raw)
            self._batched(unpack_u64(key), head, records)

    def _batched(self, first: int, raw: bytes, records: bytes) -> None:
        """Each delivery becomes one of its own: a partition has but some of them."""
        head = parse_batch_head(raw)
        app = self._people.apps.get(head.app_number)
        name = "" if app is None else app.name
        heads = head_of_batch(raw)
        for index in range(head.pushes):
            self._tick()
            record = parse_record(records, index)
            if record.flags & (APART | UNDONE):
                continue  # it has a row of its own, or never was
            registration = parse_batch_item(raw, index).registration
            about = parse_batched(raw if not record.state else heads, index, first, name)
            seat = self._seat(registration, about.target.token, name)
            if not record.state:
                self._put_pending(first + index, seat, build_notification(about, seat.number))
                continue
            seq = first + index
            if self._source.get(Db.OUTCOMES, pack_u64(seq)) is not None:
                continue  # a line was added to its history later, which says the rest too
            outcome = Outcome(seq, seq, registration, name, record.state, record.at_ms, _steps_of(record))
            self._put_outcome(outcome, Spot(seat.partition, seq), seat, seq, build_metadata(about))

    # --- to many --------------------------------------------------------------------------------------------

    def _to_many(self, notification: Notification, row: bytes, end: PushEnd | None) -> None:
        """`row`: of the journal, where something of it is pending, else its `end`."""
        seq = notification.seq
        parts: dict[int, _Part] = {self._people.home(notification.app): _Part()}
        for delivery in self._deliveries(notification):
            self._tick()
            part = parts.setdefault(delivery.seat.partition, _Part())
            spot = Spot(delivery.seat.partition, delivery.seq)
            if delivery.outcome is None:
                part.pending += 1
                self._put_pending(delivery.seq, delivery.seat, build_delivery(delivery.seat.number, delivery.seq - seq))
            else:
                name = State(delivery.outcome.state).name.lower()
                part.figures[name] = part.figures.get(name, 0) + 1
                part.ended_ms = max(part.ended_ms, delivery.outcome.at_ms)
                self._put_outcome(delivery.outcome, spot, delivery.seat, seq, b"")
        key = pack_u64(seq)
        for partition, part in parts.items():
            target = self._targets[partition]
            if part.pending:
                target.put(Db.JOURNAL, key, row)
            else:
                at_s = part.ended_ms // 1_000 or self._now_s
                mine = end or PushEnd(at_s, NO_STATE, build_metadata(notification))
                target.put(Db.PUSHES, key, build_push(mine))
            if part.figures:
                target.put(Db.FIGURES, key, build_figures(part.figures))
            self._tie(target, seq)

    def _deliveries(self, notification: Notification) -> Iterator[_Delivery]:
        """Of those in its row of sequences that are pending or have a history, ascending; the same each time."""
        first, end = notification.seq + 1, notification.seq + notification.count
        settled = self._source.scan(Db.OUTCOMES, pack_u64(first))
        pending = self._source.scan(Db.JOURNAL, pack_u64(first))
        ours = self._ours(pending, settled, first, end)
        for seq, registration, outcome in ours:
            if outcome is None or outcome.notification == notification.seq:
                yield _Delivery(seq, self._seat(registration, "", notification.app), outcome)

    @staticmethod
    def _ours(
        pending: Iterator[tuple[bytes, bytes]], settled: Iterator[tuple[bytes, bytes]], first: int, end: int
    ) -> Iterator[tuple[int, int, Outcome | None]]:
        waits, over = next(pending, None), next(settled, None)
        while True:
            waiting = unpack_u64(waits[0]) if waits is not None else end + 1
            ended = unpack_u64(over[0]) if over is not None else end + 1
            if min(waiting, ended) > end:
                return
            if waits is not None and waiting <= ended:
                registration, distance = (
                    parse_delivery(waits[1]) if waits[1][0] not in (NOTIFICATION, BATCH) else (0, 0)
                )
                if distance == waiting - first + 1:
                    yield waiting, registration, None
                waits = next(pending, None)
            if over is not None and ended <= waiting:
                if ended < waiting:
                    outcome = parse_outcome(over[1])
                    yield ended, outcome.registration, outcome
                over = next(settled, None)

    def _ended_pushes(self) -> None:
        for key, raw in self._source.scan(Db.PUSHES):
            self._tick()
            end = parse_push(raw)
            if not end.metadata:
                self.left_out += 1
                continue
            about = parse_metadata(end.metadata)
            if end.state == NO_STATE and about.count:
                self._to_many(about, b"", end)
                continue
            target = self._home(about)
            target.put(Db.PUSHES, key, raw)
            figures = self._source.get(Db.FIGURES, key)
            if figures is not None:
                target.put(Db.FIGURES, key, figures)
            self._scratch.put_spot(unpack_u64(key), Spot(target.partition, unpack_u64(key)))

    # --- broadcasts -----------------------------------------------------------------------------------------

    def _broadcasts(self) -> None:
        """Contents of those that live on go to the fleet's stream (`told`); here is what was counted of them."""
        for key, raw in self._source.scan(Db.BROADCASTS):
            seq = unpack_u64(key)
            stored = self._source.get(Db.FIGURES, key)
            figures = {} if stored is None else parse_figures(stored)
            about = parse_metadata(metadata_of(raw))
            home = self._targets[self._people.home(about.app)]
            new = self._live.get(seq)
            if new is None:  # its time is over, and nobody has said so yet
                home.put(Db.PUSHES, key, build_push(PushEnd(self._now_s, State.EXPIRED, metadata_of(raw))))
                home.put(Db.FIGURES, key, build_figures(figures))
                self._scratch.put_spot(seq, Spot(home.partition, seq))
                continue
            # whose audience was counted is not counted again by each partition
            counted = {_COUNTED: 1} if figures.get(_COUNTED) else {}
            for target in self._targets:
                mine = figures if target is home else counted
                if mine:
                    target.put(Db.FIGURES, pack_u64(new), build_figures(mine))

    def told(self, seq: int) -> Notification:
        """A broadcast that lives on, as the fleet's stream tells it."""
        raw = self._source.get(Db.BROADCASTS, pack_u64(seq))
        if raw is None:
            raise ValueError("no such broadcast")
        return msgspec.structs.replace(parse_notification(raw), seq=0, push=self._known_as(seq))

    # --- what waits for its time ----------------------------------------------------------------------------

    def _schedules(self) -> None:
        for key, raw in self._source.scan(Db.SCHEDULED):
            about = parse_metadata(metadata_of(raw[8:]))
            self._home(about).put(Db.SCHEDULED, key, raw)
            self.scheduled += 1

    def _known_as(self, seq: int) -> int:
        raw = self._source.get(Db.RELEASED, pack_u64(seq))
        if raw is None:
            return seq
        other, is_later = parse_tie(raw, seq)
        return seq if is_later else other

    def _ties(self) -> None:
        """Of what has one place; pushes to many have theirs, and broadcasts get them from the stream."""
        for key, raw in self._source.scan(Db.RELEASED):
            became, is_later = parse_tie(raw, unpack_u64(key))
            spot = self._scratch.spot(became) if is_later else None
            if spot is not None:
                self._tie(self._targets[spot.partition], became)

    def _tie(self, target: SplitTarget, seq: int) -> None:
        """To the sequence that its provider knows it by, where that is another."""
        known = self._known_as(seq)
        if known != seq:
            target.put(Db.RELEASED, pack_u64(known), build_tie(seq, is_later=True))
            target.put(Db.RELEASED, pack_u64(seq), build_tie(known, is_later=False))

    # --- histories and feeds --------------------------------------------------------------------------------

    def _steps(self) -> None:
        for key, raw in self._source.scan(Db.STEPS):
            spot = self._scratch.spot(unpack_u64(key))
            if spot is not None:
                self._targets[spot.partition].put(Db.STEPS, pack_u64(spot.seq) + key[8:], raw)

    def _feed(self) -> None:
        """Cursors stay, and each partition goes on above all of them: readers go on where they are."""
        mark = self._source.get(Db.META, CURSOR_KEY)
        last = 0 if mark is None else unpack_u64(mark)
        for key, raw in self._source.scan(Db.RECEIPTS):
            app, first = unpack_u32(key), unpack_u64(key[4:])
            at_s, seqs = parse_receipts(raw)
            last = max(last, first + len(seqs) - 1)
            runs: dict[int, tuple[int, list[int]]] = {}
            for cursor, seq in enumerate(seqs, first):
                self._tick()
                spot = self._scratch.spot(seq)
                if spot is None:
                    self.left_out += 1
                    continue
                self.receipts += 1
                begin, run = runs.setdefault(spot.partition, (cursor, []))
                if begin + len(run) != cursor:
                    self._put_receipts(spot.partition, app, begin, at_s, run)
                    run = []
                    runs[spot.partition] = (cursor, run)
                run.append(spot.seq)
            for partition, (begin, run) in runs.items():
                self._put_receipts(partition, app, begin, at_s, run)
        for target in self._targets:
            target.put(Db.META, RECEIPTS_TOLD_KEY, pack_u64(last))

    def _put_receipts(self, partition: int, app: int, cursor: int, at_s: int, seqs: list[int]) -> None:
        self._targets[partition].put(Db.RECEIPTS, receipts_key(app, cursor), build_receipts(at_s, seqs))

    def _idempotency(self) -> None:
        for key, raw in self._source.scan(Db.IDEMPOTENCY):
            seq, expires_s, _ = parse_idempotency(raw)
            about = self._about(seq)
            if expires_s < self._now_s or about is None:
                continue
            # which partition is asked says the push, so that is where the key is looked for
            target = self._home(about)
            target.put(Db.IDEMPOTENCY, key, raw)
            target.put(Db.LAPSES, pack_u32(expires_s) + key, b"")
            self.keys += 1

    def _about(self, seq: int) -> Notification | None:
        """What a push that its provider knows by this was sent to."""
        raw = self._source.get(Db.RELEASED, pack_u64(seq))
        if raw is not None:
            other, is_later = parse_tie(raw, seq)
            seq = other if is_later else seq
        key = pack_u64(seq)
        if (raw := self._source.get(Db.JOURNAL, key)) is not None and raw[0] == NOTIFICATION:
            return parse_metadata(metadata_of(raw))
        if (raw := self._source.get(Db.BROADCASTS, key)) is not None:
            return parse_metadata(metadata_of(raw))
        if (raw := self._source.get(Db.SCHEDULED, key)) is not None:
            return parse_metadata(metadata_of(raw[8:]))
        if (raw := self._source.get(Db.OUTCOMES, key)) is not None and (metadata := metadata_of_outcome(raw)):
            return parse_metadata(metadata)
        if (raw := self._source.get(Db.PUSHES, key)) is not None and (metadata := parse_push(raw).metadata):
            return parse_metadata(metadata)
        return None


def _steps_of(record: Record) -> list[Step]:
    """As batches tell of them."""
    steps = [Step(record.at_ms - record.took_ms, "sent", _EDGE), Step(record.at_ms, "acked", _EDGE)]
    if record.flags & SHOWN:
        steps.append(Step(record.at_ms, "shown", _EDGE))
    return steps
