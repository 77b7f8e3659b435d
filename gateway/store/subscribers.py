"""Records of subscribers, their opaque ids and what those stood for (C7); must never hold more of them in RAM than is
on its way to the disk.

Nothing is read at start. A record is one sealed row; rows of keyed hashes lead to it from each network id and each
opaque id. The history is only ever appended to, and swept when its retention is over.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

from gateway.model.subscriber import (
    STANDS_FOR,
    IssuedId,
    NetworkId,
    NetworkIdKind,
    OpaqueKind,
    PastId,
    SubscriberRecord,
)
from gateway.model.subscriber_records import News, NewsLine, SubscriberChange
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import DELETE, PUT, Db, Row
from gateway.store.subscriber_news import SubscriberNews
from gateway.store.subscriber_rows import (
    HANDLE_BYTES,
    HISTORY_END,
    ID_END,
    HistoryLine,
    SubscriberRows,
    end_key,
    history_key,
    parse_end_key,
)

#: ends looked at in one call of `sweep`
SWEEP_ROWS = 1_000
#: lines of history of one id that go in one call of `sweep`; the rest goes in the next
_SWEEP_LINES = 10_000
_MAX_S = (1 << 32) - 1

_Place = tuple[Db, bytes]


def stands_for(record: SubscriberRecord, kinds: int) -> tuple[tuple[int, str], ...]:
    """Network ids of a record that an id of these kinds stands for."""
    wanted = {network for kind in OpaqueKind if kind & kinds for network in STANDS_FOR[kind]}
    return tuple(pair for pair in record.network if pair[0] in wanted)


class SubscriberStore:
    """Control thread only; model.subscriber_records.SubscriberRecords."""

    def __init__(
        self, environment: Environment, committer: Committer, key: bytes, clock: Callable[[], int], history_s: int = 0
    ) -> None:
        self._environment = environment
        self._committer = committer
        self._rows = SubscriberRows(key)
        self._clock = clock
        #: what ids stood for is kept so long after their end
        self.history_s = history_s
        self.feed = SubscriberNews(environment, self._rows, clock)
        self.news_s = 0  # lines of the feed are kept so long
        self.app_numbers: Callable[[], Sequence[int]] = list
        self._fresh: dict[_Place, tuple[bytes | None]] = {}  # not durable yet; (None,): deleted
        self._last_us = 0  # of the last line of history
        self._sweeping = False
        # looked at where there is nothing, so that a look-up takes as long
        self._decoy_key = self._rows.opaque_key("")
        self._decoy_handle = secrets.token_bytes(HANDLE_BYTES)
        self._decoy_link = self._rows.seal_handle(Db.OPAQUE_IDS, self._decoy_key, self._decoy_handle)
        self._decoy = self._rows.seal_record(self._decoy_handle, _decoy_record())

    # --- look-up --------------------------------------------------------------------------------------------

    def _get(self, db: Db, key: bytes) -> bytes | None:
        raw = self._environment.get(db, key)
        fresh = self._fresh.get((db, key))
        return raw if fresh is None else fresh[0]

    def find(self, network_id: NetworkId) -> bytes | None:
        key = self._rows.network_key(network_id)
        raw = self._get(Db.NETWORK_IDS, key)
        if raw is None:
            self._rows.open_handle(Db.OPAQUE_IDS, self._decoy_key, self._decoy_link)
            return None
        return self._rows.open_handle(Db.NETWORK_IDS, key, raw)

    def read(self, handle: bytes | None) -> SubscriberRecord | None:
        raw = self._get(Db.SUBSCRIBERS, handle or self._decoy_handle)
        if raw is None or handle is None:
            self._rows.open_record(self._decoy_handle, self._decoy)
            return None
        return self._rows.open_record(handle, raw)

    def by_local(self, local: str) -> tuple[bytes, SubscriberRecord] | None:
        key = self._rows.opaque_key(local)
        raw = self._get(Db.OPAQUE_IDS, key)
        if raw is None:
            self._rows.open_handle(Db.OPAQUE_IDS, self._decoy_key, self._decoy_link)
            self.read(key)  # another place each time: a page that is always warm would tell
            return None
        handle = self._rows.open_handle(Db.OPAQUE_IDS, key, raw)
        record = self.read(handle)
        return None if record is None else (handle, record)

    # --- writing --------------------------------------------------------------------------------------------

    def write(self, changes: Sequence[SubscriberChange], news: Sequence[News] = ()) -> asyncio.Future[None]:
        values: dict[_Place, tuple[bytes | None]] = {}
        more = self.feed.build(news)
        # what one loses another may get: deletions come first
        for change in changes:
            for network_id in _lost(change):
                values[Db.NETWORK_IDS, self._rows.network_key(network_id)] = (None,)
        for change in changes:
            self._gather(change, values, more)
        rows: list[Row] = [
            (DELETE, db, key, b"") if value is None else (PUT, db, key, value) for (db, key), (value,) in values.items()
        ]

        def settled() -> None:
            # durable or undone: what the disk says holds again, unless a later write is under way
            for place, value in values.items():
                if self._fresh.get(place) is value:
                    del self._fresh[place]

        written = self._committer.accept(rows + more, undo=settled, done=settled)
        self._fresh.update(values)
        return written

    def _gather(self, change: SubscriberChange, values: dict[_Place, tuple[bytes | None]], more: list[Row]) -> None:
        handle, before, after, why = change
        before_ids = {issued.local: issued for issued in before.ids} if before is not None else {}
        after_ids = {issued.local: issued for issued in after.ids} if after is not None else {}
        known = set(before.network) if before is not None else set()
        if after is not None:
            for network_id in after.network_ids():
                if network_id.pair not in known:
                    key = self._rows.network_key(network_id)
                    values[Db.NETWORK_IDS, key] = (self._rows.seal_handle(Db.NETWORK_IDS, key, handle),)
            values[Db.SUBSCRIBERS, handle] = (self._rows.seal_record(handle, after),)
        else:
            values[Db.SUBSCRIBERS, handle] = (None,)
        for local, issued in before_ids.items():
            if local not in after_ids:
                key = self._rows.opaque_key(local)
                values[Db.OPAQUE_IDS, key] = (None,)
                if issued.is_live(self._clock()):
                    more += self._line(key, (), self._clock(), why)
        for local, issued in after_ids.items():
            key = self._rows.opaque_key(local)
            old = before_ids.get(local)
            if old is None:
                values[Db.OPAQUE_IDS, key] = (self._rows.seal_handle(Db.OPAQUE_IDS, key, handle),)
            assert after is not None
            network = stands_for(after, issued.kinds)
            if before is None or old != issued or network != stands_for(before, issued.kinds):
                more += self._line(key, network, issued.until_ms, "")

    def _line(self, key: bytes, network: tuple[tuple[int, str], ...], until_ms: int, why: str) -> list[Row]:
        """A line of the history of an opaque id, and when it and the id itself may go."""
        self._last_us = max(self._clock() * 1_000, self._last_us + 1)  # no line is written over another
        line_key = history_key(key, self._last_us)
        line = HistoryLine(network, self._clock(), until_ms, why)
        rows: list[Row] = [(PUT, Db.OPAQUE_HISTORY, line_key, self._rows.seal_line(line_key, line))]
        if until_ms:
            until_s = min(until_ms // 1_000 + 1, _MAX_S)
            rows.append((PUT, Db.OPAQUE_ENDS, end_key(HISTORY_END, until_s, key), b""))
            rows.append((PUT, Db.OPAQUE_ENDS, end_key(ID_END, until_s, key), b""))
        return rows

    def news(self, app: str, after: int, limit: int) -> list[NewsLine]:
        return self.feed.after(app, after, limit)

    def ending(self, after: bytes, from_s: int, until_s: int, limit: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        start = max(end_key(ID_END, min(from_s, _MAX_S), b""), after + b"\0")
        for key, _ in self._environment.scan(Db.OPAQUE_ENDS, start, limit=limit):
            kind, at_s, opaque_key = parse_end_key(bytes(key))
            if kind != ID_END or at_s > until_s:
                break
            raw = self._get(Db.OPAQUE_IDS, opaque_key)
            handle = b"" if raw is None else self._rows.open_handle(Db.OPAQUE_IDS, opaque_key, raw)
            found.append((bytes(key), handle))
        return found

    # --- history --------------------------------------------------------------------------------------------

    def past(self, local: str, limit: int) -> list[PastId]:
        opaque_key = self._rows.opaque_key(local)
        lines: list[HistoryLine] = []
        for key, raw in self._environment.scan(Db.OPAQUE_HISTORY, history_key(opaque_key, 0), limit=limit + 1):
            if not bytes(key).startswith(opaque_key):
                break
            lines.append(self._rows.open_line(bytes(key), raw))
        found: list[PastId] = []
        for place, line in enumerate(lines[:limit]):
            after = lines[place + 1] if place + 1 < len(lines) else None
            network = tuple(NetworkId(NetworkIdKind(kind), value) for kind, value in line.network)
            if after is None:
                until_ms, why = line.until_ms, ""
            else:
                until_ms, why = after.at_ms, after.why or "changed"
            if network:
                found.append(PastId(network, line.at_ms, until_ms, why))
        return found

    def was_drawn(self, local: str) -> bool:
        opaque_key = self._rows.opaque_key(local)
        rows = self._environment.scan(Db.OPAQUE_HISTORY, history_key(opaque_key, 0), limit=1)
        return any(bytes(key).startswith(opaque_key) for key, _ in rows)

    def sweep(self, now_ms: int) -> bool:
        """Remove a slice of ids that lapsed and of history past its retention; True where there is more."""
        if not self._committer.writable:
            return False
        if self._sweeping:
            return True
        rows: list[Row] = []
        seen = 0
        for kind, before_s in ((ID_END, now_ms // 1_000), (HISTORY_END, now_ms // 1_000 - self.history_s)):
            ends: list[bytes] = []
            for key, _ in self._environment.scan(Db.OPAQUE_ENDS, kind, limit=SWEEP_ROWS):
                found, at_s, _ = parse_end_key(bytes(key))
                if found != kind or at_s >= before_s:
                    break
                ends.append(bytes(key))
            seen = max(seen, len(ends))
            for end in ends:
                rows += self._swept_rows(end, now_ms)
        old_news, more = self.feed.sweep(self.app_numbers(), now_ms - self.news_s * 1_000)
        rows += old_news
        if rows:
            self._sweeping = True
            self._committer.refresh(rows, redo=self._swept, done=self._swept)
        return more or seen == SWEEP_ROWS

    def _swept_rows(self, end: bytes, now_ms: int) -> list[Row]:
        kind, _, opaque_key = parse_end_key(end)
        if kind == ID_END:
            return [(DELETE, Db.OPAQUE_ENDS, end, b""), (DELETE, Db.OPAQUE_IDS, opaque_key, b"")]
        keys: list[bytes] = []
        last: HistoryLine | None = None
        for key, raw in self._environment.scan(Db.OPAQUE_HISTORY, history_key(opaque_key, 0), limit=_SWEEP_LINES):
            if not bytes(key).startswith(opaque_key):
                break
            keys.append(bytes(key))
            last = self._rows.open_line(bytes(key), raw)
        rows: list[Row] = [(DELETE, Db.OPAQUE_ENDS, end, b"")] if len(keys) < _SWEEP_LINES else []
        if (
            last is not None
            and last.network
            and not (last.until_ms and last.until_ms < now_ms - self.history_s * 1_000)
        ):
            return rows  # its end was moved: another row stands for the later one
        return rows + [(DELETE, Db.OPAQUE_HISTORY, key, b"") for key in keys]

    def _swept(self) -> None:
        self._sweeping = False


def _lost(change: SubscriberChange) -> list[NetworkId]:
    kept = set(change.after.network) if change.after is not None else set()
    before = change.before.network_ids() if change.before is not None else ()
    return [network_id for network_id in before if network_id.pair not in kept]


def _decoy_record() -> SubscriberRecord:
    issued = IssuedId("a" * 26, "push.example.com", 1, 1, "", 1, 1)
    return SubscriberRecord(((1, "0" * 15), (4, "+" + "0" * 12)), (issued, issued))
