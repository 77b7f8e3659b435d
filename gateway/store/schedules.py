"""Pushes that wait for their time; must never lose one, nor let one become two notifications.

A kept push has a row of its own. When it is released, the row goes, and two small rows tell in the same commit which
notification it became: its provider knows it by its first sequence for ever. Where a push is given out to several
stores, each has these two rows, and the one that kept it ends its row when all have taken it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from functools import partial

from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull
from gateway.model.notification import Notification
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import (
    DELETE,
    PUT,
    Db,
    PushEnd,
    Row,
    build_metadata,
    build_notification,
    pack_u64,
    parse_notification,
    unpack_u64,
)

_DUE_BYTES = 8
#: after the other sequence in a row of RELEASED: is that one the later? Rows of older versions say nothing, and the
#: larger sequence is the later
_EARLIER, _LATER = b"\0", b"\1"


class Schedules:
    """Control thread only; see model.ports.Schedules. RAM has a time for each, contents are read from the store."""

    def __init__(self, environment: Environment, committer: Committer, config: StoreConfig, metrics: Metrics) -> None:
        self._environment = environment
        self._committer = committer
        self._max_of_app = config.max_scheduled_per_app
        self._metrics = metrics
        #: app → heap of (Unix ms, seq); entries of those that are over stay until their time
        self._heaps: dict[str, list[tuple[int, int]]] = {}
        self._turns: list[tuple[int, str]] = []  # heap of (Unix ms, app): when an app has its turn; see _wakes
        self._wakes: dict[str, int] = {}  # app → the one of its entries in _turns that counts
        self._due: dict[int, int] = {}  # seq → its time, of all that are kept
        self._app: dict[int, str] = {}
        self._of_app: dict[str, set[int]] = {}
        self._fresh: dict[int, Notification] = {}  # not durable yet
        self._names: dict[int, tuple[int, bool]] = {}  # released, not durable yet: both ways, and is it the later?
        self._any_released = environment.entries(Db.RELEASED) > 0
        #: row of a push that ended without a notification, by its receipts
        self.end_push: Callable[[int, PushEnd], Row] | None = None
        #: the rows of one that is over before its time, and what to call when they are durable; by its receipts too
        self.end_early: Callable[[Notification, int, int], tuple[list[Row], Callable[[], None]]] | None = None
        self.push_landed: Callable[[int], None] = lambda _: None

    def load(self) -> None:
        """Recovery."""
        for key, raw in self._environment.scan(Db.SCHEDULED):
            notification = parse_notification(raw[_DUE_BYTES:])
            self._keep(unpack_u64(key), notification.app, unpack_u64(raw))

    def __len__(self) -> int:
        return len(self._due)

    def _keep(self, seq: int, app: str, due_ms: int) -> None:
        self._due[seq] = due_ms
        self._app[seq] = app
        self._of_app.setdefault(app, set()).add(seq)
        self._push(app, due_ms, seq)

    def _push(self, app: str, at_ms: int, seq: int) -> None:
        heapq.heappush(self._heaps.setdefault(app, []), (at_ms, seq))
        self._take_turn(app, at_ms)

    def _take_turn(self, app: str, at_ms: int) -> None:
        if at_ms < self._wakes.get(app, at_ms + 1):
            self._wakes[app] = at_ms
            heapq.heappush(self._turns, (at_ms, app))

    def _drop(self, seq: int) -> None:
        if self._due.pop(seq, None) is None:
            return
        app = self._app.pop(seq)
        self._of_app[app].discard(seq)
        heap = self._heaps.get(app, [])
        if len(heap) > 2 * len(self._of_app[app]) + 1_000:  # those recalled long before their time must not pile up
            heap[:] = [entry for entry in heap if self._due.get(entry[1]) == entry[0]]
            heapq.heapify(heap)
        if not self._of_app[app]:
            del self._of_app[app]

    # --- keeping --------------------------------------------------------------------------------------------

    def add(self, notification: Notification, due_ms: int) -> asyncio.Future[None]:
        seq, app = notification.seq, notification.app
        if len(self._of_app.get(app, ())) >= self._max_of_app:
            self._metrics.count(Metric.STORE_REFUSED, label="scheduled_of_app")
            raise QueueFull("too many pushes of this app wait for their time; nothing was accepted")
        row = pack_u64(due_ms) + build_notification(notification)

        def undo() -> None:
            self._fresh.pop(seq, None)
            self._drop(seq)

        def done() -> None:
            self._fresh.pop(seq, None)

        future = self._committer.accept([(PUT, Db.SCHEDULED, pack_u64(seq), row)], undo=undo, done=done)
        self._fresh[seq] = notification
        self._keep(seq, app, due_ms)
        return future

    def due(self, now_ms: int, limit: int) -> list[int]:
        apps: list[str] = []
        while self._turns and self._turns[0][0] <= now_ms and len(apps) < limit:
            at_ms, app = heapq.heappop(self._turns)
            if self._wakes.get(app) == at_ms:
                del self._wakes[app]
                apps.append(app)
        found: list[int] = []
        turn = deque(apps)
        while turn and len(found) < limit:  # one of each, over and over: nobody waits behind another's ten thousand
            app = turn.popleft()
            seq = self._next_of(app, now_ms)
            if seq:
                found.append(seq)
                turn.append(app)
        for app in apps:
            heap = self._heaps.get(app)
            if heap:  # those that had no turn now come first: whoever had one is behind them
                self._take_turn(app, max(heap[0][0], now_ms))
            else:
                self._heaps.pop(app, None)
        return found

    def _next_of(self, app: str, now_ms: int) -> int:
        heap = self._heaps.get(app, [])
        waiting: list[tuple[int, int]] = []
        found = 0
        while heap and heap[0][0] <= now_ms and not found:
            due_ms, seq = heapq.heappop(heap)
            if self._due.get(seq) != due_ms:
                continue
            if seq in self._fresh:  # not accepted before it is durable
                waiting.append((due_ms, seq))
            else:
                found = seq
        for entry in waiting:
            heapq.heappush(heap, entry)
        return found

    def again(self, seq: int, at_ms: int) -> None:
        if seq in self._due:
            self._due[seq] = at_ms
            self._push(self._app[seq], at_ms, seq)

    def of_app(self, app: str) -> list[tuple[int, int]]:
        return [(seq, self._due[seq]) for seq in sorted(self._of_app.get(app, ()))]

    def count_of(self, app: str) -> int:
        return len(self._of_app.get(app, ()))

    def due_ms(self, seq: int) -> int:
        """When its time comes, as it was asked for; 0 where it is not kept."""
        if seq not in self._due:
            return 0
        raw = None if seq in self._fresh else self._environment.get(Db.SCHEDULED, pack_u64(seq))
        return self._due[seq] if raw is None else unpack_u64(raw)

    def notification(self, seq: int) -> Notification | None:
        if seq not in self._due:
            return None
        if seq in self._fresh:
            return self._fresh[seq]
        raw = self._environment.get(Db.SCHEDULED, pack_u64(seq))
        return None if raw is None else parse_notification(raw[_DUE_BYTES:])

    # --- the end --------------------------------------------------------------------------------------------

    def released(self, seq: int, became: int) -> None:
        due_ms, app = self._due[seq], self._app[seq]
        self._drop(seq)
        self._tie(seq, became)

        def undo() -> None:
            self._untie(seq, became)
            self._keep(seq, app, due_ms)

        # Not `accept`: it may not be refused any more, for the notification was taken in just now.
        self._committer.join(
            [(DELETE, Db.SCHEDULED, pack_u64(seq), b""), *_tie_rows(seq, became)],
            redo=undo,
            done=lambda: self._untie(seq, became),
        )

    def taken(self, seq: int, became: int) -> None:
        self._tie(seq, became)
        settled = partial(self._untie, seq, became)
        self._committer.join(_tie_rows(seq, became), redo=settled, done=settled)

    def tie(self, seq: int, became: int) -> None:
        if self.became(seq) == became:
            return
        self._tie(seq, became)
        self._committer.keep(_tie_rows(seq, became), done=lambda: self._untie(seq, became))

    def given_out(self, seq: int) -> asyncio.Future[None]:
        due_ms, app = self._due[seq], self._app[seq]
        self._drop(seq)
        return self._committer.accept(
            [(DELETE, Db.SCHEDULED, pack_u64(seq), b"")], undo=lambda: self._keep(seq, app, due_ms)
        )

    def refuse(self, notification: Notification, state: int, at_ms: int) -> None:
        seq = notification.seq
        if self.end_push is None or self.became(seq):
            return
        row = self.end_push(seq, PushEnd(at_ms // 1_000, state, build_metadata(notification)))
        self._committer.keep([row], done=lambda: self.push_landed(seq))

    def _tie(self, seq: int, became: int) -> None:
        self._names[seq] = (became, True)
        self._names[became] = (seq, False)
        self._any_released = True

    def _untie(self, seq: int, became: int) -> None:
        """The rows say it, or it is not so any more."""
        self._names.pop(seq, None)
        self._names.pop(became, None)

    def end(self, seq: int, state: int, at_ms: int) -> None:
        notification = self.notification(seq)
        if notification is None or self.end_early is None:
            return
        self._drop(seq)
        self._fresh.pop(seq, None)
        rows, landed = self.end_early(notification, state, at_ms)
        self._committer.keep([(DELETE, Db.SCHEDULED, pack_u64(seq), b""), *rows], done=landed)

    def became(self, seq: int) -> int:
        return self._named(seq, later=True)

    def known_as(self, seq: int) -> int:
        """The sequence its provider knows a notification by."""
        return self._named(seq, later=False) or seq

    def _named(self, seq: int, *, later: bool) -> int:
        if not self._any_released:
            return 0
        known = self._names.get(seq)
        if known is None:
            raw = self._environment.get(Db.RELEASED, pack_u64(seq))
            if raw is None:
                return 0
            known = parse_tie(raw, seq)
        return known[0] if known[1] == later else 0

    def forget(self, seq: int) -> list[Row]:
        """Rows that go with the history of a notification."""
        if not self._any_released:
            return []
        first = self._named(seq, later=False)
        return [(DELETE, Db.RELEASED, pack_u64(seq), b""), (DELETE, Db.RELEASED, pack_u64(first), b"")] if first else []


def build_tie(other: int, *, is_later: bool) -> bytes:
    """The row of a sequence that is the same push as another one."""
    return pack_u64(other) + (_LATER if is_later else _EARLIER)


def parse_tie(raw: bytes, seq: int) -> tuple[int, bool]:
    """(the other sequence, is that one the later?) in the row of this one."""
    other = unpack_u64(raw)
    return other, raw[_DUE_BYTES:] == _LATER if len(raw) > _DUE_BYTES else other > seq


def _tie_rows(seq: int, became: int) -> list[Row]:
    return [
        (PUT, Db.RELEASED, pack_u64(seq), build_tie(became, is_later=True)),
        (PUT, Db.RELEASED, pack_u64(became), build_tie(seq, is_later=False)),
    ]
