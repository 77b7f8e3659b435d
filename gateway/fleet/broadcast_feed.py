"""One node's reading of the fleet's broadcasts: gives each, in their one order, to all cores that live here; must never
give one to a core out of order, twice, or not at all.

A core joins after it was opened, in the turn of the loop in which it begins to talk to devices: first it gets all that
the stream holds, then what comes. The feed was level with the stream after the core's journal was taken over, so the
core's owner before can not have shown anything that the core is not told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from gateway.fleet.broadcast_message import MalformedMessage, TakenBack, Told, build_message, parse_message
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import broadcast_seq
from gateway.model.errors import LogUnavailable, NodeUnreachable, PayloadTooLarge
from gateway.model.notification import Content, Notification
from gateway.model.reach import BroadcastLog

_log = structlog.get_logger(__name__)

#: a message stays in the stream so long after the broadcast is over, so that clocks may differ and a core that was
#: without an owner can still count it out
MARGIN_S = 600
#: what was published must be read back within this time
HEARD_S = 5.0
#: messages heard between two looks for those that are over
_TIDY_EVERY = 256
_NOTHING = Content()


class HearsBroadcasts(Protocol):
    """A core, as the feed knows it (fleet.core_pushes.CorePushes)."""

    @property
    def partition(self) -> int: ...

    def known_to(self) -> int: ...

    def begin(self, told: Sequence[Notification], recalled: Collection[int]) -> None: ...

    def take_in(self, notification: Notification) -> None: ...

    def recall_broadcast(self, notification: Notification) -> None: ...


class BroadcastFeed:
    """Loop thread only. Holds what is live, as all cores here do; bounded by what apps may have live."""

    def __init__(self, log: BroadcastLog, metrics: Metrics, clock: Callable[[], int]) -> None:
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._cores: dict[int, HearsBroadcasts] = {}
        self._told: dict[int, Notification] = {}  # sequence → broadcast, ascending; without content where recalled
        self._seqs: dict[int, int] = {}  # what its provider knows it by → sequence
        self._taken_back: dict[int, int] = {}  # the same → Unix seconds until which to remember it
        self._place = 0
        self._heard = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    async def start(self) -> None:
        """Level with the stream. LogUnavailable."""
        await self._log.start(self._hear)

    async def close(self) -> None:
        self._cores.clear()
        await self._log.close()

    # --- cores

    async def catch_up(self, core: HearsBroadcasts | None = None) -> None:
        """Level with the stream as it is now, and with all that the core knows. LogUnavailable; NodeUnreachable where
        the core knows more than the stream."""
        self._place = max(self._place, await self._log.catch_up())
        if core is not None and core.known_to() > broadcast_seq(self._place):
            _log.error("broadcast_stream_is_behind", partition=core.partition)
            raise NodeUnreachable("the fleet's broadcast stream lacks what this partition has seen")

    def join(self, core: HearsBroadcasts) -> None:
        """After `catch_up`, in the turn in which its dispatcher starts, just before that."""
        self._tidy()
        recalled = {self._seqs[push] for push in self._taken_back if push in self._seqs}
        core.begin(list(self._told.values()), recalled)
        self._cores[core.partition] = core

    def leave(self, partition: int) -> None:
        self._cores.pop(partition, None)

    # --- writing

    def seq_of(self, push: int) -> int:
        """Of the broadcast that is known by this; 0: none was heard, or it is long over."""
        return self._seqs.get(push, 0)

    def is_taken_back(self, push: int) -> bool:
        return push in self._taken_back

    def check(self, notification: Notification) -> None:
        """PayloadTooLarge."""
        size = len(build_message(Told(notification)))
        if size > self._log.most_bytes:
            raise PayloadTooLarge(f"a broadcast takes {size} bytes, the limit of the fleet is {self._log.most_bytes}")

    async def tell(self, notification: Notification) -> None:
        """Durable, and heard here, when it returns. LogUnavailable: it may be told all the same; tell it again."""
        message = build_message(Told(msgspec.structs.replace(notification, seq=0)))
        left_s = max(0, notification.expires_s - self._clock() // 1_000)
        place = await self._log.append(message, once=f"told {notification.push}", ttl_s=left_s + MARGIN_S)
        await self._wait_for(place)

    async def take_back(self, push: int, until_s: int) -> None:
        """The same for a recall."""
        message = build_message(TakenBack(push, until_s))
        # It outlives what it takes back.
        left_s = max(0, until_s - self._clock() // 1_000) + 2 * MARGIN_S
        await self._wait_for(await self._log.append(message, once=f"back {push}", ttl_s=left_s))

    async def _wait_for(self, place: int) -> None:
        if place <= self._place:
            return
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((place, heard))
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARD_S):
                await heard
            return
        raise LogUnavailable("the fleet's broadcast stream can not be read now")

    # --- reading

    def _hear(self, place: int, raw: bytes) -> None:
        self._place = place
        try:
            message = parse_message(raw)
        except MalformedMessage as error:
            self._metrics.count(Metric.FLEET_BROADCASTS, label="malformed")
            _log.error("broadcast_malformed", place=place, reason=str(error))
        else:
            if isinstance(message, Told):
                self._on_told(msgspec.structs.replace(message.notification, seq=broadcast_seq(place)))
            else:
                self._on_taken_back(message)
        self._heard += 1
        if not self._heard % _TIDY_EVERY:
            self._tidy()
        waiters, self._waiters = self._waiters, []
        for wanted, heard in waiters:
            if wanted > place:
                self._waiters.append((wanted, heard))
            elif not heard.done():
                heard.set_result(None)

    def _on_told(self, notification: Notification) -> None:
        push = notification.push
        if push in self._seqs or push in self._taken_back:  # published twice, or recalled before it came
            self._metrics.count(Metric.FLEET_BROADCASTS, label="dropped")
            return
        self._told[notification.seq] = notification
        self._seqs[push] = notification.seq
        self._metrics.count(Metric.FLEET_BROADCASTS, label="told")
        for core in list(self._cores.values()):
            try:
                core.take_in(notification)
            except Exception:
                self._metrics.count(Metric.FLEET_BROADCASTS, label="failed")
                _log.exception("broadcast_not_taken_in", partition=core.partition)

    def _on_taken_back(self, message: TakenBack) -> None:
        self._taken_back[message.push] = message.until_s + MARGIN_S
        self._metrics.count(Metric.FLEET_BROADCASTS, label="taken_back")
        notification = self._told.get(self._seqs.get(message.push, 0))
        if notification is None:
            return
        self._told[notification.seq] = msgspec.structs.replace(notification, content=_NOTHING)
        for core in list(self._cores.values()):
            try:
                core.recall_broadcast(notification)
            except Exception:
                self._metrics.count(Metric.FLEET_BROADCASTS, label="failed")
                _log.exception("broadcast_not_recalled", partition=core.partition)

    def _tidy(self) -> None:
        now_s = self._clock() // 1_000
        for seq in [seq for seq, told in self._told.items() if told.expires_s + MARGIN_S < now_s]:
            self._seqs.pop(self._told.pop(seq).push, None)
        for push in [push for push, until_s in self._taken_back.items() if until_s < now_s]:
            del self._taken_back[push]
