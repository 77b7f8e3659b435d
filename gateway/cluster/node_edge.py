"""The device door of a node: carries out what the owners of registrations say, and tells them of its devices; must
never hear an owner of an older epoch.

When a partition gets another owner, all that is bound here of it is told again, in slices. The same after a gap, where
something an owner said was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog

from gateway._native.far_traffic import deliver
from gateway.auth.service_keys import ServiceKeys
from gateway.cluster.far_edge import DO
from gateway.cluster.far_wire import (
    HEAD_BYTES,
    Cohort,
    Do,
    Fan,
    Record,
    Returned,
    Told,
    attachment_of,
    parse_body,
    parse_message,
    parse_record,
)
from gateway.cluster.holds import Holds
from gateway.cluster.node_events import NodeAttendance, NodeEvents
from gateway.cluster.node_homes import NodeHomes
from gateway.cluster.node_requests import NodeRequests
from gateway.cluster.node_server import NodeServer
from gateway.config.sections import Config
from gateway.delivery.backlog import Backlog
from gateway.edge.login import DeviceLogin, Session
from gateway.edge.plane import build_goaway
from gateway.edge.server import EdgeServer
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import Bus, Members, Owner
from gateway.model.errors import Overloaded, Takeover
from gateway.model.frames import FrameType, build_frame

_log = structlog.get_logger(__name__)
#: numbers looked at in one slice of telling an owner of its devices
SLICE_NUMBERS = 4_096


class NodeEdge:
    """`home_of`: device, app, account → partition; `device_key`: device id → keyed hash, the same on all nodes."""

    def __init__(
        self,
        config: Config,
        login: DeviceLogin,
        bus: Bus,
        members: Members,
        metrics: Metrics,
        clock: Callable[[], int],
        *,
        home_of: Callable[[str, str, str], int],
        device_key: Callable[[str], int],
        service_keys: ServiceKeys | None = None,
    ) -> None:
        self._bus = bus
        self._members = members
        self._metrics = metrics
        self.homes = NodeHomes(device_key)
        self.events = NodeEvents(bus, members, self.homes, metrics, clock)

        def requests(edge: EdgeServer) -> NodeRequests:
            return NodeRequests(
                edge,
                self.homes,
                self.events,
                bus,
                members,
                home_of,
                config.edge,
                clock,
                service_keys,
                config.cluster.ask_timeout_s,
            )

        self.edge = NodeServer(
            config,
            login,
            self.homes,
            metrics,
            clock,
            service_keys=service_keys,
            attendance=NodeAttendance(self.events),
            requests=requests,
            acks_to=self.homes.table,
        )
        self.edge.attach(self.events)
        self.events.edge = self.edge
        self.events.holds = Holds(self.edge.ask_reactor)
        self._backlog = Backlog()
        #: partition → the telling of all devices under way
        self._telling: dict[int, object] = {}
        self._handlers: dict[int, Callable[[int, Record], None]] = {
            Do.NOTIFY: self._do_notify,
            Do.CANCEL: self._do_cancel,
            Do.HOLD: self._do_hold,
            Do.UNBIND: self._do_unbind,
            Do.MOVE: self._do_move,
            Do.TAKEOVER: self._do_takeover,
            Do.FANOUT: self._do_fanout,
            Do.AGAIN: self._do_again,
            Do.RETURN: self._do_return,
        }

    def serve(self) -> None:
        """Before the bus starts."""
        self._bus.serve(DO, self._on_do)
        self._bus.on_gap(self._on_gap)

    async def close(self) -> None:
        """After the edge was stopped."""
        await self._backlog.close()
        self.events.close()

    # --- owners that change

    def owner_changed(self, partition: int, owner: Owner) -> None:
        if owner.node:
            self._metrics.count(Metric.FAR_ROUNDS, label="owner")
            self.tell_all(partition)

    def _on_gap(self, node: int) -> None:
        for partition in range(self._members.partitions):
            if self._members.owner(partition).node == node:
                self._metrics.count(Metric.FAR_ROUNDS, label="gap")
                self.tell_all(partition)

    def tell_all(self, partition: int, current: int = 0) -> None:
        """Say BOUND of all that is bound here of this partition; `current`: the round its owner asked for, 0: it did
        not."""
        mark = self._telling[partition] = object()
        self._backlog.add(self._tell_all(partition, current, mark, self._members.owner(partition)))

    def _tell_all(self, partition: int, current: int, mark: object, owner: Owner) -> Iterator[None]:
        for part in self.homes.bound_to(partition, SLICE_NUMBERS):
            if self._members.owner(partition) != owner:
                return  # the next one is told from the beginning
            if self._telling.get(partition) is not mark:
                if not current:
                    return
                current = 0  # asked for again meanwhile
            for local in part:
                self.events.bound(local, again=True)
            yield
        if self._members.owner(partition) == owner:
            self.events.tell(partition, Told.SYNCED, a=current)
        if self._telling.get(partition) is mark:
            del self._telling[partition]

    # --- what owners say

    def _on_do(self, sender: int, body: bytes) -> bytes:
        try:
            partition, epoch, count = parse_message(body)
        except ValueError:
            self._metrics.count(Metric.FAR_DROPPED, label="malformed")
            return b""
        if not self._is_owner(sender, partition, epoch):
            self._metrics.count(Metric.FAR_DROPPED, count, "stale")
            return b""
        at, end = HEAD_BYTES, len(body)
        while at < end:
            at = deliver(body, at, partition, self.homes.table, self.homes.registry, self.edge.plane.reactors)
            if at < end:
                record, at = parse_record(body, at)
                self._do_one(partition, record)
        return b""

    def _do_one(self, partition: int, record: Record) -> None:
        handler = self._handlers.get(record.kind)
        try:
            if handler is None:
                raise ValueError("no such command")
            handler(partition, record)
        except ValueError:
            self._metrics.count(Metric.FAR_DROPPED, label="malformed")
        except Exception:
            # One device's command must not cost the others of its message.
            _log.exception("far_command_failed", kind=record.kind)

    def _is_owner(self, sender: int, partition: int, epoch: int) -> bool:
        if partition >= self._members.partitions:
            return False
        return self._members.owner(partition) == Owner(sender, epoch)

    def _link(self, partition: int, record: Record) -> int:
        """The link that is meant; 0 where it is over."""
        link = self.homes.link_of(record.local, partition, record.number)
        return link if link and attachment_of(link) == record.attachment else 0

    def _do_notify(self, partition: int, record: Record) -> None:
        link = self._link(partition, record)
        if not link:
            self.events.not_here(partition, record.number, record.local, record.attachment, record.seq)
            return
        plane = self.edge.plane
        ms = min(record.a, 0xFFFFFFFF)
        queued = plane.of(link).notify(link, record.payload, record.seq, record.local, ms, bool(record.flag))
        if not plane.sent(queued):
            self.events.refused(record.local, record.seq)

    def _do_cancel(self, partition: int, record: Record) -> None:
        link = self._link(partition, record)
        if link:
            frame = build_frame(FrameType.RECALL, [record.seq])
            self.edge.plane.insist(self.edge.plane.of(link).cancel, link, record.seq, record.local, frame)

    def _do_hold(self, partition: int, record: Record) -> None:
        link = self.homes.registry.device_link(record.seq)
        if link and attachment_of(link) == record.attachment:
            self.events.holds.ask(link, partition)

    def _do_unbind(self, partition: int, record: Record) -> None:
        link = self._link(partition, record)
        if not link:
            return
        device = self.homes.registry.device(record.local)
        session = Session(device, self.homes.device_of(record.local) or "")
        self.edge.unbind(link, record.local)
        if not self.homes.registry.bound(device):
            self.edge.remember(link, session)

    def _do_move(self, partition: int, record: Record) -> None:
        cohort = parse_body(record.payload, Cohort)
        link = self._link(partition, record)
        if link:
            group = self.homes.set_group(record.local, partition, cohort.app, cohort.cohort)
            self.edge.plane.insist(self.edge.plane.of(link).bind, link, group, record.local)

    def _do_takeover(self, partition: int, record: Record) -> None:  # noqa: ARG002 - one shape for all
        link = self.homes.registry.device_link(record.seq)
        if link and attachment_of(link) == record.attachment:
            self.edge.close(link, build_goaway(Overloaded if record.flag else Takeover))

    def _do_fanout(self, partition: int, record: Record) -> None:
        fan = parse_body(record.payload, Fan)
        groups = self.homes.known_groups(partition, fan.app, fan.groups)
        if not groups or not 0 <= fan.urgency <= 3:
            return
        ms = min(record.a, 0xFFFFFFFF)
        for reactor in self.edge.plane.reactors:
            self.edge.plane.insist(reactor.fanout, groups, fan.frame, record.seq, ms, fan.urgency)

    def _do_again(self, partition: int, record: Record) -> None:
        self._metrics.count(Metric.FAR_ROUNDS, label="asked")
        self.tell_all(partition, record.a)

    def _do_return(self, partition: int, record: Record) -> None:
        link = self.homes.registry.device_link(record.seq)
        session = self.edge.session(link, record.seq) if link else None
        if session is None:
            return
        back = parse_body(record.payload, Returned)
        if len(back.token) != 16:
            raise ValueError("no such token")
        local = self.homes.take(partition, record.number, back.token, session.device, back.app, back.cohort)
        self.edge.bind(link, local, session.key)
