"""Leases and whose the partitions are, where chance says when nodes start and what happens to them: whole fleets in one
loop, in virtual time. A few lives each time, and many in the slow run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from fleet_in_process import Fleet, random_latency
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from virtual_time import run

from gateway.cluster.assignment import rank

chances = st.randoms(use_true_random=False)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Fleets of many nodes say a lot."""
    with capture_logs():
        yield


def preferred(partitions: int, names: str) -> dict[int, str]:
    return {partition: rank(partition, names)[0] for partition in range(partitions)}


def start_together(chance: random.Random) -> None:
    async def work() -> None:
        fleet = Fleet(partitions=8, opens_s=chance.choice([0.0, 0.3]))

        async def start(name: str) -> None:
            await asyncio.sleep(chance.choice([0.0, 0.0, 0.001, 0.05, 0.5]))
            await fleet.add(name, latency_s=random_latency(chance))

        await asyncio.gather(*(start(name) for name in "abc"))
        assert sorted(node.members.me().number for node in fleet.nodes.values()) == [1, 2, 3]
        await fleet.until(lambda: fleet.is_whole() and fleet.owners() == preferred(8, "abc"))
        await fleet.close()

    run(work())


def live_somehow(chance: random.Random) -> None:
    async def work() -> None:
        fleet = Fleet(
            partitions=chance.choice([1, 4, 16]),
            opens_s=chance.choice([0.0, 0.05, 1.0]),
            handovers=chance.choice([1, 2, 16]),
        )
        names = "abcd"[: chance.randint(1, 4)]
        await asyncio.gather(*(fleet.add(name, latency_s=random_latency(chance)) for name in names))
        for _ in range(chance.randint(0, 6)):
            await asyncio.sleep(chance.choice([0.0, 0.1, 1.0, 5.0, 20.0]))
            name = chance.choice(names)
            if name not in fleet.nodes:
                await fleet.add(name, latency_s=random_latency(chance))
                continue
            node = fleet.nodes[name]
            match chance.choice(["kill", "leave", "cut", "heal", "drain", "lose"]):
                case "kill":
                    await fleet.kill(name)
                case "leave":
                    if not node.leases.is_cut:
                        await fleet.leave(name)
                case "cut":
                    node.cut()
                case "heal":
                    node.cut(is_cut=False)
                    node.leases.loses_answers = node.beat_leases.loses_answers = False
                case "drain":
                    await node.members.drain(chance.choice([0.0, 1.0, 30.0]))
                    node.members._is_draining = False
                case "lose":
                    node.leases.loses_answers = node.beat_leases.loses_answers = True
        for node in fleet.nodes.values():
            node.cut(is_cut=False)
            node.leases.loses_answers = node.beat_leases.loses_answers = False
        if fleet.nodes:
            await fleet.until(fleet.is_whole, 300)
            await asyncio.sleep(60)
            assert fleet.is_whole()
            assert fleet.owners() == preferred(fleet.partitions, "".join(sorted(fleet.nodes)))
        await fleet.close()

    run(work())


@given(chances)
@settings(max_examples=8)
def test_nodes_that_start_at_the_same_moment_agree(chance: random.Random) -> None:
    start_together(chance)


@pytest.mark.slow
@given(chances)
@settings(max_examples=100)
def test_nodes_that_start_at_the_same_moment_agree_however_often_it_is_tried(chance: random.Random) -> None:
    start_together(chance)


@given(chances)
@settings(max_examples=8)
def test_however_nodes_start_die_sleep_and_come_back_every_partition_ends_with_one_owner(chance: random.Random) -> None:
    live_somehow(chance)


@pytest.mark.slow
@given(chances)
@settings(max_examples=150)
def test_many_lives_of_a_fleet_end_with_one_owner_for_each_partition(chance: random.Random) -> None:
    live_somehow(chance)
