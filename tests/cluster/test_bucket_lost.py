"""The bucket of a fleet goes, or becomes another, under its nodes: whole fleets in one loop, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from fleet_in_process import Fleet
from structlog.testing import capture_logs
from virtual_time import run

from gateway.cluster.beats import GONE_S
from gateway.cluster.entrance import enter
from gateway.cluster.fleet_records import Holding, parse_holding, partition_key
from gateway.cluster.leases import Bucket, LocalLeases
from gateway.cluster.members import HOLD_S
from gateway.cluster.unserved import STRANDED_LEASES
from gateway.metrics.names import Metric
from gateway.model.errors import ConfigError, LogFenced


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


async def three() -> Fleet:
    fleet = Fleet(partitions=8)
    fleet.bucket.made = "2026-01-01T00:00:00Z"
    await asyncio.gather(*(fleet.add(name) for name in "abc"))
    await fleet.until(fleet.is_whole)
    return fleet


def give(fleet: Fleet, bucket: Bucket) -> None:
    """What the servers have from now on."""
    fleet.bucket = bucket
    for node in fleet.nodes.values():
        for leases in (node.leases, node.beat_leases):
            leases.bucket = bucket


def live(work: Coroutine[Any, Any, None]) -> None:
    run(work)


def test_a_bucket_that_was_made_anew_is_noticed_within_a_beat_and_nobody_goes_on_in_it() -> None:
    async def work() -> None:
        fleet = await three()
        other = Bucket("2026-02-02T00:00:00Z")
        give(fleet, other)
        nodes = list(fleet.nodes.values())
        took = await fleet.until(lambda: all(node.ousted for node in nodes))
        assert took < 1.0  # a beat is 0.75 s
        assert other.entries == {}  # nothing of theirs is in it
        for node in nodes:
            (error,) = node.ousted
            assert isinstance(error, ConfigError)
            assert error.field == "cluster.url"
            assert "made anew" in error.message
            assert "cluster recover" in error.message
            assert not node.tenant.has
            assert not node.members.owned()
            assert "made anew" in node.members.trouble()
            # devices are sent to nobody who has to leave as well
            assert [member.name for member in node.members.all()] == [node.name]
        await asyncio.sleep(30)
        assert other.entries == {}
        await fleet.close()
        assert other.entries == {}

    live(work())


def test_what_is_told_out_of_another_bucket_is_not_believed() -> None:
    """Its watch may be made anew before a beat has found out."""

    async def work() -> None:
        fleet = await three()
        heard: list[str] = []
        node = fleet.nodes["a"]
        node.members._hear = lambda entry: heard.append(entry.key)
        other = Bucket("2026-02-02T00:00:00Z")
        for _ in range(50):
            other.put("keys", b"others", other.revision if other.revision else 0)
        give(fleet, other)
        heard.clear()
        node.members._watch._soon()
        await fleet.until(lambda: node.ousted)
        other.put("keys", b"others", other.revision)
        await asyncio.sleep(10)
        assert heard == []
        await fleet.close()

    live(work())


def test_a_bucket_that_is_gone_is_waited_for_then_all_leave(logs: list[Any]) -> None:
    async def work() -> None:
        fleet = await three()
        nodes = list(fleet.nodes.values())
        fleet.bucket.is_gone = True
        await fleet.until(lambda: all(node.members.trouble() for node in nodes))
        assert all("do not have the fleet's records" in node.members.trouble() for node in nodes)
        assert not any(node.ousted for node in nodes)
        took = await fleet.until(lambda: all(node.ousted for node in nodes))
        assert GONE_S - 2 < took < GONE_S + 3
        assert all("are gone" in node.ousted[0].message for node in nodes)
        assert not fleet.watcher.has
        await fleet.close()
        said = [line["node"] for line in logs if line["event"] == "fleet_records_missing"]
        assert sorted(said) == ["a", "b", "c"]  # each once

    live(work())


@pytest.mark.parametrize("gone_s", [2.0, HOLD_S - 2, GONE_S - 2])
def test_servers_that_know_less_for_a_moment_make_nobody_leave(gone_s: float) -> None:
    async def work() -> None:
        fleet = await three()
        moves = fleet.watcher.moves
        fleet.bucket.is_gone = True
        await asyncio.sleep(gone_s)
        fleet.bucket.is_gone = False
        nodes = list(fleet.nodes.values())
        await fleet.until(lambda: fleet.is_whole() and not any(node.members.trouble() for node in nodes))
        assert not any(node.ousted for node in nodes)
        if gone_s < HOLD_S:
            assert fleet.watcher.moves == moves
        await fleet.close()

    live(work())


def test_who_is_cut_off_while_the_bucket_is_gone_does_not_count_that_time() -> None:
    async def work() -> None:
        fleet = await three()
        node = fleet.nodes["a"]
        fleet.bucket.is_gone = True
        await asyncio.sleep(3)
        node.cut()
        await asyncio.sleep(60)
        node.cut(is_cut=False)
        fleet.bucket.is_gone = False  # somebody brought it back
        await fleet.until(lambda: not node.members.trouble())
        assert node.ousted == []
        await fleet.close()

    live(work())


def test_a_node_of_a_new_bucket_has_no_number_of_the_one_before() -> None:
    async def work() -> None:
        numbers: dict[str, set[int]] = {}
        for made in ("2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"):
            fleet = Fleet()
            bucket = Bucket(made)
            for name in "abc":
                entrance = await enter(fleet.settings(name), LocalLeases(bucket))
                assert entrance.bucket == made
                numbers.setdefault(made, set()).add(entrance.number)
        one, other = numbers.values()
        assert len(one) == len(other) == 3
        assert not one & other

    live(work())


def test_a_node_whose_lease_is_over_counts_every_partition_as_unserved() -> None:
    async def work() -> None:
        fleet = await three()
        node, other = fleet.nodes["a"], fleet.nodes["b"]
        node.cut()
        await fleet.until(lambda: node.metrics.value(Metric.LEASES_LAPSED) == 1)
        assert node.members.stranded() == []  # that may be a moment
        await asyncio.sleep(STRANDED_LEASES * 3.0 + 1)
        told = node.members.stranded()
        assert [each.partition for each in told] == list(range(8))
        assert all(each.for_s > STRANDED_LEASES * 3.0 for each in told)
        assert all("lease is over" in each.reason for each in told)
        await fleet.until(lambda: len(fleet.watcher.has) == 8)
        assert other.members.stranded() == []
        node.cut(is_cut=False)
        await fleet.until(lambda: node.members.stranded() == [])
        await fleet.until(fleet.is_whole)
        await fleet.close()

    live(work())


def test_a_partition_whose_journal_is_ahead_of_new_records_is_taken_over_with_the_second_try() -> None:
    """Its epochs went on for long in the bucket before; one step of two a try would take for ever."""

    async def work() -> None:
        fleet = await three()
        tenant = fleet.nodes["a"].tenant
        await fleet.leave("b")
        await fleet.leave("c")
        await fleet.until(fleet.is_whole)
        adopt, tried = tenant.adopt, []

        async def fenced(partition: int, epoch: int) -> None:
            tried.append(epoch)
            if epoch <= 1_000:
                error = LogFenced()
                error.epoch = 1_000
                raise error
            await adopt(partition, epoch)

        tenant.adopt = fenced  # type: ignore[method-assign]
        fleet.nodes["a"].members.end_partition(5, fleet.watcher.epochs[5])
        await fleet.until(fleet.is_whole, 30)
        assert len(tried) == 2
        record = fleet.bucket.entries[partition_key(5)]
        assert parse_holding(record.value) == Holding(fleet.nodes["a"].members.me().number, tried[1], ready=True)
        await fleet.close()

    live(work())
