"""What a start reads: RAM is rebuilt from the rows in one pass over each database; must never decode content, nor
settle anything.

What expired meanwhile is loaded like the rest and reported by `Journal.due`. Rows without their owner (of a settled row
given up while the disk was full) are counted and removed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from gateway._native.pending import Pending
from gateway._native.registry import Registry
from gateway.model.cluster import SEQ_SHIFT
from gateway.model.outcome import State
from gateway.store.batches import Batches
from gateway.store.broadcasts import Broadcasts
from gateway.store.directory import NUMBERS_KEY, Directory
from gateway.store.environment import Environment
from gateway.store.figures import Figures
from gateway.store.history import History
from gateway.store.journal import Journal
from gateway.store.receipts import CURSOR_KEY, last_receipt
from gateway.store.records import (
    BATCH,
    CURSORS_SHIFT,
    DELETE,
    NOTIFICATION,
    Db,
    JournalHead,
    Row,
    pack_u64,
    parse_app,
    parse_delivery,
    parse_figures,
    parse_journal_head,
    parse_notification,
    parse_outcome,
    parse_seqs,
    parse_steps,
    unpack_u32,
    unpack_u64,
)
from gateway.store.sequences import MARK_KEY

#: rows handed to the native loaders at once
CHUNK = 512


#: databases whose keys begin with a sequence
_NUMBERED = (
    Db.JOURNAL,
    Db.BROADCASTS,
    Db.OUTCOMES,
    Db.PUSHES,
    Db.SCHEDULED,
    Db.RELEASED,
    Db.DOWNLOADS,
    Db.CAMPAIGNS,
    Db.IM_ACCOUNTS,
)


class Marks(NamedTuple):
    """Where numbering goes on."""

    sequence: int
    registration: int
    receipts: int
    receipts_told: int  # as watermark, at most
    deaths_told: int


class Counts(NamedTuple):
    apps: int
    registrations: int
    broadcasts: int
    notifications: int
    deliveries: int
    orphans: int


#: what was told as watermark, at most (feed_numbers.py)
RECEIPTS_TOLD_KEY = b"receipts_told"
DEATHS_TOLD_KEY = b"deaths_told"


def read_marks(environment: Environment, first: int = 1) -> Marks:
    """`first`: the lowest sequence there may be; in a partition others' numbers lie above its own."""

    def mark(key: bytes) -> int:
        raw = environment.get(Db.META, key)
        return 0 if raw is None else unpack_u64(raw)

    def above(db: Db, size: int, below: bytes = b"") -> int:
        last = next(iter(environment.scan_back(db, below, limit=1)), None)
        return 0 if last is None else int.from_bytes(last[0][:size], "big") + 1

    others = pack_u64((first >> SEQ_SHIFT) + 1 << SEQ_SHIFT)

    receipts = mark(CURSOR_KEY)
    for key, _ in environment.scan(Db.APPS):
        receipts = max(receipts, last_receipt(environment, unpack_u32(key)))
    return Marks(
        sequence=max(mark(MARK_KEY), *(above(db, 8, others) for db in _NUMBERED)),
        registration=max(mark(NUMBERS_KEY), above(Db.REGISTRATIONS, 4)),
        receipts=receipts,
        receipts_told=mark(RECEIPTS_TOLD_KEY),
        deaths_told=mark(DEATHS_TOLD_KEY),
    )


