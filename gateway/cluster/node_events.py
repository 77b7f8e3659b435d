"""What the device door of a node reports, told to the owners of the registrations it is about; must never decide what
becomes of a notification.

Everything is told in the order in which the door reported it, as one message for each partition and turn of the loop.
Where a partition has no owner it is dropped: the next one is told of all devices, and asks what is in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from gateway.cluster.far_door import TOLD
from gateway.cluster.far_hearing import AGAIN
from gateway.cluster.far_wire import (
    RECORD_BYTES,
    Tellings,
    Told,
    attachment_of,
    build_record,
    pack_flights,
    pack_numbers,
)
from gateway.cluster.holds import Holds
from gateway.cluster.node_homes import NodeHomes
from gateway.edge.attendance import LinkAttendance
from gateway.edge.server import EdgeServer
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import Bus, Members, partition_of_seq
from gateway.model.ports import Ack

#: bytes for one owner that do not wait for the end of the turn
FULL_BYTES = 262_144


class NodeEvents:
    """model.ports.EdgeEvents of a node."""

    def __init__(
        self, bus: Bus, members: Members, homes: NodeHomes, metrics: Metrics, clock: Callable[[], int]
    ) -> None:
        self._bus = bus
        self._members = members
        self._homes = homes
        self._metrics = metrics
        self._clock = clock
        homes.table.news = self.on_packed_acks
        self._tellings = Tellings()
        self._flushing: asyncio.Handle | None = None
        #: set before use
        self.edge: EdgeServer
        self.holds: Holds
        self.is_closed = False

    def tell(
        self,
        partition: int,
        kind: Told,
        flag: int = 0,
        number: int = 0,
        local: int = 0,
        attachment: int = 0,
        seq: int = 0,
        a: int = 0,
        b: int = 0,
        payload: bytes = b"",
    ) -> None:
        self._add(partition, build_record(kind, flag, number, local, attachment, seq, a, b, payload))

    def _add(self, partition: int, records: bytes) -> None:
        owner = self._members.owner(partition)
        if not owner.node or self.is_closed:
            self._metrics.count(Metric.FAR_DROPPED, len(records) // RECORD_BYTES, "homeless")
            return
        size = self._tellings.add(owner.node, partition, owner.epoch, records)
        if size >= FULL_BYTES:
            self.flush()
        elif self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self.flush)

    def on_packed_acks(self, piles: list[tuple[int, bytes]]) -> None:
        """By partition, as reactors collected them."""
        for partition, records in piles:
            self._add(partition, records)

    def flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        for node, message in self._tellings.take():
            self._bus.tell(node, TOLD, message)

    def close(self) -> None:
        """The last words are out."""
        self.flush()
        self.is_closed = True

    def _of(
        self, local: int, kind: Told, flag: int = 0, *, seq: int = 0, a: int = 0, b: int = 0, payload: bytes = b""
    ) -> None:
        homes = self._homes
        self.tell(
            homes.table.partition(local),
            kind,
            flag,
            homes.table.number(local),
            local,
            homes.attachment(local),
            seq,
            a,
            b,
            payload,
        )

    # --- who is here

    def bound(self, local: int, *, again: bool) -> None:
        homes = self._homes
        link = homes.registry.link(local)
        homes.links[local] = link
        if not again:
            homes.bound_ms[local] = self._clock()
        self._of(
            local,
            Told.BOUND,
            self.edge.floor_of(link) | (AGAIN if again else 0),
            seq=homes.registry.device(local),
            a=homes.bound_ms[local],
        )

    def left(self, local: int) -> None:
        self._of(local, Told.LEFT)
        link = self._homes.links[local]
        device = self._homes.registry.device(local)
        self._homes.release(local)
        if not device or not self._homes.registry.bound(device):
            self.holds.forget(link)

    def floor(self, link: int, device: int, floor: int) -> None:
        told = set()
        for local in self._homes.registry.bound(device):
            partition = self._homes.table.partition(local)
            if partition not in told and self._homes.links[local] == link:
                told.add(partition)
                self._of(local, Told.FLOOR, floor)

    def not_here(self, partition: int, number: int, local: int, attachment: int, seq: int = 0) -> None:
        """A core meant a link that is over: it missed that, or will hear of it in a moment."""
        self.tell(partition, Told.LEFT, 0, number, local, attachment)
        if seq:
            self.tell(partition, Told.LOST, 0, number, local, attachment, seq)

    def refused(self, local: int, seq: int) -> None:
        """The reactor's mailbox is full."""
        self._of(local, Told.LOST, 1, seq=seq)

    # --- model.ports.EdgeEvents

    def on_acks(self, acks: Sequence[Ack]) -> None:
        homes = self._homes
        for ack in acks:
            local = ack.registration
            self.tell(
                homes.table.partition(local),
                Told.ACK,
                ack.flags,
                homes.table.number(local),
                local,
                attachment_of(ack.link),
                ack.seq,
                ack.sent_ms,
                ack.acked_ms,
            )

    def on_acks_of(self, seq: int, registrations: Sequence[int], at_ms: int) -> None:
        for local in registrations:
            self._of(local, Told.ACK, seq=seq, a=at_ms, b=at_ms)

    def on_acks_settled(self) -> None:
        """Nothing is settled here."""

    def meant(self, seq: int, registrations: Sequence[int], *, flags: int) -> Sequence[int]:
        """Owners decide: nobody is named here."""
        partition = partition_of_seq(seq)
        now = self._clock()
        for at, locals_ in self._by_partition(registrations):
            if partition in (-1, at):
                numbers = pack_numbers(self._homes.table.number(local) for local in locals_)
                self._of(locals_[0], Told.LATE, flags, seq=seq, b=now, payload=numbers)
        return ()

    def _by_partition(self, registrations: Iterable[int]) -> list[tuple[int, list[int]]]:
        out: dict[int, list[int]] = {}
        for local in registrations:
            out.setdefault(self._homes.table.partition(local), []).append(local)
        return list(out.items())

    def on_ack_timeout(self, seq: int, registration: int) -> None:
        self._of(registration, Told.TIMEOUT, seq=seq)

    def on_lost(self, seq: int, registration: int, *, spilled: bool) -> None:
        self._of(registration, Told.LOST, spilled, seq=seq)

    def on_fanned(self, seq: int, group: int, links: int) -> None:
        homes = self._homes
        if links and group < len(homes.owner_groups):
            self.tell(homes.partition_of_group(group), Told.FANNED, number=homes.owner_groups[group], seq=seq, a=links)

    def on_ready(self, registrations: Sequence[int], in_flight: Collection[tuple[int, int]] = ()) -> None:
        link = self.edge.ready_link
        if not link:
            return  # one that was bound just now: its owner is told so
        asked = self.holds.take(link)
        parts = [part for part in self._by_partition(registrations) if part[0] in asked]
        share = max(1, self.edge.ready_room // max(1, len(parts)))
        for _, locals_ in parts:
            flights: dict[int, list[int]] = {local: [] for local in locals_}
            for seq, local in in_flight:
                if local in flights:
                    flights[local].append(seq)
            payload, count = pack_flights({self._homes.table.number(local): seqs for local, seqs in flights.items()})
            self._of(locals_[0], Told.READY, a=share, b=count, payload=payload)

    def on_fetch(self, registration: int, ids: Sequence[int]) -> tuple[int, bool]:  # noqa: ARG002
        """NodeRequests asks the owner; nothing waits here."""
        return 0, False

    def revoke(self, registration: int) -> None:
        """The owner did."""

    def recall_all(self, registration: int) -> None:
        """The owner does."""


class NodeAttendance(LinkAttendance):
    """Owners are told who comes and goes."""

    def __init__(self, events: NodeEvents) -> None:
        self._events = events
        self.app = ""

    def is_connected(self, token: bytes) -> bool:  # noqa: ARG002 - IM is not served by nodes
        return False

    def link(self, token: bytes) -> int:  # noqa: ARG002
        return 0

    def came(self, number: int) -> None:
        self._events.bound(number, again=False)

    def left(self, numbers: Iterable[int]) -> None:
        for number in list(numbers):
            self._events.left(number)
