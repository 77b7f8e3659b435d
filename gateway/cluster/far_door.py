"""Where nodes reach the cores of partitions that live here: every message goes to its partition's core, in the epoch it
was meant for, or is dropped and counted; must never let what a peer sent raise into the loop.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from gateway._native.batches import Batches
from gateway.cluster.far_asks import FarAsks
from gateway.cluster.far_edge import FarEdge
from gateway.cluster.far_hearing import FarHearing
from gateway.cluster.far_wire import AskEnd, AskFetch, AskRegister, parse_body, parse_message
from gateway.cluster.lateness import Lateness
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import Bus, Member, Members
from gateway.model.errors import BadRequest, NodeUnreachable
from gateway.store.directory import Directory

#: what nodes tell of their devices, and ask for them
TOLD = "far.told"
REGISTER = "far.register"
END = "far.end"
FETCH = "far.fetch"

_Ask = TypeVar("_Ask", AskRegister, AskEnd, AskFetch)


class _Core:
    __slots__ = ("asks", "edge", "hearing")

    def __init__(self, edge: FarEdge, hearing: FarHearing, asks: FarAsks) -> None:
        self.edge = edge
        self.hearing = hearing
        self.asks = asks


class FarDoor:
    """One of a node. `serve` once, before the bus starts."""

    def __init__(self, bus: Bus, members: Members, metrics: Metrics) -> None:
        self._bus = bus
        self._members = members
        self._metrics = metrics
        self._cores: dict[int, _Core] = {}
        self._lateness = Lateness()

    def serve(self) -> None:
        self._bus.serve(TOLD, self._on_told)
        self._bus.serve(REGISTER, self._on_register)
        self._bus.serve(END, self._on_end)
        self._bus.serve(FETCH, self._on_fetch)
        self._bus.on_gap(self._on_gap)

    def open(self, edge: FarEdge, directory: Directory, batches: Batches) -> None:
        """This core is reached from now on. Its delivery floor is attached already."""
        hearing = FarHearing(edge, batches, self._metrics)
        self._cores[edge.partition] = _Core(edge, hearing, FarAsks(edge, directory))
        edge.start(member.number for member in self._members.all())
        # Nodes that heard of their new owner before it heard them have told of their devices in vain.
        for member in self._members.all():
            edge.ask_again(member.number)

    async def close(self, partition: int) -> None:
        core = self._cores.pop(partition, None)
        if core is not None:
            await core.edge.close()

    def member_came(self, member: Member) -> None:
        """It may have been away and have told what nobody heard."""
        for core in self._cores.values():
            core.edge.ask_again(member.number)

    def member_gone(self, number: int) -> None:
        self._lateness.forget(number)
        for core in self._cores.values():
            core.edge.member_gone(number)

    def _on_gap(self, node: int) -> None:
        if self._members.member(node) is not None:
            for core in self._cores.values():
                core.edge.ask_again(node)

    def _drop(self, reason: str) -> bytes:
        self._metrics.count(Metric.FAR_DROPPED, label=reason)
        return b""

    def _on_told(self, sender: int, body: bytes) -> bytes:
        try:
            partition, epoch, _ = parse_message(body)
        except ValueError:
            return self._drop("malformed")
        core = self._cores.get(partition)
        if core is None or core.edge.epoch != epoch or self._members.member(sender) is None:
            return self._drop("stale")
        core.hearing.hear(sender, body)
        return b""

    def _core_for(self, body: bytes, kind: type[_Ask]) -> tuple[_Core, _Ask]:
        try:
            ask = parse_body(body, kind)
        except ValueError:
            self._drop("malformed")
            raise BadRequest("no such question") from None
        core = self._cores.get(ask.partition)
        if core is None or core.edge.epoch != ask.epoch:
            self._drop("stale")
            raise NodeUnreachable
        return core, ask

    def _on_register(self, sender: int, body: bytes) -> Awaitable[bytes]:
        core, ask = self._core_for(body, AskRegister)
        if self._is_late(sender, ask):
            # Its node has told the device to come again: carried out for nobody it would hold up those that do.
            self._drop("late")
            raise NodeUnreachable
        return core.asks.register(ask)

    def _is_late(self, sender: int, ask: AskRegister) -> bool:
        if not ask.wait_ms or self._members.member(sender) is None:
            return False
        return self._lateness.waited_ms(sender, ask.asked_ms) >= ask.wait_ms

    def _on_end(self, sender: int, body: bytes) -> Awaitable[bytes]:
        core, ask = self._core_for(body, AskEnd)
        return core.asks.end(sender, ask)

    def _on_fetch(self, sender: int, body: bytes) -> bytes:
        core, ask = self._core_for(body, AskFetch)
        return core.asks.fetch(sender, ask)
