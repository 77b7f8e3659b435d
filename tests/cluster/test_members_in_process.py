"""Leases, beats and whose the partitions are: whole fleets in one loop, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from fleet_in_process import Fleet, Node
from structlog.testing import capture_logs
from virtual_time import run

from gateway.cluster.assignment import rank
from gateway.cluster.members import HOLD_S
from gateway.metrics.names import Metric
from gateway.model.cluster import Owner
from gateway.model.errors import ConfigError


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Fleets of many nodes say a lot."""
    with capture_logs():
        yield


def live(work: Coroutine[Any, Any, None]) -> None:
    run(work)


async def three(fleet: Fleet) -> None:
    await asyncio.gather(*(fleet.add(name) for name in "abc"))
    await fleet.until(fleet.is_whole)
    await asyncio.sleep(30)  # balanced
    assert fleet.is_whole()


def preferred(partitions: int, names: str) -> dict[int, str]:
    return {partition: rank(partition, names)[0] for partition in range(partitions)}


def test_three_nodes_that_start_together_share_all_partitions() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        assert fleet.owners() == preferred(16, "abc")
        numbers = {node.members.me().number for node in fleet.nodes.values()}
        assert len(numbers) == 3
        for node in fleet.nodes.values():
            assert {member.name for member in node.members.all()} == {"a", "b", "c"}
            assert node.tenant.members == numbers - {node.members.me().number}
        await fleet.close()

    live(work())


def test_nodes_that_start_within_a_moment_share_without_moving_anything() -> None:
    async def work() -> None:
        for gap_s in (0.0, 0.4, 0.9, 1.4):
            fleet = Fleet(opens_s=0.3)
            for name in "abc":
                await fleet.add(name)
                await asyncio.sleep(gap_s)
            took = await fleet.until(fleet.is_whole)
            assert took + gap_s < 4.0
            await asyncio.sleep(30)
            assert fleet.watcher.moves == 16, gap_s
            assert fleet.owners() == preferred(16, "abc")
            await fleet.close()

    live(work())


def test_a_whole_fleet_that_is_started_again_moves_nothing_twice() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        for name in "abc":
            await fleet.leave(name)
        before = fleet.watcher.moves
        await asyncio.sleep(60)
        for name in "cab":
            await fleet.add(name)
            await asyncio.sleep(1.0)
        await fleet.until(fleet.is_whole)
        await asyncio.sleep(30)
        assert fleet.watcher.moves == before + 16
        await fleet.close()

    live(work())


def test_a_node_that_comes_again_and_again_holds_up_no_new_fleet() -> None:
    async def work() -> None:
        fleet = Fleet()
        await fleet.add("a")

        async def die_often() -> None:
            while True:
                await fleet.add("b")
                await asyncio.sleep(1.0)
                await fleet.leave("b")

        dying = asyncio.create_task(die_often())
        await fleet.until(lambda: len(fleet.watcher.has) == 16, within_s=16)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        await fleet.close()

    live(work())


def test_a_node_that_dies_is_replaced_within_its_lease_and_a_little() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        number = fleet.nodes["b"].members.me().number
        await fleet.kill("b")
        took = await fleet.until(fleet.is_whole)
        assert 2.0 < took < 4.5
        assert fleet.owners() == preferred(16, "ac")
        assert all(("gone", number) in node.tenant.log for node in fleet.nodes.values())
        assert all(node.members.member(number) is None for node in fleet.nodes.values())
        await fleet.close()

    live(work())


def test_a_node_that_leaves_in_good_order_is_replaced_at_once() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        before = fleet.owners()
        await fleet.leave("b")
        assert await fleet.until(fleet.is_whole) < 1.5
        moved = {partition for partition, name in fleet.owners().items() if before[partition] != name}
        assert moved == {partition for partition, name in before.items() if name == "b"}
        await fleet.close()

    live(work())


