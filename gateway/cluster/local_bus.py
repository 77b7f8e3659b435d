"""A bus for any number of nodes in one process, with switches for what networks do; must never copy what the real one
does by itself: it carries the same messages.
"""

from __future__ import annotations

import asyncio
from collections import deque

from gateway.cluster.message_bus import MARK_S, MessageBus
from gateway.metrics import Metrics

OUTBOX_BYTES = 67_108_864
#: a bundle that is larger goes in parts here too
MESSAGE_BYTES = 1_048_576


class LocalNetwork:
    """Joins `LocalBus`es. Between two nodes messages keep their order, whatever is switched."""

    def __init__(self, *, message_bytes: int = MESSAGE_BYTES) -> None:
        self.message_bytes = message_bytes
        self.buses: dict[int, LocalBus] = {}
        self._cut: set[tuple[int, int]] = set()
        self._to_drop: dict[tuple[int, int], int] = {}
        self._delays: dict[tuple[int, int], float] = {}
        self._under_way: dict[tuple[int, int], deque[bytes]] = {}

    def bus(self, number: int, metrics: Metrics | None = None, *, outbox_bytes: int = OUTBOX_BYTES) -> LocalBus:
        bus = LocalBus(self, number, metrics or Metrics(process=False), outbox_bytes=outbox_bytes)
        self.buses[number] = bus
        return bus

    def cut(self, one: int, other: int) -> None:
        """Nothing gets through between them any more, in both directions."""
        self._cut |= {(one, other), (other, one)}

    def cut_one_way(self, sender: int, receiver: int) -> None:
        self._cut.add((sender, receiver))

    def heal(self) -> None:
        self._cut.clear()

    def drop(self, sender: int, receiver: int, count: int = 1) -> None:
        """The next so many messages are lost."""
        self._to_drop[sender, receiver] = count

    def delay(self, sender: int, receiver: int, seconds: float) -> None:
        """From now on."""
        self._delays[sender, receiver] = seconds

    def carry(self, sender: int, receiver: int, message: bytes) -> None:
        pair = sender, receiver
        if pair in self._cut:
            return
        if self._to_drop.get(pair, 0) > 0:
            self._to_drop[pair] -= 1
            return
        # each message has a timer of its own, and each timer takes the oldest message
        self._under_way.setdefault(pair, deque()).append(message)
        loop = asyncio.get_running_loop()
        if seconds := self._delays.get(pair, 0.0):
            loop.call_later(seconds, self._arrive, pair)
        else:
            loop.call_soon(self._arrive, pair)

    def _arrive(self, pair: tuple[int, int]) -> None:
        message = self._under_way[pair].popleft()
        bus = self.buses.get(pair[1])
        if bus is not None and bus.is_up and pair not in self._cut:
            bus.receive(message)


class LocalBus(MessageBus):
    """`is_up` may be switched: a node that can not reach the engine."""

    def __init__(
        self, network: LocalNetwork, number: int, metrics: Metrics, *, outbox_bytes: int, mark_s: float = MARK_S
    ) -> None:
        super().__init__(number, metrics, outbox_bytes=outbox_bytes, mark_s=mark_s)
        self._network = network
        self._is_up = True

    @property
    def is_up(self) -> bool:
        return self._is_up and not self._is_closed

    def switch(self, *, up: bool) -> None:
        self._is_up = up
        if up:
            self.mark_all()
            self._flush_soon()

    async def close(self) -> None:
        await super().close()
        if self._network.buses.get(self.number) is self:
            del self._network.buses[self.number]

    def _carry(self, node: int, message: bytes) -> None:
        self._network.carry(self.number, node, message)

    def _flush_others(self) -> None:
        if not self._is_up:
            return
        for node in self._dirty:
            while self._outboxes[node]:
                for message in self._outboxes[node].take(self._network.message_bytes):
                    self._carry(node, message)
        self._dirty.clear()
