"""The device door as a partition's core sees it in a fleet: its devices are connected to any node, and what it has for
them goes there as commands; must never let a lost message lose a delivery.

The core's own registry holds sessions with far links (node, attachment). Commands are collected and leave as one
message for each node and turn of the loop. Of what was sent the node tells what came: acks, timeouts, losses. Where
nothing is heard in time the node is asked what is in flight on the link (`hold` and READY), and what is not is sent
again; where the link is gone the delivery is lost and goes the usual way.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from gateway._native.far_records import FarSink
from gateway._native.intake import Router
from gateway.cluster.far_wire import (
    Cohort,
    Do,
    Fan,
    Returned,
    Tellings,
    build_body,
    build_record,
)
from gateway.cluster.flights import Flights
from gateway.config.sections import Config
from gateway.delivery.backlog import SLICE, Backlog
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import Bus, attachment_of_link, far_link, node_of_link
from gateway.model.cohort import build_cohort
from gateway.model.frames import FrameType, build_frame
from gateway.model.outcome import State
from gateway.model.ports import Broadcasts, Delivery, EdgeEvents, Journal
from gateway.model.registration import Registration
from gateway.store.directory import Directory

#: what tells nodes what to do
DO = "far.do"
#: bytes for one node that do not wait for the end of the turn
FULL_BYTES = 262_144
#: groups of one fan-out in one message
FAN_GROUPS = 2_000
TICK_S = 1.0
#: after an owner change devices count as away only when every node has told of its own, or at the latest after so long
SETTLE_MS = 10_000
#: a link from which no READY came is asked for it again after so many ticks
HOLD_AGAIN_TICKS = 5


class FarEdge:
    """model.ports.Edge and Presence of one partition, for one epoch of it."""

    def __init__(
        self,
        bus: Bus,
        partition: int,
        epoch: int,
        *,
        directory: Directory,
        journal: Journal,
        broadcasts: Broadcasts,
        config: Config,
        metrics: Metrics,
        clock: Callable[[], int],
    ) -> None:
        self._bus = bus
        self.partition = partition
        self.epoch = epoch
        self._directory = directory
        self.registry = directory.registry
        self._journal = journal
        self._broadcasts = broadcasts
        self._metrics = metrics
        self._clock = clock
        self._window = config.edge.window
        self._events: EdgeEvents | None = None
        #: links for which more waits than they take → their devices
        self._held: set[int] = set()
        self._held_devices: dict[int, int] = {}
        #: links whose device wants nothing below an urgency: link → floor
        self._floors: dict[int, int] = {}
        self._ready_link = 0
        self._ready_room = 0
        #: where it is a set: the sequences that notify queues meanwhile
        self.tally: set[int] | None = None
        #: by registration: when it was bound at its node (Unix ms), and the node's round it was told in
        self._bound_ms = array("Q")
        self._rounds_of = array("B")
        #: nodes that have devices here → number of their last round
        self._nodes: dict[int, int] = {}
        #: nodes that have not told of their devices since this core was opened; None: it is not open yet
        self._unheard: set[int] | None = None
        self._settled_ms = 0
        self._tellings = Tellings()
        self._flushing: asyncio.Handle | None = None
        self._flights = Flights(metrics)
        self._backlog = Backlog()
        self._ticking: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._is_closed = False
        #: has the registrations' numbers at their nodes
        self._sink = FarSink(self._on_batch)
        self.router = Router([], self._held, self._floors, self._sink)

    # --- life

    def attach(self, events: EdgeEvents) -> None:
        """Who hears what becomes of notifications; before start."""
        self._events = events

    @property
    def events(self) -> EdgeEvents:
        assert self._events is not None, "attach the delivery floor before start"
        return self._events

    def start(self, nodes: Iterable[int]) -> None:
        """These may have devices of this partition."""
        self._unheard = set(nodes)
        self._settled_ms = self._clock() + SETTLE_MS
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Nothing more is sent; nodes attach their devices to the next owner by themselves."""
        self._is_closed = True
        for handle in (self._ticking, self._flushing):
            if handle is not None:
                handle.cancel()
        await self._backlog.close()

    # --- commands

    def tell(
        self,
        node: int,
        kind: Do,
        flag: int = 0,
        number: int = 0,
        local: int = 0,
        attachment: int = 0,
        seq: int = 0,
        a: int = 0,
        payload: bytes = b"",
    ) -> None:
        if self._is_closed:
            return
        self._add(node, build_record(kind, flag, number, local, attachment, seq, a, 0, payload))

    def _on_batch(self, piles: list[tuple[int, bytes]], seqs: bytes, numbers: bytes, ack_ms: int) -> None:
        """A batch was routed natively: notifications by node, and all their sequences and registrations."""
        if not self._is_closed:
            for node, records in piles:
                self._add(node, records)
            self._flights.add_many(seqs, numbers, self._clock(), ack_ms)

    def _add(self, node: int, records: bytes) -> None:
        size = self._tellings.add(node, self.partition, self.epoch, records)
        if size >= FULL_BYTES:
            self.flush()
        elif self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Give what waits to the bus now."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._is_closed:
            for node, message in self._tellings.take():
                self._bus.tell(node, DO, message)

    def _tell_of(self, number: int, link: int, kind: Do, *, seq: int = 0, payload: bytes = b"") -> None:
        """About a registration that is bound to this link."""
        local = self._sink.local(number)
        self.tell(node_of_link(link), kind, 0, number, local, attachment_of_link(link), seq, payload=payload)

    # --- model.ports.Edge

    def is_connected(self, registration: int) -> bool:
        return self.registry.link(registration) != 0

    @property
    def is_certain(self) -> bool:
        return self._unheard is not None and not self._unheard

    def urgency_floor(self, registration: int) -> int:
        return self._floors.get(self.registry.link(registration), 0) if self._floors else 0

    def notify(self, registration: int, frame: bytes, seq: int, ack_ms: int, *, again: bool = False) -> bool:
        link = self.registry.link(registration)
        if not link or link in self._held or self._is_closed:
            return False
        ack_ms = max(1, ack_ms)
        self.tell(
            node_of_link(link),
            Do.NOTIFY,
            again,
            registration,
            self._sink.local(registration),
            attachment_of_link(link),
            seq,
            ack_ms,
            frame,
        )
        self._flights.add(seq, registration, self._clock(), ack_ms)
        if link == self._ready_link:
            self._ready_room -= 1  # all its registrations share it
        if self.tally is not None:
            self.tally.add(seq)
        return True

    def room(self, registration: int) -> int:
        link = self.registry.link(registration)
        if not link or link in self._held:
            return 0
        return self._ready_room if link == self._ready_link else self._window

    def await_room(self, registration: int) -> None:
        link = self.registry.link(registration)
        if link:
            self.hold(registration, link)

    def hold(self, number: int, link: int) -> None:
        """Nothing new goes to this link until its node says what is in flight and how much room there is. The command
        follows all that was sent there, so what the node says then knows of it."""
        if link not in self._held:
            self._held.add(link)
            device = self._held_devices[link] = self.registry.device(number)
            self.tell(node_of_link(link), Do.HOLD, 0, 0, 0, attachment_of_link(link), device)

    def fanout(self, groups: Sequence[int], frame: bytes, seq: int, ack_ms: int, urgency: int) -> None:
        self._fan(groups, frame, seq, max(1, ack_ms), urgency)

    def recall(self, registration: int, seq: int) -> None:
        link = self.registry.link(registration)
        if link:
            self._tell_of(registration, link, Do.CANCEL, seq=seq)

    def recall_fanout(self, groups: Sequence[int], seq: int) -> None:
        self._fan(groups, build_frame(FrameType.RECALL, [seq]), seq, 0, 3)

    def _fan(self, groups: Sequence[int], frame: bytes, seq: int, ack_ms: int, urgency: int) -> None:
        """Groups go by what they stand for: a node has numbers of its own for them."""
        by_app: dict[str, list[tuple[int, str]]] = {}
        for group in groups:
            cohort = build_cohort(self._directory.group_cohort(group))
            by_app.setdefault(self._directory.group_app(group), []).append((group, cohort))
        for app, named in by_app.items():
            for start in range(0, len(named), FAN_GROUPS):
                payload = build_body(Fan(app, frame, urgency, named[start : start + FAN_GROUPS]))
                for node in self._nodes:
                    self.tell(node, Do.FANOUT, seq=seq, a=ack_ms, payload=payload)

    # --- what the directory tells (model.ports.Presence)

    def leaving(self, registration: Registration) -> None:
        number = registration.number
        link = self.registry.link(number)
        if link:
            self._tell_of(number, link, Do.UNBIND)
            self.unbind(number, link)

    def returned(self, registration: Registration) -> None:
        """The store refused that: whoever has the device is to bind it again, and says so."""
        if registration.signed_out:
            return
        cohort = build_cohort(self._directory.cohort(registration.number))
        payload = build_body(Returned(registration.token, registration.app, cohort))
        device = self._directory.device_key(registration.device)
        for node in self._nodes:
            self.tell(node, Do.RETURN, 0, registration.number, seq=device, payload=payload)

    def moved(self, number: int, *, asked: bool) -> None:
        """`asked`: its node says BOUND once it has sent TOKEN."""
        link = self.registry.link(number)
        if link:
            group = self.registry.group(number)
            cohort = Cohort(self._directory.group_app(group), build_cohort(self._directory.group_cohort(group)))
            self._tell_of(number, link, Do.MOVE, payload=build_body(cohort))
            if not asked:
                self.hold(number, link)

    # --- what nodes tell of bound registrations

    def bind(
        self, node: int, attachment: int, number: int, local: int, device: int, *, at_ms: int, floor: int, again: bool
    ) -> None:
        """The device of this registration is connected there. `again`: it may be old news."""
        link = far_link(node, attachment)
        if node not in self._nodes:
            self._nodes[node] = 0
        if not self.registry.has(number) or self.registry.signed_out(number):
            self.tell(node, Do.UNBIND, 0, number, local, attachment)
            return
        previous = self.registry.device_link(device)
        if previous and previous != link:
            older = max((self._bound_ms[n] for n in self.registry.bound(device)), default=0)
            if at_ms < older:
                # Old news: it was on its way for long, or both are told to a new owner. The later link holds. Where
                # clocks differ that may be the wrong one, so this one may come back.
                self.tell(node, Do.TAKEOVER, 1, attachment=attachment, seq=device)
                return
            self.tell(node_of_link(previous), Do.TAKEOVER, again, attachment=attachment_of_link(previous), seq=device)
            self._forget_link(previous)
        self._grow(number)
        moved = self.registry.link(number) != link
        self.registry.login(device, link)
        self.registry.bind(number, device)
        self._sink.set_local(number, local)
        self._bound_ms[number] = at_ms
        self._rounds_of[number] = self._nodes[node] & 0xFF
        self.set_floor(link, floor)
        if moved and not again:
            self.events.on_ready([number])
        elif self._journal.pending_of(number, 1) or self._broadcasts.waiting(number):
            self.hold(number, link)  # something of it may be in flight: only the node knows

    def _grow(self, number: int) -> None:
        missing = number + 1 - len(self._bound_ms)
        if missing > 0:
            missing += 1024
            self._bound_ms.frombytes(bytes(8 * missing))
            self._rounds_of.frombytes(bytes(missing))

    def left(self, number: int, link: int) -> None:
        """Its node says so, and tells of what is lost with its link. Where it had not said yet what is in flight there,
        what waited for that is looked at now: nobody else will."""
        was_held = link in self._held
        self.unbind(number, link)
        if was_held:
            self._backlog.add(self._look_at_new(number))

    def _look_at_new(self, number: int) -> Iterator[None]:
        """At what an owner before this one left behind for it."""
        pending = self._journal.pending_of(number)
        for start in range(0, len(pending), SLICE):
            for seq in pending[start : start + SLICE]:
                delivery = self._journal.get(seq)
                if delivery is not None and delivery.state == State.ACCEPTED:
                    self.events.on_lost(seq, number, spilled=False)
            yield

    def unbind(self, number: int, link: int) -> None:
        device = self.registry.device(number)
        self.registry.unbind(number)
        if not self.registry.bound(device):
            self.registry.logout(device, link)
            self._forget_link(link)

    def _forget_link(self, link: int) -> None:
        self._floors.pop(link, None)
        self._held.discard(link)
        self._held_devices.pop(link, None)

    def set_floor(self, link: int, floor: int) -> None:
        if floor > 0:
            self._floors[link] = floor
        else:
            self._floors.pop(link, None)

    def ready(self, link: int, room: int, numbers: Sequence[int], in_flight: Collection[tuple[int, int]]) -> None:
        self._held.discard(link)
        self._held_devices.pop(link, None)
        here = [number for number in numbers if self.registry.link(number) == link]
        if here:
            for seq, _ in in_flight:
                # What an owner before this one sent is looked after as if it left now.
                delivery = self._journal.get(seq)
                if delivery is not None and delivery.state == State.ACCEPTED:
                    self._watch(delivery)
            self._ready_link, self._ready_room = link, room
            try:
                self.events.on_ready(here, in_flight)
            finally:
                self._ready_link = 0

    def _watch(self, delivery: Delivery) -> None:
        """It is in flight: where nothing is heard of it in its ack time, its node is asked."""
        notification = self._journal.notification(delivery.notification)
        if notification is not None:
            self._flights.add(delivery.seq, delivery.registration, self._clock(), notification.ack_ms)

    # --- nodes that come, go, or lost something

    def ask_again(self, node: int) -> None:
        """Something it told may be lost: it is to tell of all its devices again."""
        current = self._nodes.get(node, 0) + 1
        self._nodes[node] = current
        self.tell(node, Do.AGAIN, a=current)

    def synced(self, node: int, current: int) -> None:
        """It told of all: what it did not tell of is there no more. 0: of all it has, without being asked."""
        self._heard(node)
        if current and self._nodes.get(node) == current:
            self._backlog.add(self._drop_untold(node, current))

    def _heard(self, node: int) -> None:
        if self._unheard:
            self._unheard.discard(node)

    def _drop_untold(self, node: int, current: int) -> Iterator[None]:
        for number, link in self._linked_to(node):
            if number < 0:
                yield
                if self._nodes.get(node) != current:
                    return
            elif self._rounds_of[number] != current & 0xFF:
                self.unbind(number, link)
                self._lose(number)

    def _linked_to(self, node: int) -> Iterator[tuple[int, int]]:
        """(registration, link) of those there now; (-1, 0) where a slice is over."""
        for part in self._directory.everybody():
            for number, link in zip(part, self.registry.links(part), strict=True):
                if link and node_of_link(link) == node and self.registry.link(number) == link:
                    yield number, link
            yield -1, 0

    def member_gone(self, node: int) -> None:
        """Its devices are not connected any more, and what was in flight there is lost."""
        self._heard(node)
        if self._nodes.pop(node, None) is not None:
            self._backlog.add(self._log_out(node))

    def _log_out(self, node: int) -> Iterator[None]:
        looked = 0
        for number, link in self._linked_to(node):
            if number >= 0:
                self.unbind(number, link)
                self._lose(number)
                looked += 1
            if number < 0 or looked >= SLICE:
                looked = 0
                yield

    def _lose(self, number: int) -> None:
        """Whatever is in flight for it never comes back, whoever sent it."""
        for seq in self._journal.pending_of(number):
            delivery = self._journal.get(seq)
            if delivery is not None and delivery.state in (State.ACCEPTED, State.SENT):
                self._metrics.count(Metric.FAR_LOST, label="lost")
                self.events.on_lost(seq, number, spilled=False)
        for seq in self._broadcasts.waiting(number):
            self.events.on_lost(seq, number, spilled=False)

    # --- what nothing was heard of

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._ticks += 1
        now = self._clock()
        if self._unheard and now >= self._settled_ms:
            self._unheard.clear()  # a node that says nothing does not keep notifiers waiting
        due = self._flights.due(now)
        if due:
            self._backlog.add(self._look_after(due))
        if self._ticks % HOLD_AGAIN_TICKS == 0:
            for link, device in list(self._held_devices.items()):
                if self.registry.device_link(device) != link:
                    self._forget_link(link)
                else:
                    self.tell(node_of_link(link), Do.HOLD, 0, 0, 0, attachment_of_link(link), device)

    def _look_after(self, due: list[tuple[array[int], array[int]]]) -> Iterator[None]:
        for seqs, numbers in due:
            for start in range(0, len(seqs), SLICE):
                for seq, number in zip(seqs[start : start + SLICE], numbers[start : start + SLICE], strict=True):
                    delivery = self._journal.get(seq)
                    if delivery is None or delivery.state != State.SENT or delivery.registration != number:
                        continue
                    link = self.registry.link(number)
                    if link:
                        self._metrics.count(Metric.FAR_LOST, label="asked")
                        self.hold(number, link)
                        self._watch(delivery)  # what is in flight still may be lost after that
                    else:
                        self._metrics.count(Metric.FAR_LOST, label="lost")
                        self.events.on_lost(seq, number, spilled=False)
                yield
