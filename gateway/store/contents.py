"""Notifications by sequence: those not durable yet, a bounded cache of recent ones, and the store behind both; must
never answer with one that was undone or settled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from gateway.model.notification import Notification
from gateway.store.environment import Environment
from gateway.store.records import BATCH, Db, build_metadata, metadata_of, pack_u64, parse_notification

#: memory for decoded notifications; past it the least recently used is read from the store again
CACHE_BYTES = 64 << 20
#: what the objects of one notification take beside its bytes
_OBJECT_BYTES = 900


class Contents:
    """Control thread only."""

    def __init__(self, environment: Environment, max_bytes: int = CACHE_BYTES) -> None:
        self._environment = environment
        self._max_bytes = max_bytes
        self._bytes = 0
        self._fresh: dict[int, tuple[Notification, int]] = {}  # not durable yet, so only here
        self._cache: OrderedDict[int, tuple[Notification, int]] = OrderedDict()
        #: reads what has no row of its own, for it came in a batch
        self.batched: Callable[[int], Notification | None] = lambda _: None

    def put(self, notification: Notification, row_bytes: int) -> None:
        self._fresh[notification.seq] = (notification, row_bytes + _OBJECT_BYTES)

    def landed(self, seq: int) -> None:
        """Its row is durable."""
        entry = self._fresh.pop(seq, None)
        if entry is not None:
            self._remember(seq, entry)

    def drop(self, seq: int) -> None:
        """Undone, or settled."""
        self._fresh.pop(seq, None)
        entry = self._cache.pop(seq, None)
        if entry is not None:
            self._bytes -= entry[1]

    def get(self, db: Db, seq: int) -> Notification | None:
        entry = self._fresh.get(seq)
        if entry is not None:
            return entry[0]
        entry = self._cache.get(seq)
        if entry is not None:
            self._cache.move_to_end(seq)
            return entry[0]
        raw = self._environment.get(db, pack_u64(seq))
        if db == Db.JOURNAL and (raw is None or raw[0] == BATCH):
            notification = self.batched(seq)
            size = 0 if notification is None else len(notification.content.data)
        else:
            notification = None if raw is None else parse_notification(raw)
            size = 0 if raw is None else len(raw)
        if notification is not None:
            self._remember(seq, (notification, size + _OBJECT_BYTES))
        return notification

    def metadata(self, db: Db, seq: int) -> bytes:
        """Packed metadata; empty where there is no such notification."""
        entry = self._fresh.get(seq) or self._cache.get(seq)
        if entry is not None:
            return build_metadata(entry[0])
        raw = self._environment.get(db, pack_u64(seq))
        if db == Db.JOURNAL and (raw is None or raw[0] == BATCH):
            notification = self.batched(seq)
            return b"" if notification is None else build_metadata(notification)
        return b"" if raw is None else metadata_of(raw)

    def _remember(self, seq: int, entry: tuple[Notification, int]) -> None:
        self._cache[seq] = entry
        self._bytes += entry[1]
        while self._bytes > self._max_bytes and self._cache:
            _, (_, size) = self._cache.popitem(last=False)
            self._bytes -= size
