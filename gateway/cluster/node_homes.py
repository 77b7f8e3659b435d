"""Registrations of the devices that are connected to this node, and whose they are: local number → partition and number
there; must never keep a Python object for a device that only sits there.

The native registry holds bound registrations alone, by local numbers. A number whose registration left rests before it
is another's: until then reactors may still speak of it.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator

from gateway._native.far_records import HomeTable
from gateway._native.registry import Registry
from gateway.cluster.far_wire import attachment_of
from gateway.cluster.packed_texts import PackedTexts
from gateway.store.groups import Groups

#: a number that was left is not given to another registration for so long, seconds
REST_S = 30.0
#: between partition and app in the names that groups go by here
_BETWEEN = "/"


class NodeHomes:
    """gateway.edge.ports.Home of a node. Control thread only. `device_key`: device id → keyed 64-bit hash."""

    def __init__(self, device_key: Callable[[str], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._device_key = device_key
        self._clock = clock
        self.registry = Registry()
        self._groups = Groups(self.registry.population)
        #: by local number
        self.table = HomeTable()
        self.links = array("Q")  # the one it is bound to, or was last
        self.bound_ms = array("Q")
        self._devices = PackedTexts()
        #: by group of this node: its number at its owner, as that said last
        self.owner_groups = array("I")
        self._resting: deque[tuple[int, array[int]]] = deque()  # (second, numbers left in it)
        self._grow()  # 0 is no number

    def _grow(self) -> int:
        self.links.append(0)
        self.bound_ms.append(0)
        return self.table.grow()

    @property
    def top(self) -> int:
        """Numbers are below."""
        return len(self.table)

    # --- gateway.edge.ports.Home

    def group_app(self, group: int) -> str:
        return self._groups.app(group).partition(_BETWEEN)[2]

    def device_of(self, number: int) -> str | None:
        return self._devices[number] or None

    def device_key(self, device: str) -> int:
        return self._device_key(device)

    # --- numbers

    def take(self, partition: int, number: int, token: bytes, device: str, app: str, cohort: str) -> int:
        """Its local number, a new one where it has none; bound to nothing yet."""
        group = self._groups.number(f"{partition}{_BETWEEN}{app}", cohort)
        local = self.registry.find(token)
        if local >= 0:
            if self.registry.group(local) != group:
                self.registry.set_group(local, group)
            return local
        local = self._rested() or self._grow()
        self.registry.add(local, token, group)
        self.registry.keep_hash(local, token)  # cursors are the owner's
        self.table.set(local, partition, number)
        self.links[local] = 0
        self._devices[local] = device
        return local

    def release(self, local: int) -> None:
        """It is bound here no more. Whose it was is still known while it rests."""
        if self.registry.has(local):
            self.registry.remove(local, self.registry.token(local))
            self._devices.drop(local)
            second = int(self._clock())
            if not self._resting or self._resting[-1][0] != second:
                self._resting.append((second, array("I")))
            self._resting[-1][1].append(local)

    def _rested(self) -> int:
        """A number that may be given out again; 0: there is none."""
        if not self._resting or self._clock() - self._resting[0][0] < REST_S + 1:
            return 0
        numbers = self._resting[0][1]
        local = numbers.pop()
        if not numbers:
            self._resting.popleft()
        return local

    def link_of(self, local: int, partition: int, number: int) -> int:
        """The link this registration is bound to; 0 where it is not here."""
        table = self.table
        if local >= len(table) or table.number(local) != number or table.partition(local) != partition:
            return 0
        return self.registry.link(local)

    def attachment(self, local: int) -> int:
        return attachment_of(self.links[local])

    def bound_to(self, partition: int, step: int) -> Iterator[list[int]]:
        """Those bound here of one partition, in parts of so many numbers looked at."""
        at = 1
        while at < self.top:
            end = min(at + step, self.top)
            part = self.table.of_partition(partition, at, end)
            yield [local for local, link in zip(part, self.registry.links(part), strict=True) if link]
            at = end

    # --- groups

    def set_group(self, local: int, partition: int, app: str, cohort: str) -> int:
        group = self._groups.number(f"{partition}{_BETWEEN}{app}", cohort)
        self.registry.set_group(local, group)
        return group

    def known_groups(self, partition: int, app: str, named: list[tuple[int, str]]) -> list[int]:
        """Groups of this node for those of an owner, (its number, cohort); what nobody here is in is left out."""
        out = []
        for owners, cohort in named:
            group = self._groups.known(f"{partition}{_BETWEEN}{app}", cohort)
            if group >= 0:
                if group >= len(self.owner_groups):
                    self.owner_groups.frombytes(bytes(4 * (group + 64 - len(self.owner_groups))))
                self.owner_groups[group] = owners
                out.append(group)
        return out

    def partition_of_group(self, group: int) -> int:
        return int(self._groups.app(group).partition(_BETWEEN)[0])
