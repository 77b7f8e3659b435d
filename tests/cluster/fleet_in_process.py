"""Members of a whole fleet in one loop, with a tenant that watches over what must never happen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from gateway.cluster.beats import LoopHeart
from gateway.cluster.entrance import enter
from gateway.cluster.leases import Bucket, LocalLeases
from gateway.cluster.members import FleetMembers
from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics
from gateway.model.cluster import Member, Owner
from gateway.model.errors import GatewayError


class Watcher:
    """Sees all tenants: epochs only rise, and nobody opens what another one still has."""

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}
        self.has: dict[int, Tenantry] = {}
        self.moves = 0
        self.violations: list[str] = []

    def adopted(self, partition: int, epoch: int, tenant: Tenantry) -> None:
        self.moves += 1
        if epoch <= self.epochs.get(partition, 0):
            self.violations.append(f"epoch {epoch} of {partition} after {self.epochs[partition]}")
        self.epochs[partition] = epoch
        other = self.has.get(partition)
        if other is not None:
            self.violations.append(f"{tenant.name} opens {partition}, which {other.name} has")
        self.has[partition] = tenant

    def let_go(self, partition: int, tenant: Tenantry) -> None:
        if self.has.get(partition) is tenant:
            del self.has[partition]


class Tenantry:
    """A `model.cluster.Tenant` that takes its time."""

    def __init__(self, name: str, watcher: Watcher, *, opens_s: float = 0.0) -> None:
        self.name = name
        self.watcher = watcher
        self.opens_s = opens_s
        self.fails: set[int] = set()
        self.has: set[int] = set()
        self.owners: dict[int, Owner] = {}
        self.members: set[int] = set()
        self.follows: set[int] = set()
        self.log: list[tuple[str, int]] = []

    async def adopt(self, partition: int, epoch: int) -> None:
        self.log.append(("adopt", partition))
        self.follows.discard(partition)
        if partition in self.fails:
            raise RuntimeError("can not be opened here")
        self.watcher.adopted(partition, epoch, self)
        self.has.add(partition)
        await asyncio.sleep(self.opens_s)

    def steps(self, partition: int) -> int:
        return 0

    async def release(self, partition: int) -> None:
        self.log.append(("release", partition))
        await asyncio.sleep(self.opens_s)
        self._let_go(partition)

    def lost(self, partition: int) -> None:
        self.log.append(("lost", partition))
        self._let_go(partition)

    def _let_go(self, partition: int) -> None:
        self.has.discard(partition)
        self.watcher.let_go(partition, self)

    def owner_changed(self, partition: int, owner: Owner) -> None:
        self.owners[partition] = owner

    def member_came(self, member: Member) -> None:
        self.members.add(member.number)

    def member_gone(self, number: int) -> None:
        self.members.discard(number)
        self.log.append(("gone", number))

    def standby(self, partition: int, *, wanted: bool) -> None:
        (self.follows.add if wanted else self.follows.discard)(partition)


class Node:
    def __init__(self, name: str, fleet: Fleet) -> None:
        self.name = name
        self.fleet = fleet
        self.leases = LocalLeases(fleet.bucket, latency_s=fleet.latency_s)
        self.beat_leases = LocalLeases(fleet.bucket, latency_s=fleet.latency_s)
        self.tenant = Tenantry(name, fleet.watcher, opens_s=fleet.opens_s)
        self.metrics = Metrics(process=False)
        self.ousted: list[GatewayError] = []
        self.skew_s = 0.0
        self.members: FleetMembers

    async def start(self, *, version: int = 1) -> None:
        settings = self.fleet.settings(self.name)
        time, skew_s = asyncio.get_running_loop().time, self.skew_s

        def now() -> float:
            return time() + skew_s

        entrance = await enter(settings, self.leases, devices=f"{self.name}:7400", now=now, version=version)
        self.members = FleetMembers(
            settings,
            entrance,
            self.leases,
            LoopHeart(self.beat_leases, settings, now=now),
            self.tenant,
            self.metrics,
            is_up=lambda: not self.leases.is_cut,
            on_ousted=self.ousted.append,
            now=now,
        )
        await self.members.start()

    def cut(self, *, is_cut: bool = True) -> None:
        self.leases.is_cut = self.beat_leases.is_cut = is_cut

    async def die(self) -> None:
        """At once: nobody is told."""
        self.cut()
        for partition in list(self.tenant.has):
            self.tenant._let_go(partition)
        self.members._is_lapsed = True
        await self.members.close()


class Fleet:
    """`chance` makes latencies differ."""

    def __init__(
        self,
        *,
        partitions: int = 16,
        latency_s: float = 0.002,
        opens_s: float = 0.05,
        handovers: int = 2,
        standbys: int = 1,
    ) -> None:
        self.bucket = Bucket()
        self.watcher = Watcher()
        self.partitions = partitions
        self.latency_s = latency_s
        self.opens_s = opens_s
        self.handovers = handovers
        self.standbys = standbys
        self.nodes: dict[str, Node] = {}

    def settings(self, name: str) -> Cluster:
        return Cluster(
            url="nats://local",
            node=name,
            partitions=self.partitions,
            handovers=self.handovers,
            standbys=self.standbys,
            lease_s=3.0,
            beat_s=0.75,
        )

    async def add(self, name: str, *, latency_s: float | None = None, skew_s: float = 0.0) -> Node:
        node = Node(name, self)
        node.skew_s = skew_s
        if latency_s is not None:
            node.leases.latency_s = node.beat_leases.latency_s = latency_s
        await node.start()
        self.nodes[name] = node
        return node

    async def kill(self, name: str) -> None:
        await self.nodes.pop(name).die()

    async def leave(self, name: str) -> None:
        await self.nodes.pop(name).members.close()

    def owners(self) -> dict[int, str]:
        """Of partitions that are open somewhere."""
        return {partition: tenant.name for partition, tenant in self.watcher.has.items()}

    def is_whole(self) -> bool:
        """Every partition has one owner, and all nodes agree whose it is."""
        if len(self.watcher.has) != self.partitions:
            return False
        numbers = {node.members.me().number: name for name, node in self.nodes.items()}
        owners = self.owners()
        return all(
            numbers.get(node.members.owner(partition).node) == owners[partition]
            and partition in self.nodes[owners[partition]].members.owned()
            for node in self.nodes.values()
            for partition in range(self.partitions)
        )

    async def until(self, true: Callable[[], object], within_s: float = 60.0, *, step_s: float = 0.01) -> float:
        """How long it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not true():
            assert loop.time() - began < within_s, "it did not come to it"
            await asyncio.sleep(step_s)
        return loop.time() - began

    async def close(self) -> None:
        for name in list(self.nodes):
            self.nodes[name].cut(is_cut=False)
            await self.leave(name)
        assert self.watcher.violations == [], self.watcher.violations
        assert self.watcher.has == {}


def random_latency(chance: random.Random) -> float:
    return chance.choice([0.0, 0.002, 0.05, 0.3])
