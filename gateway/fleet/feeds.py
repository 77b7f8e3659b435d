"""Feeds of all partitions as one: receipts, dead tokens, receipts of Web Push messages; must never make a gap: what
lies above the lowest watermark is not told yet, and a partition that can not be asked holds the feed back.

Partitions number what they tell by the clock. Each answers with rows behind a cursor and with its bound: nothing at or
below it is missing from the rows, nor will ever appear. What is at or below the lowest bound is told, in order. Two
partitions may give the same number, so rows with one cursor are never torn apart.

Owners tell nodes that read lately when there is news. That may be lost: readers look by themselves each IDLE_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec
import structlog

from gateway.api.ports import Backend
from gateway.api.views import view_receipt
from gateway.api.webpush.receipts import names_subscription
from gateway.api.wire import DeadToken, ReceiptView
from gateway.fleet.owners import Owners
from gateway.fleet.ports import Core
from gateway.metrics import Metric
from gateway.model.cluster import CURSOR_SHIFT
from gateway.model.errors import BadRequest, GatewayError
from gateway.model.registration import build_token

#: a reader that waits looks by itself so often; and where something is held back
IDLE_S = 1.0
HELD_S = 0.05
#: owners tell of news at most this often
NEWS_S = 0.01
#: a node that read no feed for so long is not told of news
READS_S = 30.0
#: nodes' clocks may differ by this much: a feed that begins now begins this much earlier
SKEW_MS = 1_000
#: a partition that does not answer in this time holds the feed back
ANSWERS_S = 1.0
#: a partition that holds a feed back for so long is worth a line in the log
TELLS_HELD_S = 5.0
#: rows asked of one partition beyond its share
_SPARE = 16
_log = structlog.get_logger(__name__)
_KIND, _NEWS = "feed", "feed.news"


class Kind(IntEnum):
    """What a feed tells; the number is on the wire."""

    RECEIPTS = 1
    DEATHS = 2
    MESSAGES = 3  # of Web Push, of those that named a subscription


class MessageReceipt(msgspec.Struct, array_like=True):
    """The end of a Web Push message."""

    seq: int
    state: int
    at_ms: int


class Wanted(NamedTuple):
    """What a node asks a partition for."""

    node: int
    kind: int
    app: str
    after: int
    limit: int
    selector: bytes  # of MESSAGES: the subscription
    seen: int = 0  # a cursor that some partition gave out


class Row(NamedTuple):
    cursor: int
    raw: bytes  # packed: ReceiptView, DeadToken or MessageReceipt, by the kind


class _Found(NamedTuple):
    rows: list[Row]
    bound: int


class Pulled(NamedTuple):
    """One look at all partitions."""

    rows: list[Row]
    cursor: int  # behind it is what comes next
    has_more: bool  # another look at once may find more
    is_held: bool  # there is something above the lowest bound, or a partition that could not be asked
    highest: int = 0  # of the rows above it


_encode = msgspec.msgpack.Encoder().encode
_decode_wanted = msgspec.msgpack.Decoder(Wanted).decode
_decode_found = msgspec.msgpack.Decoder(_Found).decode
_decode_receipt = msgspec.msgpack.Decoder(ReceiptView).decode


def parse_wanted(body: bytes) -> Wanted:
    """BadRequest."""
    try:
        wanted = _decode_wanted(body)
        Kind(wanted.kind)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest("this is no question about a feed") from error
    return wanted


def merge(found: dict[int, _Found], full: frozenset[int], after: int, limit: int) -> Pulled:
    """At most `limit` rows, or more where more have the last cursor. `full`: partitions that may have more rows now."""
    low = min(answer.bound for answer in found.values())
    rows = sorted(
        (row.cursor, partition, row)
        for partition, answer in found.items()
        for row in answer.rows
        if after < row.cursor <= low
    )
    highest = max((answer.rows[-1].cursor for answer in found.values() if answer.rows), default=0)
    above = highest > low
    if len(rows) > limit:
        end = limit
        if rows[end][0] == rows[end - 1][0]:  # a tie: before it, or where there is nothing before it, behind it
            cursor = rows[end][0]
            before = next(at for at, row in enumerate(rows) if row[0] == cursor)
            end = before or next((at for at, row in enumerate(rows) if row[0] > cursor), len(rows))
        told = [row for _, _, row in rows[:end]]
        return Pulled(told, told[-1].cursor, has_more=True, is_held=above, highest=highest)
    told = [row for _, _, row in rows]
    return Pulled(told, max(after, low), has_more=bool(full) and low > after, is_held=above, highest=highest)


class _Hold:
    """A partition that holds a feed back."""

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self.is_told = False
        self.seen_s = now_s


class Feeds:
    """Control thread only."""

    def __init__(self, owners: Owners, backend: Backend) -> None:
        self._owners = owners
        self.backend = backend
        #: nodes that read feeds here: until when they are told of news
        self._readers: dict[int, float] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._waiting: set[asyncio.Event] = set()
        #: by kind, the highest cursor that had to wait: partitions whose clocks are behind it go on from there, else
        #: a feed would wait for as long as clocks differ, an hour where one was that much ahead
        self._seen: dict[int, int] = {}
        self._holds: dict[tuple[int, int], _Hold] = {}  # by kind and partition
        owners.serve(_KIND, self._on_wanted)
        owners.bus.serve(_NEWS, self._on_news)

    def about_now(self) -> int:
        """A cursor below whatever is settled from now on."""
        return max(0, self.backend.now_ms() - SKEW_MS) << CURSOR_SHIFT

    def read(self, app: str, after: int, kind: Kind = Kind.RECEIPTS, selector: bytes = b"") -> Reading:
        return Reading(self, kind, app, after, selector)

    # --- at the owner

    def join(self, core: Core) -> None:
        """Its news are told."""
        core.backend.receipts.subscribe(self._on_commit)

    def _on_commit(self) -> None:
        if self._telling is None and self._readers:
            self._telling = asyncio.get_running_loop().call_later(NEWS_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        now_s = time.monotonic()
        self._readers = {node: until_s for node, until_s in self._readers.items() if until_s > now_s}
        for node in self._readers:
            self._owners.bus.tell(node, _NEWS, b"")

    def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    def _on_wanted(self, core: Core, body: bytes) -> bytes:
        wanted = parse_wanted(body)
        self._readers[wanted.node] = time.monotonic() + READS_S
        # bound and rows in one turn, the bound first: what is settled between would be missing
        if wanted.kind == Kind.DEATHS:
            found = self._deaths(core, wanted)
        elif wanted.kind == Kind.MESSAGES:
            found = self._messages(core, wanted)
        else:
            found = self._receipts(core, wanted)
        return _encode(found)

    def _receipts(self, core: Core, wanted: Wanted) -> _Found:
        mark, backend = core.receipts_watermark(wanted.seen), core.backend
        found = backend.receipts.after(wanted.app, wanted.after, wanted.limit)
        rows = [
            Row(row.cursor, _encode(view_receipt(wanted.app, row, backend.push_ids, backend.directory)))
            for row in found
        ]
        return _Found(rows, rows[-1].cursor if len(rows) >= wanted.limit else mark)

    def _deaths(self, core: Core, wanted: Wanted) -> _Found:
        mark = core.deaths_watermark(wanted.seen)
        rows = [
            Row(
                death.cursor,
                _encode(
                    DeadToken(
                        cursor=death.cursor,
                        token=build_token(death.token),
                        at_ms=death.at_ms,
                        why="gone" if death.why == "gone" else "revoked",
                        channel=death.channel,
                    )
                ),
            )
            for death in core.backend.deaths.after(wanted.app, wanted.after, wanted.limit)
        ]
        return _Found(rows, rows[-1].cursor if len(rows) >= wanted.limit else mark)

    def _messages(self, core: Core, wanted: Wanted) -> _Found:
        mark, backend = core.receipts_watermark(wanted.seen), core.backend
        looked = backend.receipts.after(wanted.app, wanted.after, wanted.limit)
        rows = [
            Row(row.cursor, _encode(MessageReceipt(row.outcome.notification, row.outcome.state, row.outcome.at_ms)))
            for row in looked
            if names_subscription(backend, wanted.app, row.outcome.notification, wanted.selector)
        ]
        return _Found(rows, looked[-1].cursor if len(looked) >= wanted.limit else mark)

    # --- at the node that reads

    def _on_news(self, sender: int, body: bytes) -> bytes:  # noqa: ARG002
        for wake in self._waiting:
            wake.set()
        return b""

    @contextlib.contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news, or when the node drains."""
        wake = asyncio.Event()
        unsubscribe = self.backend.stopping.subscribe(wake.set)
        self._waiting.add(wake)
        try:
            yield wake
        finally:
            self._waiting.discard(wake)
            unsubscribe()

    async def pull(self, kind: Kind, app: str, after: int, limit: int, selector: bytes) -> Pulled:
        """Look once. Nothing where a partition could not be asked: the feed is held back."""
        partitions = self._owners.partitions
        share = min(limit, 2 * limit // partitions + _SPARE)
        wanted = Wanted(self._owners.bus.number, kind, app, after, share, selector, self._seen.get(kind, 0))
        answers = await self._owners.each(_KIND, _encode(wanted), timeout_s=min(ANSWERS_S, self._owners.timeout_s))
        found: dict[int, _Found] = {}
        holds: dict[int, str] = {}
        for partition, raw in answers.items():
            try:
                if isinstance(raw, GatewayError):
                    raise raw
                found[partition] = _decode_found(raw)
            except (GatewayError, msgspec.DecodeError, ValueError) as error:
                holds[partition] = type(error).__name__
        if holds:
            self.backend.metrics.count(Metric.FLEET_FEED_HELD)
            self._note_holds(kind, holds, ())
            return Pulled([], after, has_more=False, is_held=True)
        full = frozenset(partition for partition, answer in found.items() if len(answer.rows) >= share)
        pulled = merge(found, full, after, limit)
        if pulled.is_held:
            self._seen[kind] = max(self._seen.get(kind, 0), pulled.highest)
        # of what had to wait before this look: a partition that is well goes on from there by the next
        low = [partition for partition, answer in found.items() if answer.bound < wanted.seen]
        self._note_holds(kind, dict.fromkeys((one for one in low if one not in full), "watermark"), found)
        return pulled

    def _note_holds(self, kind: Kind, holds: dict[int, str], answered: Iterable[int]) -> None:
        """One that holds a feed back for long is told once, and once more when it does no longer."""
        now_s = time.monotonic()
        for partition in [partition for partition in answered if partition not in holds]:
            hold = self._holds.pop((kind, partition), None)
            if hold is not None and hold.is_told:
                held_s = round(now_s - hold.since_s, 1)
                _log.info("feed_goes_on", feed=kind.name.lower(), partition=partition, seconds=held_s)
        for partition, why in holds.items():
            hold = self._holds.get((kind, partition))
            if hold is None or now_s - hold.seen_s > READS_S:
                hold = self._holds[kind, partition] = _Hold(now_s)
            hold.seen_s = now_s
            if not hold.is_told and now_s - hold.since_s >= TELLS_HELD_S:
                hold.is_told = True
                node = self._owners.members.owner(partition).node
                _log.warning("feed_held", feed=kind.name.lower(), partition=partition, node=node, why=why)


class Reading:
    """One reader's place in a feed."""

    def __init__(self, feeds: Feeds, kind: Kind, app: str, after: int, selector: bytes) -> None:
        self._feeds = feeds
        self._kind = kind
        self._app = app
        self._selector = selector
        #: everything up to it was told
        self.cursor = after
        #: there was something that could not be told yet
        self.is_held = False

    async def take(self, limit: int, wait_s: float) -> list[Row]:
        """Rows, as soon as there are some, none after `wait_s` or when the node drains."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        with self._feeds.waiting() as wake:
            while True:
                wake.clear()
                pulled = await self._feeds.pull(self._kind, self._app, self.cursor, limit, self._selector)
                self.cursor, self.is_held = pulled.cursor, pulled.is_held
                left_s = until_s - loop.time()
                if pulled.rows or left_s <= 0 or self._feeds.backend.stopping.is_set:
                    return pulled.rows
                if pulled.has_more:
                    continue
                pause_s = min(left_s, HELD_S if pulled.is_held else IDLE_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await wake.wait()

    async def next(self, limit: int) -> list[ReceiptView]:
        """Receipts, however long it takes; none when the node drains."""
        while not (rows := await self.take(limit, 3_600.0)) and not self._feeds.backend.stopping.is_set:
            pass
        return [parse_receipt(row) for row in rows]


def parse_receipt(row: Row) -> ReceiptView:
    """BadRequest where it is none."""
    try:
        return _decode_receipt(row.raw)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest("this is no receipt") from error
