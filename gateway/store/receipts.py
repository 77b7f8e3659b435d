"""The receipts feed of each app, look-up of pushes, idempotency keys and the sweep of old history; must never show one
app another's.

The feed names settled deliveries in commit order: a row holds those of one app that one call settled. It is also the
order in time by which history is swept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING

from gateway.config.sections import Store as StoreConfig
from gateway.model.cluster import is_imported_seq
from gateway.model.notification import Notification
from gateway.model.outcome import CLOSING, Outcome, State, Step
from gateway.model.ports import PushRecord, Receipt
from gateway.store.batch_rows import ended_at_s
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.feed_numbers import FeedNumbers
from gateway.store.figures import Figures
from gateway.store.history import History
from gateway.store.records import (
    DELETE,
    NO_STATE,
    PUT,
    Db,
    PushEnd,
    Row,
    build_idempotency,
    build_metadata,
    build_push,
    build_receipts,
    idempotency_key,
    pack_u32,
    pack_u64,
    parse_grown,
    parse_idempotency,
    parse_metadata,
    parse_push,
    parse_receipts,
    receipts_key,
    unpack_u32,
    unpack_u64,
)

if TYPE_CHECKING:
    from gateway.store.card_downloads import DownloadStore
    from gateway.store.deaths import Deaths
    from gateway.store.directory import Directory
    from gateway.store.journal import Journal
    from gateway.store.schedules import Schedules

#: the highest cursor ever written, so that sweeping the feed does not start it anew
CURSOR_KEY = b"receipts"
#: registration of an outcome where it is gone
NOBODY = 0
#: receipts in one row of the feed at most: a page reads whole rows
FEED_ROW = 4_096
#: rows looked at in one call of `sweep`, for each kind of history
SWEEP_ROWS = 1_000
#: the same for batches, whose rows are large
SWEEP_BATCHES = 50


def last_receipt(environment: Environment, app_number: int) -> int:
    """The last cursor of an app in the store, 0 where there is none."""
    with environment.begin() as txn, txn.cursor(environment.db(Db.RECEIPTS)) as cursor:
        there = cursor.prev() if cursor.set_range(receipts_key(app_number + 1, 0)) else cursor.last()
        if not there or unpack_u32(bytes(cursor.key())) != app_number:
            return 0
        return unpack_u64(bytes(cursor.key())[4:]) + len(parse_receipts(bytes(cursor.value()))[1]) - 1


class Receipts:
    """Control thread only; see model.ports.Receipts."""

    def __init__(
        self,
        environment: Environment,
        committer: Committer,
        directory: Directory,
        figures: Figures,
        history: History,
        config: StoreConfig,
        clock: Callable[[], int],
        numbers: FeedNumbers,
        *,
        in_fleet: bool = False,
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._directory = directory
        self._figures = figures
        self._history = history
        self._clock = clock
        self._retention_s = int(config.history_days * 86_400)
        self._numbers = numbers
        self._in_fleet = in_fleet
        self._landed = numbers.last
        self._fed = False
        self._subscribers: list[Callable[[], None]] = []
        self._ends: dict[int, PushEnd] = {}  # pushes that ended, not durable yet
        self._keys: dict[bytes, tuple[int, int, bytes]] = {}  # idempotency keys not durable yet
        self._positions: dict[str, int] = {}
        self._swept_push = b""
        self._swept_batch = b""
        self._sweeping = False
        self._journal: Journal | None = None
        self._schedules: Schedules | None = None
        self._deaths: Deaths | None = None
        self._downloads: DownloadStore | None = None
        committer.add_hook(self._after_commit)

    def attach(self, journal: Journal, schedules: Schedules, deaths: Deaths, downloads: DownloadStore) -> None:
        """Look-up needs what is pending, what waits for its time and what was brought to cards; old deaths are swept
        with the rest."""
        self._downloads = downloads
        self._journal = journal
        self._deaths = deaths
        self._schedules = schedules

    # --- feed -----------------------------------------------------------------------------------------------

    def feed(self, outcomes: Sequence[Outcome]) -> tuple[list[Row], int]:
        """Rows that put these outcomes into the feed of their apps, and the last cursor: `feed_landed` when durable."""
        by_app: dict[str, list[int]] = {}
        for outcome in outcomes:
            by_app.setdefault(outcome.app, []).append(outcome.seq)
        now_s = self._clock() // 1_000
        of: dict[int, list[int]] = {}
        for app, seqs in by_app.items():
            of.setdefault(self._directory.app_number(app), []).extend(seqs)
        firsts = self._numbers.take({app: len(seqs) for app, seqs in of.items()})
        rows: list[Row] = [
            (PUT, Db.RECEIPTS, receipts_key(app, firsts[app]), build_receipts(now_s, seqs)) for app, seqs in of.items()
        ]
        return rows, max(firsts[app] + len(seqs) for app, seqs in of.items()) - 1

    def feed_packed(self, app_number: int, packed: bytes) -> tuple[list[Row], int]:
        """The same for packed sequences of one app."""
        at = pack_u32(self._clock() // 1_000)
        rows: list[Row] = []
        first = self._numbers.take({app_number: len(packed) // 8})[app_number]
        for start in range(0, len(packed), 8 * FEED_ROW):
            part = packed[start : start + 8 * FEED_ROW]
            rows.append((PUT, Db.RECEIPTS, receipts_key(app_number, first), at + part))
            first += len(part) // 8
        return rows, first - 1

    def feed_landed(self, cursor: int) -> None:
        self._landed = max(self._landed, cursor)
        self._fed = True
        self._numbers.landed(cursor)

    def feed_lost(self, cursor: int) -> None:
        """Those rows are not written, and made again with other cursors."""
        self._numbers.landed(cursor)

    def _after_commit(self) -> None:
        if not self._fed:
            return
        self._fed = False
        for wake in list(self._subscribers):
            wake()

    def last_cursor(self, app: str) -> int:
        if self._in_fleet:
            return self._landed
        return last_receipt(self._environment, self._directory.app_number(app))

    def watermark(self, seen: int = 0) -> int:
        """No receipt with a cursor at or below it will ever appear any more, whoever owns the partition then."""
        return self._numbers.watermark(seen)

    def after(self, app: str, cursor: int, limit: int) -> list[Receipt]:
        number = self._directory.app_number(app)
        if limit <= 0 or not number:
            return []
        places: list[tuple[int, int]] = []
        for key, raw in self._environment.scan(Db.RECEIPTS, self._row_of(number, cursor + 1)):
            if unpack_u32(key) != number:
                break
            first = unpack_u64(key[4:])
            _, seqs = parse_receipts(raw)
            skip = max(0, cursor + 1 - first)
            places += enumerate(seqs[skip:], first + skip)
            if len(places) >= limit:
                break
        receipts = []
        for place, seq in places[:limit]:
            outcome, metadata = self._history.entry(seq)
            if outcome is None and self._downloads is not None:
                outcome = self._downloads.outcome(seq)
            if outcome is not None and outcome.app == app:
                receipts.append(Receipt(place, outcome, self._known_as(outcome.notification, metadata)))
        return receipts

    def _known_as(self, seq: int, metadata: bytes) -> int:
        grown = parse_grown(metadata)
        if grown is not None:
            return grown.push or grown.broadcast
        return seq if self._schedules is None else self._schedules.known_as(seq)

    def _row_of(self, app_number: int, cursor: int) -> bytes:
        """Key of the row that holds this cursor, or of the first one after it."""
        wanted = receipts_key(app_number, cursor)
        with self._environment.begin() as txn, txn.cursor(self._environment.db(Db.RECEIPTS)) as rows:
            if rows.set_range(wanted) and bytes(rows.key()) == wanted:
                return wanted
            if rows.prev() if rows.key() else rows.last():
                key = bytes(rows.key())
                if unpack_u32(key) == app_number:
                    _, seqs = parse_receipts(bytes(rows.value()))
                    if unpack_u64(key[4:]) + len(seqs) > cursor:
                        return key
        return wanted

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._subscribers.append(wake)

        def unsubscribe() -> None:
            if wake in self._subscribers:
                self._subscribers.remove(wake)

        return unsubscribe

    def saved_cursor(self, name: str) -> int:
        return self._positions.get(name, 0)

    def save_cursor(self, name: str, cursor: int) -> None:
        self._positions[name] = cursor
        self._committer.keep([(PUT, Db.POSITIONS, name.encode(), pack_u64(cursor))])

    def restore_position(self, name: str, cursor: int) -> None:
        self._positions[name] = cursor

    # --- where is my push? ----------------------------------------------------------------------------------

    def end_push(self, seq: int, end: PushEnd) -> Row:
        """A multi-target push or a broadcast is over: its row; `push_landed` when it is durable."""
        self._ends[seq] = end
        return (PUT, Db.PUSHES, pack_u64(seq), build_push(end))

    def end_early(self, notification: Notification, state: int, at_ms: int) -> tuple[list[Row], Callable[[], None]]:
        """A push that waited for its time is over before that: its rows, and what to call when they are durable. One to
        a token has a receipt, as any delivery that ends; of the others nobody knows yet whom they were for."""
        seq, token = notification.seq, notification.target.token
        metadata = build_metadata(notification)
        rows = [self.end_push(seq, PushEnd(at_ms // 1_000, state, metadata))]
        if not token:
            return rows, lambda: self.push_landed(seq)
        number = self._directory.find(token, notification.app)
        step = Step(at_ms, CLOSING[State(state)])
        outcome = Outcome(seq, seq, max(number, NOBODY), notification.app, state, at_ms, [step])
        rows.append(self._history.settle(outcome, metadata))
        feed, cursor = self.feed([outcome])

        def landed() -> None:
            self.push_landed(seq)
            self._history.landed(outcome)
            self.feed_landed(cursor)

        return rows + feed, landed

    def ended_as(self, seq: int) -> int:
        """The state it ended in; NO_STATE where it did not, or not as a whole."""
        end = self._ends.get(seq)
        if end is None:
            raw = self._environment.get(Db.PUSHES, pack_u64(seq))
            return NO_STATE if raw is None else parse_push(raw).state
        return end.state

    def has_ended(self, seq: int) -> bool:
        """A multi-target push or a broadcast that is over, as long as its history is kept."""
        return seq in self._ends or self._environment.get(Db.PUSHES, pack_u64(seq)) is not None

    def push_landed(self, seq: int) -> None:
        self._ends.pop(seq, None)

    def lookup(self, app: str, seq: int, *, offset: int = 0, limit: int = 100) -> PushRecord | None:
        if self._journal is None or self._schedules is None:
            return None
        became = self._schedules.became(seq)
        kept = None if became else self._schedules.notification(seq)
        if kept is not None:
            return PushRecord(kept, [], {}, None, self._schedules.due_ms(seq)) if kept.app == app else None
        seq = became or seq
        state: int | None = None
        notification = self._journal.notification(seq)
        if notification is None:
            notification, state = self._settled(seq)
        if notification is None or notification.app != app:
            return None
        single = self._journal.get(seq) is not None or bool(self._history.metadata(seq))
        if notification.target.is_broadcast and not notification.count and not single:
            return PushRecord(notification, [], self._figures.of(seq), int(State.ACCEPTED) if state is None else state)
        if single:
            delivery = self._delivery(seq, app)
            shown = [delivery] if delivery is not None and offset == 0 and limit > 0 else []
            figures = {} if delivery is None else {State(delivery.state).name.lower(): 1}
            # Kept for its time, and over before that came: then its end is all there is of it.
            is_early = delivery is not None and State(delivery.state).is_final and len(delivery.steps) == 1
            end = self.ended_as(seq) if is_early else NO_STATE
            return PushRecord(notification, shown, figures, None if end == NO_STATE else end)
        if state is not None:  # kept for its time, and over before that came
            return PushRecord(notification, [], {}, state)
        last, offset, limit = seq + notification.count, max(0, offset), max(0, limit)
        pending, figures = self._journal.outstanding(seq), self._figures.of(seq)
        if self._in_fleet and is_imported_seq(seq):  # others of its deliveries are in other partitions
            targeted = pending + sum(figures.values())
            numbers: Iterable[int] = list(islice(self._there(seq + 1, last), offset, offset + limit)) if limit else ()
        else:
            targeted = notification.count
            numbers = range(seq + 1 + offset, min(last, seq + offset + limit) + 1)
        found = [self._delivery(number, app) for number in numbers]
        deliveries = [delivery for delivery in found if delivery is not None]
        return PushRecord(notification, deliveries, {"targeted": targeted, "pending": pending, **figures}, None)

    def _there(self, first: int, last: int) -> Iterator[int]:
        """Numbers of these deliveries that are pending or have a history, ascending; use it up at once."""
        scans = (self._environment.scan(db, pack_u64(first)) for db in (Db.JOURNAL, Db.OUTCOMES))
        before = 0
        for key in merge(*((key for key, _ in scan) for scan in scans)):
            number = unpack_u64(key)
            if number > last:
                return
            if number != before:
                yield number
            before = number

    def _settled(self, seq: int) -> tuple[Notification | None, int | None]:
        metadata = self._history.metadata(seq)
        if metadata:
            return parse_metadata(metadata), None
        end = self._ends.get(seq)
        if end is None:
            raw = self._environment.get(Db.PUSHES, pack_u64(seq))
            if raw is None:
                return None, None
            end = parse_push(raw)
        if not end.metadata:
            return None, None
        return parse_metadata(end.metadata), None if end.state == NO_STATE else end.state

    def _delivery(self, seq: int, app: str) -> Outcome | None:
        if self._journal is None:
            return None
        pending = self._journal.get(seq)
        if pending is None:
            return self._history.outcome(seq)
        return Outcome(
            seq, pending.notification, pending.registration, app, pending.state, 0, self._history.steps_of(seq)
        )

    # --- idempotency ----------------------------------------------------------------------------------------

    def remember(
        self, app: str, key: str, body_hash: bytes, seq: int, expires_s: int, *, joined: bool = False
    ) -> asyncio.Future[None]:
        """Tie an idempotency key to a push. `joined`: it is called in the callback of that push's `append`, and both
        are one transaction. One that stands alone may be refused: StoreUnavailable, QueueFull."""
        stored = idempotency_key(self._directory.app_number(app), key)
        entry = (seq, expires_s, body_hash)

        def settled() -> None:
            if self._keys.get(stored) is entry:
                del self._keys[stored]

        future = self._committer.accept(
            [
                (PUT, Db.IDEMPOTENCY, stored, build_idempotency(seq, expires_s, body_hash)),
                (PUT, Db.LAPSES, pack_u32(expires_s) + stored, b""),
            ],
            undo=settled,
            done=settled,
            joined=joined,
        )
        self._keys[stored] = entry
        return future

    def recall_idempotent(self, app: str, key: str) -> tuple[int, bytes] | None:
        """(seq, body hash) of the push made with this key, None where there is none or it lapsed."""
        stored = idempotency_key(self._directory.app_number(app), key)
        entry = self._keys.get(stored)
        if entry is None:
            raw = self._environment.get(Db.IDEMPOTENCY, stored)
            if raw is None:
                return None
            entry = parse_idempotency(raw)
        seq, expires_s, body_hash = entry
        return (seq, body_hash) if expires_s > self._clock() // 1_000 else None

    # --- sweep ----------------------------------------------------------------------------------------------

    def sweep(self, now_ms: int) -> bool:
        """Remove a slice of what is past retention; True where there is more. Does nothing while nothing can be
        written.
        """
        if not self._committer.writable:
            return False
        if self._sweeping:
            return True  # the slice before is still on its way to disk
        now_s = now_ms // 1_000
        rows: list[Row] = []
        more = self._sweep_keys(now_s, rows)
        more |= self._sweep_outcomes(now_s - self._retention_s, rows)
        more |= self._sweep_pushes(now_s - self._retention_s, rows)
        more |= self._sweep_batches(now_s - self._retention_s, rows)
        if self._deaths is not None:
            dead, more_dead = self._deaths.sweep(self._directory.app_numbers(), (now_s - self._retention_s) * 1_000)
            rows += dead
            more |= more_dead
        if rows:
            self._sweeping = True
            # a slice that fails is found again by the next sweep
            self._committer.refresh(rows, redo=self._swept, done=self._swept)
        return more

    def _swept(self) -> None:
        self._sweeping = False

    def _sweep_keys(self, now_s: int, rows: list[Row]) -> bool:
        seen = 0
        for key, _ in self._environment.scan(Db.LAPSES, limit=SWEEP_ROWS):
            if unpack_u32(key) > now_s:
                return False
            seen += 1
            rows.append((DELETE, Db.LAPSES, key, b""))
            raw = self._environment.get(Db.IDEMPOTENCY, key[4:])
            # the key may have been used again since, after it lapsed
            if raw is not None and key[4:] not in self._keys and parse_idempotency(raw)[1] <= now_s:
                rows.append((DELETE, Db.IDEMPOTENCY, key[4:], b""))
        return seen == SWEEP_ROWS

    def _sweep_outcomes(self, before_s: int, rows: list[Row]) -> bool:
        more = False
        for number in self._directory.app_numbers():
            seen = 0
            for key, raw in self._environment.scan(Db.RECEIPTS, receipts_key(number, 0), limit=SWEEP_ROWS):
                at_s, seqs = parse_receipts(raw)
                if unpack_u32(key) != number or at_s >= before_s:
                    break
                seen += len(seqs)
                rows += [(DELETE, Db.RECEIPTS, key, b""), (PUT, Db.META, CURSOR_KEY, pack_u64(self._landed))]
                rows += [(DELETE, Db.OUTCOMES, pack_u64(seq), b"") for seq in seqs]
                if self._downloads is not None:
                    rows += [row for seq in seqs for row in self._downloads.forget(seq)]
                if self._schedules is not None:
                    rows += [row for seq in seqs for row in self._schedules.forget(seq)]
                if seen >= SWEEP_ROWS:
                    more = True
                    break
        return more

    def _sweep_pushes(self, before_s: int, rows: list[Row]) -> bool:
        """These are not in the order of their ends: go round, a slice a call."""
        last = b""
        seen = 0
        for key, raw in self._environment.scan(Db.PUSHES, self._swept_push, limit=SWEEP_ROWS):
            seen += 1
            last = key
            if parse_push(raw).at_s < before_s:
                rows += [(DELETE, Db.PUSHES, key, b""), (DELETE, Db.FIGURES, key, b"")]
                if self._schedules is not None:
                    rows += self._schedules.forget(unpack_u64(key))
        self._swept_push = last + b"\0" if seen == SWEEP_ROWS else b""
        return seen == SWEEP_ROWS

    def _sweep_batches(self, before_s: int, rows: list[Row]) -> bool:
        """In the order of their acceptance, which is nearly that of their ends."""
        seen = 0
        for key, raw in self._environment.scan(Db.BATCHES, self._swept_batch, limit=SWEEP_BATCHES):
            seen += 1
            self._swept_batch = key + b"\0"
            if ended_at_s(raw) < before_s:
                rows.append((DELETE, Db.BATCHES, key, b""))
        if seen < SWEEP_BATCHES:
            self._swept_batch = b""
        return seen == SWEEP_BATCHES
