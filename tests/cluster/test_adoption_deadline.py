"""An adoption that hangs is ended and another node tries; one that only takes long is left alone. Whole fleets in one
loop, in virtual time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from fleet_in_process import Fleet, Tenantry, Watcher
from structlog.testing import capture_logs
from virtual_time import run

from gateway.cluster.adoption_deadline import AdoptionDeadline, Overdue
from gateway.cluster.assignment import rank
from gateway.cluster.fleet_records import Holding, build, partition_key
from gateway.cluster.journal_past import JournalLacking, Lack, Past, Pasts, lack_key, past_key
from gateway.cluster.journal_past import build as build_past
from gateway.metrics.names import Metric

TIMEOUT_S = 60.0  # cluster.adopt_timeout_s as it is


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Fleets of many nodes say a lot."""
    with capture_logs():
        yield


def live(work: Coroutine[Any, Any, None]) -> None:
    run(work)


class Hanging(Tenantry):
    """Adopts some partitions for ever."""

    def hang(self, *partitions: int) -> None:
        self.hangs = set(partitions)
        self.gets_on = False
        self.ignores_the_end = False
        self.go_on = asyncio.Event()
        self.steps_done = 0
        self.tries = 0

    async def adopt(self, partition: int, epoch: int) -> None:
        if partition not in self.hangs:
            return await super().adopt(partition, epoch)
        self.tries += 1
        while True:
            try:
                await self.go_on.wait()
                break
            except asyncio.CancelledError:
                if not self.ignores_the_end:
                    raise
        if self.ignores_the_end:
            return None  # far too late, and it knows nothing of that
        return await super().adopt(partition, epoch)

    def steps(self, partition: int) -> int:
        if self.gets_on and partition in self.hangs:
            self.steps_done += 1
        return self.steps_done


async def a_fleet_in_which_one_hangs(fleet: Fleet, partition: int) -> Hanging:
    """`partition` should be a's, and there it hangs."""
    tenant = Hanging("a", fleet.watcher, opens_s=fleet.opens_s)
    tenant.hang(partition)
    await fleet.add("b")
    await fleet.until(fleet.is_whole)
    node = await fleet.add("a")
    node.tenant = node.members._tenant = node.members._deadline._tenant = tenant
    return tenant


def first_of(name: str) -> int:
    return next(partition for partition in range(16) if rank(partition, "ab")[0] == name)


def test_an_adoption_that_hangs_is_given_back_and_another_node_serves_the_partition() -> None:
    async def work() -> None:
        fleet, mine = Fleet(), first_of("a")
        tenant = await a_fleet_in_which_one_hangs(fleet, mine)
        await fleet.until(lambda: tenant.tries == 1)
        assert mine not in fleet.owners()
        took = await fleet.until(lambda: fleet.owners().get(mine) == "b", within_s=90)
        assert TIMEOUT_S - 1 < took < TIMEOUT_S + 15
        assert fleet.nodes["a"].metrics.value(Metric.PARTITION_MOVES, "overdue") == 1
        await fleet.until(fleet.is_whole)
        # when it does not hang any more it gets its part, after a while
        tenant.hangs.clear()
        await fleet.until(lambda: fleet.owners().get(mine) == "a", within_s=900)
        await fleet.close()
        assert fleet.watcher.violations == []

    live(work())


def test_an_adoption_that_gets_on_is_not_ended_however_long_it_takes() -> None:
    async def work() -> None:
        fleet, mine = Fleet(), first_of("a")
        tenant = await a_fleet_in_which_one_hangs(fleet, mine)
        tenant.gets_on = True
        await fleet.until(lambda: tenant.tries == 1)
        await asyncio.sleep(10 * TIMEOUT_S)
        assert tenant.tries == 1
        tenant.go_on.set()
        await fleet.until(lambda: fleet.owners().get(mine) == "a")
        assert fleet.nodes["a"].metrics.value(Metric.PARTITION_MOVES, "overdue") == 0
        await fleet.close()
        assert fleet.watcher.violations == []

    live(work())


def test_an_adoption_that_does_not_even_end_holds_up_nobody_else_and_is_not_begun_twice() -> None:
    async def work() -> None:
        fleet, mine = Fleet(), first_of("a")
        tenant = await a_fleet_in_which_one_hangs(fleet, mine)
        tenant.ignores_the_end = True
        await fleet.until(lambda: tenant.tries == 1)
        await fleet.until(lambda: fleet.owners().get(mine) == "b", within_s=120)
        served_s = 0.0
        for _ in range(18_000):
            await asyncio.sleep(0.1)
            served_s += 0.1 * (fleet.owners().get(mine) == "b")
        assert tenant.tries == 1
        assert served_s > 1_800 - 30  # it is looked at now and then whether a can have it by now
        # it comes through at last: it is told that the partition is not its any more, and may be given it again
        tenant.hangs.clear()
        tenant.go_on.set()
        await fleet.until(lambda: ("lost", mine) in tenant.log)
        assert mine not in tenant.has
        await fleet.until(lambda: fleet.owners().get(mine) == "a", within_s=1_200)
        await fleet.until(fleet.is_whole)
        await fleet.close()

    live(work())