def test_a_node_that_joins_gets_its_share_a_few_at_a_time_and_nothing_else_moves() -> None:
    async def work() -> None:
        fleet = Fleet(opens_s=0.5)
        await three(fleet)
        before, moves = fleet.owners(), fleet.watcher.moves
        node = await fleet.add("d")
        worst = 0

        async def watch() -> None:
            nonlocal worst
            while True:
                worst = max(worst, 16 - sum(1 for p in range(16) if fleet.nodes["a"].members.owner(p).node))
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        await fleet.until(lambda: fleet.is_whole() and fleet.owners() == preferred(16, "abcd"))
        watching.cancel()
        moved = {partition for partition, name in fleet.owners().items() if before[partition] != name}
        assert moved == set(node.members.owned())
        assert fleet.watcher.moves - moves == len(moved)
        # three nodes decide for themselves, so that a few more may be under way than one alone would let be
        assert 0 < worst <= 2 * fleet.handovers
        await fleet.close()

    live(work())


def test_a_node_that_drains_hands_all_over_and_gets_nothing_back() -> None:
    async def work() -> None:
        fleet = Fleet(opens_s=0.2)
        await three(fleet)
        node = fleet.nodes["b"]
        assert await node.members.drain(60)
        assert not node.members.owned()
        assert fleet.is_whole()
        assert {member.name: member.draining for member in fleet.nodes["a"].members.all()} == {
            "a": False,
            "b": True,
            "c": False,
        }
        await asyncio.sleep(30)
        assert not node.members.owned()
        assert not node.tenant.follows
        await fleet.close()

    live(work())


def test_who_drains_alone_does_not_wait() -> None:
    async def work() -> None:
        fleet = Fleet()
        node = await fleet.add("a")
        await fleet.until(fleet.is_whole)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert not await node.members.drain(60)
        assert loop.time() - began < 1
        await fleet.close()

    live(work())


def test_a_drain_ends_at_its_deadline() -> None:
    async def work() -> None:
        fleet = Fleet(opens_s=20.0)
        node = await fleet.add("a")
        await fleet.until(fleet.is_whole, 600)
        await fleet.add("b")
        await asyncio.sleep(10)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert not await node.members.drain(5)
        assert 4 < loop.time() - began < 6
        await fleet.close()

    live(work())


def test_a_node_that_is_cut_off_gives_up_before_another_adopts() -> None:
    """The watcher of the fleet sees it where two have the same."""

    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        node = fleet.nodes["b"]
        had = set(node.members.owned())
        number = node.members.me().number
        node.cut()
        await fleet.until(lambda: not node.tenant.has)
        assert {partition for what, partition in node.tenant.log if what == "lost"} == had
        assert ("gone", number) in node.tenant.log  # its devices are gone from all owners' tables
        await fleet.until(lambda: len(fleet.watcher.has) == 16)
        assert node.metrics.value(Metric.LEASES_LAPSED) == 1
        node.cut(is_cut=False)
        await fleet.until(lambda: number in node.tenant.members)
        await fleet.until(lambda: fleet.is_whole() and fleet.owners() == preferred(16, "abc"))
        assert node.members.me().number == number
        await fleet.close()

    live(work())


def test_servers_that_elect_a_leader_cost_nobody_anything() -> None:
    """No record can be read or written for some seconds, and the connections stay."""

    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        moves = fleet.watcher.moves
        for node in fleet.nodes.values():
            node.members._is_up = lambda: True
            node.cut()
        await asyncio.sleep(HOLD_S - 3)
        for node in fleet.nodes.values():
            node.cut(is_cut=False)
            await asyncio.sleep(0.2)
        await asyncio.sleep(30)
        assert fleet.is_whole()
        assert fleet.watcher.moves == moves
        assert all(node.metrics.value(Metric.LEASES_LAPSED) == 0 for node in fleet.nodes.values())
        await fleet.close()

    live(work())


def test_after_a_long_outage_everybody_takes_up_what_it_had() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        before = fleet.owners()
        for node in fleet.nodes.values():
            node.cut()
        await fleet.until(lambda: not fleet.watcher.has)
        await asyncio.sleep(60)
        for node in fleet.nodes.values():
            node.cut(is_cut=False)
        assert await fleet.until(fleet.is_whole) < 6
        assert fleet.owners() == before
        await fleet.close()

    live(work())