class Recovery:
    """One start."""

    def __init__(
        self,
        environment: Environment,
        directory: Directory,
        registry: Registry,
        broadcasts: Broadcasts,
        batches: Batches,
        journal: Journal,
        pending: Pending,
        figures: Figures,
        history: History,
    ) -> None:
        self._environment = environment
        self._directory = directory
        self._registry = registry
        self._broadcasts = broadcasts
        self._batches = batches
        self._journal = journal
        self._pending = pending
        self._figures = figures
        self._history = history
        #: rows to remove
        self.orphans: list[Row] = []

    def run(self) -> Counts:
        apps = self._load_apps()
        self._load_registrations()
        self._load_cursors()
        broadcasts = self._load_broadcasts()
        for key, raw in self._environment.scan(Db.DONE):
            self._broadcasts.restore_done(unpack_u32(key), parse_seqs(raw))
        notifications = self._load_journal()
        self._load_hops()
        return Counts(apps, len(self._registry), broadcasts, notifications, len(self._pending), len(self.orphans))

    def _load_apps(self) -> int:
        for _, raw in self._environment.scan(Db.APPS):
            self._directory.restore_app(parse_app(raw))
        return len(self._directory.app_names())

    def _load_registrations(self) -> None:
        # the loader remembers some hundred cohorts itself; an app may have thousands
        @cache
        def group_of(app_number: int, cohort: bytes) -> int:
            app = self._directory.app_name(app_number)
            return -1 if app is None else self._directory.group(app, cohort.decode())

        self._registry.expect(self._environment.entries(Db.REGISTRATIONS))
        for rows in self._environment.chunks(Db.REGISTRATIONS, CHUNK):
            self._registry.load(rows, group_of)

    def _load_cursors(self) -> None:
        for key, raw in self._environment.scan(Db.CURSORS):
            self._registry.load_cursors(unpack_u32(key) << CURSORS_SHIFT, raw)

    def _load_broadcasts(self) -> int:
        count = 0
        for key, raw in self._environment.scan(Db.BROADCASTS):
            figures = self._environment.get(Db.FIGURES, key)
            self._broadcasts.restore(parse_notification(raw), {} if figures is None else parse_figures(figures))
            count += 1
        return count

    def _load_journal(self) -> int:
        notifications = 0
        head = JournalHead(0, 0, 0, 0)
        fan = -1  # the notification whose deliveries are being read
        first, run = 0, array("I")  # deliveries with consecutive sequences
        outstanding: dict[int, tuple[int, int]] = {}  # notification → (of how many, still there)

        def load_run() -> None:
            if run:
                self._pending.add_many(first, run, fan, head.expires_s, head.collapse)
                count, there = outstanding[fan]
                outstanding[fan] = (count, there + len(run))

        def others() -> Iterator[tuple[bytes, bytes]]:
            """Rows that are not a notification and its only delivery in one."""
            nonlocal notifications
            for rows in self._environment.chunks(Db.JOURNAL, CHUNK):
                place = 0
                while place < len(rows):
                    first = place
                    place = self._pending.load(rows, place)
                    notifications += place - first
                    if place < len(rows):
                        yield rows[place]
                        place += 1

        for key, raw in others():
            seq = unpack_u64(key)
            if raw[0] == BATCH:
                load_run()
                run = array("I")
                fan = -1
                if self._batches.restore(seq, raw):
                    notifications += 1
                else:
                    self.orphans.append((DELETE, Db.JOURNAL, key, b""))
                continue
            if raw[0] == NOTIFICATION:
                load_run()
                run = array("I")
                notifications += 1
                head = parse_journal_head(raw)
                fan = seq
                outstanding[seq] = (head.targets, 0)
                continue
            registration, distance = parse_delivery(raw)
            if seq - distance != fan:
                self.orphans.append((DELETE, Db.JOURNAL, key, b""))
                continue
            if run and seq != first + len(run):
                load_run()
                run = array("I")
            if not run:
                first = seq
            run.append(registration)
        load_run()
        for notification, (count, there) in outstanding.items():
            if there:
                self._journal.restore_fan(notification, there)
                self._figures.open(notification, self._fan_figures(notification, count, there))
            else:
                self.orphans.append((DELETE, Db.JOURNAL, pack_u64(notification), b""))
                notifications -= 1
        return notifications

    def _fan_figures(self, notification: int, count: int, there: int) -> dict[str, int]:
        """Counts by state of a push to several; written behind, so after a crash they may have to be counted."""
        raw = self._environment.get(Db.FIGURES, pack_u64(notification))
        figures = {} if raw is None else parse_figures(raw)
        if sum(figures.values()) == count - there:
            return figures
        figures = {}
        for key, outcome in self._environment.scan(Db.OUTCOMES, pack_u64(notification + 1)):
            if unpack_u64(key) > notification + count:
                break
            name = State(parse_outcome(outcome).state).name.lower()
            figures[name] = figures.get(name, 0) + 1
        return figures

    def _load_hops(self) -> None:
        """The last row of steps of a delivery says how many notifiers it had used. Only those that took the message
        stay used up: what held the others up is not remembered, and no timer would try them again. One whose answer was
        not written had none."""
        of, took = -1, set[str]()
        for key, raw in self._environment.scan(Db.STEPS):
            self._history.has_rows = True
            seq = unpack_u64(key)
            if seq != of:
                of, took = seq, set()
            hop, steps = parse_steps(raw)
            took.update(step.channel for step in steps if step.what == "notified")
            if not self._pending.set_state(seq, State.ACCEPTED, min(hop, len(took))):
                self.orphans.append((DELETE, Db.STEPS, key, b""))