async def test_a_thread_that_reads_a_large_partition_back_is_not_taken_for_standing_still() -> None:
    tenant = Tenantry("a", Watcher())

    async def adopt(partition: int, epoch: int) -> None:
        for _ in range(3):
            threading.Event().wait(0.5)  # nothing else is done meanwhile
            await asyncio.sleep(0)

    tenant.adopt = adopt  # type: ignore[method-assign]
    over: list[None] = []
    deadline = AdoptionDeadline(tenant, 0.4, lambda: over.append(None))
    await deadline.adopt(3, 1)
    tenant.adopt = lambda partition, epoch: asyncio.sleep(60)  # type: ignore[method-assign]
    began = time.monotonic()
    with pytest.raises(Overdue):
        await deadline.adopt(3, 2)
    assert 0.4 <= time.monotonic() - began < 5
    assert over == [None]


def test_a_node_that_is_closed_while_an_adoption_hangs_gives_the_partition_up() -> None:
    async def work() -> None:
        fleet, mine = Fleet(), first_of("a")
        tenant = await a_fleet_in_which_one_hangs(fleet, mine)
        await fleet.until(lambda: tenant.tries == 1)
        await fleet.leave("a")
        await fleet.until(lambda: fleet.owners().get(mine) == "b")
        await fleet.until(fleet.is_whole)
        await fleet.close()
        assert fleet.watcher.violations == []

    live(work())


def test_who_is_without_an_owner_for_long_is_told_by_every_node_with_the_reason() -> None:
    async def work() -> None:
        fleet = Fleet()
        for name in "ab":
            await fleet.add(name)
        await fleet.until(fleet.is_whole)
        assert fleet.nodes["a"].members.stranded() == []
        lost = 5
        for node in fleet.nodes.values():
            adopt, tenant = node.tenant.adopt, node.tenant

            async def refuse(partition: int, epoch: int, adopt: Any = adopt, name: str = node.name) -> None:
                if partition == lost:
                    await pasts[name].say(lost, name, Lack("its journal is gone", "c1", 7))
                    raise JournalLacking(lost, "its journal is gone")
                await adopt(partition, epoch)

            tenant.adopt = refuse  # type: ignore[method-assign]
        pasts = {name: Pasts(node.leases) for name, node in fleet.nodes.items()}
        owner = fleet.nodes[fleet.owners()[lost]]
        owner.members.end_partition(lost, owner.members._epochs[lost])
        await asyncio.sleep(5)
        assert fleet.nodes["a"].members.stranded() == []  # a fail-over takes a moment
        await asyncio.sleep(10)
        for node in fleet.nodes.values():
            [told] = node.members.stranded()
            assert (told.partition, told.reason) == (lost, "its journal is gone")
            assert 9.0 < told.for_s < 16.0
            assert node.metrics.value(Metric.PARTITIONS_STRANDED) == 1
            assert node.metrics.value(Metric.PARTITIONS_REFUSED) == 1
            assert node.metrics.value(Metric.PARTITION_MOVES, "refused") >= 1
        # they try less and less often …
        await asyncio.sleep(1_000)
        tries = sum(node.metrics.value(Metric.PARTITION_MOVES, "refused") for node in fleet.nodes.values())
        await asyncio.sleep(200)
        assert sum(node.metrics.value(Metric.PARTITION_MOVES, "refused") for node in fleet.nodes.values()) - tries <= 2
        # … and at once when somebody said how it goes on
        fleet.bucket.put(past_key(lost), build_past(Past("c1", 7, "by hand")), 0)
        await asyncio.sleep(1)
        assert "recovered" in fleet.nodes["b"].members.stranded()[0].reason
        for node in fleet.nodes.values():
            del node.tenant.adopt  # type: ignore[method-assign]
        fleet.bucket.put(past_key(lost), build_past(Past("c2", 99)), fleet.bucket.entries[past_key(lost)].revision)
        assert await fleet.until(fleet.is_whole) < 2
        # what was written down of it goes
        await fleet.until(lambda: not any(fleet.bucket.entries[lack_key(lost, name)].value for name in "ab"))
        assert all(node.members.stranded() == [] for node in fleet.nodes.values())
        await fleet.close()
        assert fleet.watcher.violations == []

    live(work())


def test_records_of_a_newer_program_are_no_reason_to_fall_over() -> None:
    async def work() -> None:
        fleet = Fleet()
        for key in (
            past_key(3),
            lack_key(3, "z"),
            "journal.x",
            "journal.",
            "lack.",
            "lack.3",
            "lack.3.",
            "lack.99999999.a",
        ):
            fleet.bucket.put(key, b"\xc1 what is this", 0)
        fleet.bucket.put(partition_key(4), build(Holding(0, 2)), 0)
        await fleet.add("a")
        await fleet.until(fleet.is_whole)
        assert fleet.nodes["a"].members.stranded() == []
        await fleet.close()

    live(work())
