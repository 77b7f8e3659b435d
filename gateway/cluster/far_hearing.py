"""Hears what nodes tell a partition's core about devices, in its order; must not hear a stale attachment, but for what
its link lost.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from gateway._native.batches import Batches
from gateway._native.far_traffic import hear_acks
from gateway.cluster.far_edge import FarEdge
from gateway.cluster.far_wire import HEAD_BYTES, Record, Told, parse_flights, parse_numbers, parse_record
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import far_link
from gateway.model.ports import Ack

_log = structlog.get_logger(__name__)
#: in the flag of BOUND
AGAIN = 0x80
_FLOOR = 0x03


class FarHearing:
    """`batches`: what settles the acks of batches before anybody else sees them."""

    def __init__(self, edge: FarEdge, batches: Batches, metrics: Metrics) -> None:
        self._edge = edge
        self._registry = edge.registry
        self._batches = batches
        self._metrics = metrics
        #: acks that batches did not settle; runs of those of no pending delivery; and acks whose link knew no more
        self._acks: list[tuple[int, int, int, int, int, int]] = []
        self._runs: list[tuple[int, bytes, int]] = []
        self._late: list[Ack] = []
        self._handlers: dict[int, Callable[[int, Record], None]] = {
            Told.TIMEOUT: self._on_timeout,
            Told.LOST: self._on_lost,
            Told.LATE: self._on_late,
            Told.READY: self._on_ready,
            Told.FANNED: self._on_fanned,
            Told.BOUND: self._on_bound,
            Told.LEFT: self._on_left,
            Told.FLOOR: self._on_floor,
            Told.SYNCED: self._on_synced,
        }

    def hear(self, node: int, body: bytes) -> None:
        """A message that is whole, of this core's partition and epoch."""
        at, end = HEAD_BYTES, len(body)
        while at < end:
            at, stale = hear_acks(body, at, node, self._registry, self._batches, self._acks, self._runs)
            if stale:
                self._metrics.count(Metric.FAR_DROPPED, stale, "stale")
            if at < end:
                record, at = parse_record(body, at)
                self._hear_one(node, record)
        self._settle()

    def _hear_one(self, node: int, record: Record) -> None:
        handler = self._handlers.get(record.kind)
        if handler is None:
            self._metrics.count(Metric.FAR_DROPPED, label="malformed")
            return
        if record.kind != Told.LATE:
            # What comes next must not hold what was acked before.
            self._settle()
        try:
            handler(node, record)
        except ValueError:
            self._metrics.count(Metric.FAR_DROPPED, label="malformed")
        except Exception:
            # One device's news must not cost the others of its message.
            _log.exception("far_event_failed", kind=record.kind)

    def _link(self, node: int, record: Record) -> int:
        """The link it speaks of; 0 where the registration is not bound there (any more)."""
        link = far_link(node, record.attachment)
        if record.number < 1 << 31 and self._registry.link(record.number) == link:
            return link
        self._metrics.count(Metric.FAR_DROPPED, label="stale")
        return 0

    # --- acks

    def _settle(self) -> None:
        """Tell of the acks that came so far."""
        acks, self._acks = self._acks, []
        late, self._late = self._late, []
        runs, self._runs = self._runs, []
        try:
            for seq, packed, at_ms in runs:
                # each registration once
                self._edge.events.on_acks_of(seq, list(dict.fromkeys(memoryview(packed).cast("I"))), at_ms)
            if acks or late:
                self._edge.events.on_acks([Ack._make(ack) for ack in acks] + late)
            if self._batches.is_changed:
                self._edge.events.on_acks_settled()
        except Exception:
            _log.exception("far_acks_failed")

    def _on_late(self, node: int, record: Record) -> None:
        numbers, _ = parse_numbers(record.payload, len(record.payload) // 4)
        link = far_link(node, record.attachment)
        here = [number for number in numbers if number < 1 << 31 and self._registry.link(number) == link]
        for number in self._edge.events.meant(record.seq, here, flags=record.flag) if here else ():
            self._late.append(Ack(record.seq, number, 0, record.b, record.flag, link))

    # --- the rest

    def _on_timeout(self, node: int, record: Record) -> None:
        if self._link(node, record):
            self._edge.events.on_ack_timeout(record.seq, record.number)

    def _on_lost(self, node: int, record: Record) -> None:
        link = far_link(node, record.attachment)
        bound = self._registry.link(record.number)
        if bound and bound != link:
            # It is on a newer link, and what was lost was sent there again.
            self._metrics.count(Metric.FAR_DROPPED, label="stale")
            return
        if record.flag and bound:
            self._edge.hold(record.number, link)
        self._edge.events.on_lost(record.seq, record.number, spilled=bool(record.flag and bound))

    def _on_ready(self, node: int, record: Record) -> None:
        numbers, in_flight = parse_flights(record.payload, record.b)
        self._edge.ready(far_link(node, record.attachment), record.a, numbers, in_flight)

    def _on_fanned(self, node: int, record: Record) -> None:  # noqa: ARG002 - one shape for all
        self._edge.events.on_fanned(record.seq, record.number, record.a)

    def _on_bound(self, node: int, record: Record) -> None:
        if record.number >= 1 << 31 or not record.seq:
            raise ValueError("no such registration")
        self._edge.bind(
            node,
            record.attachment,
            record.number,
            record.local,
            record.seq,
            at_ms=record.a,
            floor=record.flag & _FLOOR,
            again=bool(record.flag & AGAIN),
        )

    def _on_left(self, node: int, record: Record) -> None:
        link = self._link(node, record)
        if link:
            self._edge.left(record.number, link)

    def _on_floor(self, node: int, record: Record) -> None:
        link = self._link(node, record)
        if link:
            self._edge.set_floor(link, record.flag & _FLOOR)
            self._edge.hold(record.number, link)  # what was below the old one may go now

    def _on_synced(self, node: int, record: Record) -> None:
        self._edge.synced(node, record.a)
