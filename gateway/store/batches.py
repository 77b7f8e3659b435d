"""Batches of pushes: one row of the journal each, and a few rows for all that became of its deliveries; must never lose
a delivery that was not settled, nor bring back one that was.

`ext/batches.pyx` settles the common acks by itself and keeps a record of each; at every commit what changed becomes
rows here: a batch that is over loses its journal row and leaves a history row behind, one that is not gets a row of its
records so far. A batch that is over before its first commit never costs a journal row at all.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gateway._native.batches import PART, merge
from gateway._native.batches import Batches as Table
from gateway._native.intake import Batch, Router
from gateway._native.pending import Pending
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull
from gateway.model.notification import Notification
from gateway.model.outcome import Outcome, State, Step
from gateway.model.ports import BatchLimits
from gateway.store.batch_rows import (
    APART,
    RECORD_BYTES,
    SHOWN,
    UNDONE,
    Record,
    build_ended_batch,
    head_of_batch,
    is_all_undone,
    parse_batch_head,
    parse_batch_item,
    parse_batched,
    parse_ended_batch,
    parse_record,
)
from gateway.store.commit import Committer
from gateway.store.commit_entry import Call
from gateway.store.environment import Environment
from gateway.store.records import DELETE, PUT, Db, Row, build_metadata, pack_u64, unpack_u64
from gateway.store.row_codec import weigh
from gateway.store.sequences import Sequences

if TYPE_CHECKING:
    from gateway.store.directory import Directory
    from gateway.store.receipts import Receipts

#: the channel in the histories made here
_EDGE = "edge"
#: dead entries in the list of first sequences before it is made anew
_SPARE = 10_000


class _Rows:
    """The journal row of a batch; weighs as much as its pushes in the bounds of the group commit."""

    __slots__ = ("count", "row")

    def __init__(self, count: int, row: Row) -> None:
        self.count = count
        self.row: Row | None = row

    def __len__(self) -> int:
        return self.count

    def __contains__(self, row: object) -> bool:
        return row == self.row

    @property
    def weight(self) -> int:
        """For row_codec.is_small."""
        return 0 if self.row is None else weigh(self.row)

    def __iter__(self) -> Iterator[Row]:
        if self.row is not None:
            yield self.row


class _Live:
    """A batch with deliveries that are pending, or whose end is not durable yet."""

    __slots__ = ("count", "first", "flights", "raw", "rows", "slot", "stored")

    def __init__(self, first: int, count: int, slot: int, rows: _Rows | None, raw: bytes) -> None:
        self.first = first
        self.count = count
        self.slot = slot
        self.rows = rows  # None: durable
        self.raw = raw  # until it is durable
        self.flights = 0  # rows of its records under way
        self.stored = 0  # parts of which a row was given to the committer: bit i for records from i * PART on

    def part_key(self, part: int) -> bytes:
        return pack_u64(self.first + part * PART)


class Accepted:
    """A batch that was taken in: delivery i of those that were ready has the sequence first + i."""

    __slots__ = ("done", "first", "odd", "withdrawn")

    def __init__(self, first: int, odd: list[int]) -> None:
        self.first = first
        #: pending deliveries whose first look is not plain
        self.odd = odd
        #: (sequence, registration) of those taken back because the commit failed
        self.withdrawn: list[tuple[int, int]] = []
        self.done: asyncio.Future[None]


class Batches:
    """Control thread only; see model.ports.Journal for what the delivery floor uses."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        pending: Pending,
        sequences: Sequences,
        directory: Directory,
        receipts: Receipts,
        config: StoreConfig,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._pending = pending
        self._sequences = sequences
        self._directory = directory
        self._receipts = receipts
        self._max_pending = config.max_pending
        self._max_of_one = config.max_pending_per_registration
        self._metrics = metrics
        self._clock = clock
        #: the data plane settles plain acks into it
        self.table = Table(pending)
        self._live: dict[int, _Live] = {}
        self._firsts: list[int] = []  # of live ones, ascending, and some that are over
        #: rows of settled deliveries with a history of their own: they go with their batches' records
        self._apart: list[Row] = []
        self._apart_landed: list[Call] = []
        #: told of each delivery that is undone
        self.on_undone: Callable[[int], None] = lambda _: None
        committer.add_source(self._drain)

    def __len__(self) -> int:
        return len(self._live)

    # --- accepting ------------------------------------------------------------------------------------------

    def read(self, app: str, arrays: list[bytes | memoryview], limits: BatchLimits) -> Batch:
        """Read and look up packed arrays of pushes. ValueError: one is none; OverflowError: too many."""
        return Batch(
            self._directory.registry,
            self._pending,
            self.table,
            arrays,
            self._directory.app_number(app),
            most=limits.pushes,
            push_bytes=limits.push_bytes,
            inline_bytes=limits.inline_bytes,
            pending_of_one=self._max_of_one,
            ttl_s=limits.ttl_s,
            most_ttl_s=limits.most_ttl_s,
        )

    def append(self, batch: Batch, limits: BatchLimits, router: Router, now_ms: int) -> Accepted:
        """Take in all that is ready: pending, sent where that is plain, and durable when `done` is. QueueFull or
        StoreUnavailable: nothing was accepted."""
        count = batch.ready
        if len(self._pending) + count > self._max_pending:
            self._metrics.count(Metric.STORE_REFUSED, label="pending")
            raise QueueFull("too many deliveries are pending; nothing was accepted")
        self._committer.admit(count)
        first = self._sequences.reserve(count)
        raw, slot, odd = batch.accept(
            first, now_ms, limits.ack_ms, limits.notifier_ack_ms, limits.has_no_notifiers, router
        )
        rows = _Rows(count, (PUT, Db.JOURNAL, pack_u64(first), raw))
        live = self._hold(_Live(first, count, slot, rows, raw))
        accepted = Accepted(first, odd)

        def landed() -> None:
            live.rows, live.raw = None, b""

        accepted.done = self._committer.accept(rows, undo=lambda: self._undo(live, accepted), done=landed)
        return accepted

    def _hold(self, live: _Live) -> _Live:
        self._live[live.first] = live
        self._firsts.append(live.first)
        if len(self._firsts) > 2 * len(self._live) + _SPARE:
            self._firsts = sorted(self._live)
        return live

    def _undo(self, live: _Live, accepted: Accepted) -> None:
        """The commit failed: what no device has acked was never accepted."""
        now = self._clock()
        for seq in range(live.first, live.first + live.count):
            row = self._pending.get(seq)
            if row is not None:
                self.table.note(seq, State.REJECTED, now, undone=True)
                self._pending.remove(seq)
                self.on_undone(seq)
                accepted.withdrawn.append((seq, row[0]))
        if self.table.is_changed:
            self._committer.nudge()

    # --- what became of them --------------------------------------------------------------------------------

    def note(self, seq: int, state: int, at_ms: int) -> bool:
        """A pending delivery of a batch is settled with a history of its own, whose rows go through `settle_apart`;
        False for one of no batch."""
        return self.table.note(seq, state, at_ms)

    def settle_apart(self, rows: list[Row], done: Call) -> None:
        """Rows that belong into the transaction that says of their deliveries that they are settled."""
        self._apart += rows
        self._apart_landed.append(done)
        self.nudge()

    def mark_odd(self, seq: int) -> None:
        """Something is in its history: its ack is not plain any more."""
        self.table.mark_odd(seq)

    def nudge(self) -> None:
        """Acks were settled: they go with the next commit."""
        if self.table.is_changed:
            self._committer.nudge()

    def _drain(self) -> None:
        """Just before a commit, so none is under way: rows of all that changed, in one entry."""
        if not self.table.is_changed:
            return
        rows, self._apart = self._apart, []
        done, self._apart_landed = self._apart_landed, []
        over: list[_Live] = []
        stored: list[_Live] = []
        acked = self.table.take_acked()
        if acked:
            self._metrics.count(Metric.DELIVERIES, acked, "acked")
        for slot, first, is_over, parts, records in self.table.take_changed():
            live = self._live[first]
            assert live.slot == slot
            if is_over:
                over.append(live)
                rows += self._end(live, records)
            else:
                live.flights += 1
                stored.append(live)
                rows += self._store(live, parts, records)
        cursors: list[int] = []
        for number, packed in self.table.take_feeds():
            feed, cursor = self._receipts.feed_packed(number, packed)
            rows += feed
            cursors.append(cursor)

        def landed() -> None:
            for live in stored:
                live.flights -= 1
                if live.flights == 0 and live.first in self._live:
                    self.table.forget_records(live.slot)
            for live in over:
                self.table.close(live.slot)
                del self._live[live.first]
            for call in done:
                call()
            for cursor in cursors:
                self._receipts.feed_landed(cursor)

        self._committer.keep(rows, done=landed)

    def _part(self, live: _Live, part: int, records: bytes) -> bytes:
        """Records of one part with those that are durable already."""
        fresh = records[part * PART * RECORD_BYTES : (part + 1) * PART * RECORD_BYTES]
        before = self._environment.get(Db.SETTLED, live.part_key(part)) if live.stored >> part & 1 else None
        return fresh if before is None else merge(before, fresh)

    def _store(self, live: _Live, parts: int, records: bytes) -> list[Row]:
        news = [part for part in range(parts.bit_length()) if parts >> part & 1]
        rows: list[Row] = [(PUT, Db.SETTLED, live.part_key(part), self._part(live, part, records)) for part in news]
        live.stored |= parts
        return rows

    def _end(self, live: _Live, records: bytes) -> list[Row]:
        key = pack_u64(live.first)
        records = b"".join(self._part(live, part, records) for part in range(-(-live.count // PART)))
        rows: list[Row] = []
        if live.rows is None:
            rows.append((DELETE, Db.JOURNAL, key, b""))
        else:
            live.rows.row = None  # it waits for the same commit
        rows += [
            (DELETE, Db.SETTLED, live.part_key(part), b"")
            for part in range(live.stored.bit_length())
            if live.stored >> part & 1
        ]
        if not is_all_undone(records):
            ended = build_ended_batch(self._clock() // 1_000, head_of_batch(self._raw(live)), records)
            rows.append((PUT, Db.BATCHES, key, ended))
        return rows

    # --- look-up --------------------------------------------------------------------------------------------

    def _raw(self, live: _Live) -> bytes:
        return live.raw or self._environment.get(Db.JOURNAL, pack_u64(live.first)) or b""

    def _live_of(self, seq: int) -> _Live | None:
        place = bisect_right(self._firsts, seq)
        live = self._live.get(self._firsts[place - 1]) if place else None
        return live if live is not None and seq < live.first + live.count else None

    def _ended(self, seq: int) -> tuple[int, bytes, bytes] | None:
        """(first sequence, head, records) of the batch that is over and held this one."""
        batches = self._environment.db(Db.BATCHES)
        if batches is None:
            return None
        with self._environment.begin() as txn, txn.cursor(batches) as cursor:
            key = pack_u64(seq)
            there = cursor.set_range(key)
            if not (there and bytes(cursor.key()) == key):
                there = cursor.prev() if there else cursor.last()
            if not there:
                return None
            first = unpack_u64(bytes(cursor.key()))
            head, records = parse_ended_batch(bytes(cursor.value()))
        return (first, head, records) if seq - first < parse_batch_head(head).pushes else None

    def notification(self, seq: int) -> Notification | None:
        """A delivery's notification with its content, as long as its batch is in the journal."""
        live = self._live_of(seq)
        if live is None:
            return None
        if live.raw:
            return self._parse(live.raw, seq, live.first)
        # a row may be large, and this is a small part of it
        key = pack_u64(live.first)
        return self._environment.look(Db.JOURNAL, key, lambda raw: self._parse(raw, seq, live.first))

    def _parse(self, raw: bytes | memoryview, seq: int, first: int) -> Notification:
        app = self._directory.app_name(parse_batch_head(raw).app_number) or ""
        return parse_batched(raw, seq - first, first, app)

    def _settled(self, seq: int) -> tuple[int, bytes, Record] | None:
        """(first sequence, head, record) of a delivery whose history is kept here."""
        live = self._live_of(seq)
        found = None if live is None else self._settled_live(live, seq)
        if found is None:  # a commit that ended it may be on disk before this thread hears of it, at any moment
            ended = self._ended(seq)
            if ended is None:
                return None
            first, head, records = ended
            found = first, head, parse_record(records, seq - first)
        record = found[2]
        return None if record.state == 0 or record.flags & (APART | UNDONE) else found

    def _settled_live(self, live: _Live, seq: int) -> tuple[int, bytes, Record] | None:
        head = self._raw(live)
        if not head:
            return None
        fresh = self.table.settled_of(live.slot, seq)
        if fresh is not None:
            return live.first, head, Record(*fresh)
        part, place = divmod(seq - live.first, PART)
        stored = self._environment.get(Db.SETTLED, live.part_key(part))
        return None if stored is None else (live.first, head, parse_record(stored, place))

    def outcome(self, seq: int) -> Outcome | None:
        """The end of a delivery that was acked at once; None for any other."""
        found = self._settled(seq)
        if found is None:
            return None
        first, head, record = found
        app = self._directory.app_name(parse_batch_head(head).app_number) or ""
        steps = [Step(record.at_ms - record.took_ms, "sent", _EDGE), Step(record.at_ms, "acked", _EDGE)]
        if record.flags & SHOWN:
            steps.append(Step(record.at_ms, "shown", _EDGE))
        registration = parse_batch_item(head, seq - first).registration
        return Outcome(seq, seq, registration, app, record.state, record.at_ms, steps)

    def metadata(self, seq: int) -> bytes:
        """Packed metadata of the notification of such a delivery; empty where there is none."""
        found = self._settled(seq)
        return b"" if found is None else build_metadata(self._parse(head_of_batch(found[1]), seq, found[0]))

    # --- recovery -------------------------------------------------------------------------------------------

    def restore(self, first: int, raw: bytes) -> bool:
        """A batch from the journal: what is not settled is pending again. False: nothing of it is."""
        count = parse_batch_head(raw).pushes
        stored = dict(self._parts(first, count))
        live = _Live(first, count, -1, None, b"")
        settled = b""
        for part in range(-(-count // PART)):
            size = min(PART, count - part * PART) * RECORD_BYTES
            live.stored |= (live.part_key(part) in stored) << part
            settled += stored.get(live.part_key(part), bytes(size))
        live.slot = self.table.restore(first, raw, settled if stored else b"")
        if live.slot < 0:
            return False
        self._hold(live)
        return True

    def _parts(self, first: int, count: int) -> Iterator[tuple[bytes, bytes]]:
        for key, raw in self._environment.scan(Db.SETTLED, pack_u64(first)):
            if unpack_u64(key) >= first + count:
                return
            yield key, raw