def test_a_node_comes_back_under_its_name_with_another_number() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        number = fleet.nodes["b"].members.me().number
        await fleet.kill("b")
        node = await fleet.add("b")
        assert node.members.me().number != number
        await fleet.until(lambda: fleet.is_whole() and fleet.owners() == preferred(16, "abc"))
        await fleet.close()

    live(work())


def test_a_name_that_is_taken_keeps_the_second_out() -> None:
    async def work() -> None:
        fleet = Fleet()
        await fleet.add("a")
        with pytest.raises(ConfigError) as caught:
            await Node("a", fleet).start()
        assert caught.value.field == "cluster.node"
        await fleet.close()

    live(work())


def test_two_that_take_a_name_at_the_same_moment_do_not_both_get_it() -> None:
    async def work() -> None:
        fleet = Fleet()
        results = await asyncio.gather(fleet.add("a"), Node("a", fleet).start(), return_exceptions=True)
        assert sum(isinstance(result, ConfigError) for result in results) == 1
        for node in list(fleet.nodes.values()):
            await node.members.close()

    live(work())


def test_who_lost_its_name_while_it_slept_owns_nothing_and_says_so() -> None:
    async def work() -> None:
        fleet = Fleet()
        first = await fleet.add("a")
        await fleet.until(fleet.is_whole)
        first.cut()
        await fleet.until(lambda: not first.tenant.has)
        second = await fleet.add("a")
        first.cut(is_cut=False)
        await fleet.until(lambda: first.ousted)
        assert isinstance(first.ousted[0], ConfigError)
        assert first.ousted[0].field == "cluster.node"
        await fleet.until(lambda: len(second.members.owned()) == 16)
        assert not first.tenant.has
        await first.members.close()
        assert len(second.members.owned()) == 16
        await fleet.close()

    live(work())


@pytest.mark.parametrize(("field", "value"), [("partitions", 32), ("replicas", 1)])
def test_a_node_that_is_configured_otherwise_stays_out(field: str, value: int) -> None:
    async def work() -> None:
        fleet = Fleet()
        await fleet.add("a")
        other = Node("b", fleet)
        own = fleet.settings("b")
        setattr(own, field, value)
        other.fleet = type("Odd", (), {"settings": staticmethod(lambda name: own)})()
        with pytest.raises(ConfigError) as caught:
            await other.start()
        assert caught.value.field == f"cluster.{field}"
        await fleet.close()

    live(work())


def test_a_node_two_versions_apart_stays_out_and_one_apart_comes_in() -> None:
    async def work() -> None:
        fleet = Fleet()
        await fleet.add("a")
        with pytest.raises(ConfigError, match="version 1"):
            await Node("b", fleet).start(version=3)
        newer = Node("c", fleet)
        await newer.start(version=2)
        fleet.nodes["c"] = newer
        await fleet.until(lambda: fleet.is_whole() and fleet.owners() == preferred(16, "ac"))
        await fleet.kill("a")
        last = Node("d", fleet)
        await last.start(version=3)  # a is dead, and does not count
        fleet.nodes["d"] = last
        await fleet.until(fleet.is_whole)
        await fleet.close()

    live(work())


def test_a_partition_that_one_node_can_not_open_goes_to_another_and_comes_back_later() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        mine = next(iter(fleet.nodes["a"].members.owned()))
        fleet.nodes["a"].tenant.fails.add(mine)
        await fleet.nodes["a"].members.drain(60)
        fleet.nodes["a"].members._is_draining = False
        await asyncio.sleep(60)
        assert fleet.owners()[mine] != "a"
        assert fleet.nodes["a"].metrics.value(Metric.PARTITION_MOVES, "failed") >= 1
        fleet.nodes["a"].tenant.fails.clear()
        await fleet.until(lambda: fleet.is_whole() and fleet.owners() == preferred(16, "abc"), 300)
        await fleet.close()

    live(work())


def test_answers_that_are_lost_are_looked_up() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        for node in fleet.nodes.values():
            node.leases.loses_answers = node.beat_leases.loses_answers = True
        await asyncio.sleep(1.0)
        await fleet.leave("b")
        await asyncio.sleep(1.0)
        for node in fleet.nodes.values():
            node.leases.loses_answers = node.beat_leases.loses_answers = False
        await fleet.until(fleet.is_whole)
        await asyncio.sleep(10)
        assert fleet.is_whole()
        await fleet.close()

    live(work())


def test_a_dead_watch_is_made_anew_and_kills_nobody() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        moves = fleet.watcher.moves
        node = fleet.nodes["a"]
        fleet.bucket.watchers.remove(node.leases)
        known = node.members._others.seen_at
        await asyncio.sleep(20)
        assert {member.name for member in node.members.all()} == {"a", "b", "c"}
        assert (node.members._others.seen_at or 0) > (known or 0)  # by being made anew, again and again
        assert fleet.watcher.moves == moves
        await fleet.close()

    live(work())


def test_standbys_follow_and_are_the_next_in_the_order() -> None:
    async def work() -> None:
        fleet = Fleet(standbys=1)
        await three(fleet)
        for partition in range(16):
            followers = {name for name, node in fleet.nodes.items() if partition in node.tenant.follows}
            assert followers == {rank(partition, "abc")[1]}
        await fleet.kill("b")
        await fleet.until(fleet.is_whole)
        for partition in range(16):
            followers = {name for name, node in fleet.nodes.items() if partition in node.tenant.follows}
            assert followers == {rank(partition, "ac")[1]}
        await fleet.close()

    live(work())


def test_records_of_nodes_that_never_come_back_are_removed() -> None:
    async def work() -> None:
        fleet = Fleet()
        await three(fleet)
        await fleet.kill("b")
        await fleet.until(lambda: not fleet.bucket.entries["node.b"].value, 1_000, step_s=1.0)
        await fleet.close()

    live(work())


def test_a_node_that_dies_again_and_again_is_given_nothing_that_another_has() -> None:
    async def work() -> None:
        fleet = Fleet()
        await asyncio.gather(fleet.add("a"), fleet.add("b"))
        await fleet.until(lambda: fleet.is_whole() and fleet.owners() == preferred(16, "ab"))
        moves = fleet.watcher.moves
        for _ in range(5):
            await fleet.add("c")
            await asyncio.sleep(4)
            await fleet.kill("c")
            await asyncio.sleep(5)
        assert fleet.watcher.moves == moves
        await fleet.close()

    live(work())


def test_the_owner_is_told_when_it_is_ready_and_nobody_before() -> None:
    async def work() -> None:
        fleet = Fleet(opens_s=5.0, partitions=1)
        node = await fleet.add("a")
        other = await fleet.add("b")
        await fleet.until(lambda: fleet.watcher.has)
        await asyncio.sleep(1)
        assert all(not each.members.owner(0).node for each in (node, other))
        assert not node.members.owned()
        await fleet.until(fleet.is_whole)
        owner = other.members.owner(0)
        assert owner == node.members.owner(0) == Owner(owner.node, 1)
        assert other.tenant.owners[0] == owner
        await fleet.close()

    live(work())


def test_clocks_that_differ_and_jump_between_machines_do_not_matter() -> None:
    """Each node has a clock of its own, days apart, as machines have."""

    async def work() -> None:
        fleet = Fleet()
        for n, name in enumerate("abc"):
            await fleet.add(name, skew_s=(n - 1) * 300_000.0)
        await fleet.until(lambda: fleet.is_whole() and fleet.owners() == preferred(16, "abc"))
        moves = fleet.watcher.moves
        await asyncio.sleep(60)
        assert fleet.watcher.moves == moves
        await fleet.kill("a")
        assert await fleet.until(fleet.is_whole) < 4.5
        assert fleet.owners() == preferred(16, "bc")
        await fleet.close()

    live(work())
