"""Broadcasts of a fleet: one message for all partitions, each registration each once, whoever owns it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from spread_rig import PARTITIONS, RigCore, World, until
from store_rig import APP

from gateway.cluster.broadcast_stream import BroadcastStream
from gateway.cluster.memory_broadcasts import SharedBroadcasts
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.fleet.broadcast_message import Told, build_message
from gateway.metrics import Metric
from gateway.model.cluster import is_broadcast_seq
from gateway.model.errors import LogUnavailable, NodeUnreachable, QueueFull, UnknownPush
from gateway.model.outcome import State
from gateway.model.reach import BroadcastLog


@pytest.fixture(params=["memory", "jetstream"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Three partitions on two nodes, a device in each, connected."""
    links: list[NatsLink] = []
    shared = SharedBroadcasts()
    settings: Cluster | None = None
    if request.param == "jetstream":
        settings = request.getfixturevalue("fleet_settings")()
        for _ in range(2):
            links.append(NatsLink(settings, purpose="test"))
            await links[-1].connect()
    unused = list(links)

    def make_log() -> BroadcastLog:
        return shared.node() if settings is None else BroadcastStream(unused.pop(), settings)

    world = World(tmp_path, make_log)
    for number in (1, 2):
        await world.add_node(number)
    for partition in range(PARTITIONS):
        core = await world.adopt(partition, 1 + partition % 2)
        core.edge.connect(core.register(f"device-{partition}"))
    yield world
    await world.close()
    for link in links:
        await link.close()


async def came_everywhere(world: World, text: str) -> None:
    await until(lambda: all(world.came[p][n, text] for p in range(PARTITIONS) for n in world.numbers(p)))


def ack_all(world: World, text: str) -> None:
    for core in world.cores.values():
        for number in sorted(core.edge.bound):
            assert core.edge.ack(number, text)


async def test_a_broadcast_is_one_message_and_comes_to_each_registration_once(world: World) -> None:
    home = world.cores[1]
    seq, done = home.push("hello", everyone=True)
    await done
    await came_everywhere(world, "hello")
    ack_all(world, "hello")
    await world.settle()
    known = {core.store.schedules.became(seq) for core in world.cores.values()}
    assert len(known) == 1
    assert is_broadcast_seq(known.pop())
    figures = []
    for core in world.cores.values():
        assert [count for (_, text), count in core.came.items() if text == "hello"] == [1]
        record = core.store.receipts.lookup(APP, seq)
        assert record is not None
        assert record.state == State.ACCEPTED
        figures.append(record.figures)
    assert [f["targeted"] for f in figures] == [f["acked"] for f in figures] == [1] * PARTITIONS
    assert home.store.schedules.notification(seq) is None


async def test_a_core_that_is_adopted_shows_what_was_missed_and_nothing_twice(world: World) -> None:
    home = world.cores[0]
    for text in ("one", "two"):
        await home.push(text, everyone=True)[1]
        await came_everywhere(world, text)
    core = world.cores[1]
    [number] = core.edge.bound
    assert core.edge.ack(number, "two")  # out of order: it is in the done set alone
    await world.settle()
    await world.kill(1)
    await home.push("three", everyone=True)[1]
    core = await world.adopt(1, 1)
    core.edge.connect(number)
    await until(lambda: core.came[number, "three"])
    assert core.came[number, "two"] == 1
    assert core.came[number, "one"] == 2  # it was never acked
    for text in ("one", "three"):
        assert core.edge.ack(number, text)
    await world.settle()
    assert core.store.broadcasts.waiting(number) == []


async def test_a_folder_that_is_opened_again_goes_on(world: World) -> None:
    home = world.cores[0]
    await home.push("one", everyone=True)[1]
    await came_everywhere(world, "one")
    ack_all(world, "one")
    await world.settle()
    [number] = world.cores[2].edge.bound
    folder = await world.hand_over(2)
    await home.push("two", everyone=True)[1]
    core = await world.adopt(2, 2, folder=folder)
    core.edge.connect(number)
    await until(lambda: core.came[number, "two"])
    assert core.came[number, "one"] == 1


async def test_a_recall_reaches_every_partition_and_one_that_had_no_owner(world: World) -> None:
    home = world.cores[0]
    seq, done = home.push("wrong", everyone=True)
    await done
    await came_everywhere(world, "wrong")
    await world.settle()
    [number] = world.cores[1].edge.bound
    folder = await world.hand_over(1)
    assert await home.dispatch.recall(APP, seq) == 1
    await until(lambda: world.cores[2].taken_away)
    core = await world.adopt(1, 2, folder=folder)
    core.edge.connect(number)
    await world.settle()
    assert core.came[number, "wrong"] == 1
    assert core.store.broadcasts.waiting(number) == []
    for each in world.cores.values():
        record = each.store.receipts.lookup(APP, seq)
        assert record is not None
        assert record.state == State.RECALLED
    with pytest.raises(UnknownPush):
        await home.dispatch.recall(APP, seq)


async def test_one_that_ended_while_its_core_had_no_owner_is_counted_out(world: World) -> None:
    home = world.cores[0]
    seq, done = home.push("short", everyone=True, ttl=60)
    await done
    await came_everywhere(world, "short")
    await world.settle()
    await world.kill(1)
    world.clock.now_ms += 62_000
    core = await world.adopt(1, 1)
    for each in world.cores.values():
        each.dispatcher.tick()
    await world.settle()
    for each in (core, home):
        record = each.store.receipts.lookup(APP, seq)
        assert record is not None
        assert record.state == State.EXPIRED
        assert record.figures["expired"] == 1


async def test_a_node_that_comes_late_is_told_of_all_that_is_live(world: World) -> None:
    home = world.cores[0]
    first, done = home.push("gone", everyone=True)
    await done
    await home.push("live", everyone=True)[1]
    await came_everywhere(world, "live")
    await home.dispatch.recall(APP, first)
    core = world.cores[0]
    number = core.register("late")
    core.edge.connect(number)
    await until(lambda: core.came[number, "live"])
    assert not core.came[number, "gone"]


# --- over memory alone: what can be broken there at will


@pytest.fixture
async def shared() -> SharedBroadcasts:
    return SharedBroadcasts()


@pytest.fixture
async def small(shared: SharedBroadcasts, tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, shared.node, max_broadcasts_per_app=3)
    for number in (1, 2):
        await world.add_node(number)
    for partition in range(PARTITIONS):
        core = await world.adopt(partition, 1 + partition % 2)
        core.edge.connect(core.register(f"device-{partition}"))
    yield world
    await world.close()


def tick_later(world: World, core: RigCore, ms: int = 61_000) -> None:
    world.clock.now_ms += ms
    core.scheduler.tick()


async def test_an_answer_that_was_lost_makes_no_second_message(small: World, shared: SharedBroadcasts) -> None:
    shared.lose_answers = 2
    home = small.cores[0]
    seq, done = home.push("once", everyone=True, ttl=3_600)
    await done
    await came_everywhere(small, "once")
    await small.settle()
    tick_later(small, home)
    await small.settle()
    assert shared.last == 1
    assert home.store.schedules.notification(seq) is None


async def test_while_the_stream_can_not_be_reached_a_broadcast_is_kept(small: World, shared: SharedBroadcasts) -> None:
    shared.is_up = False
    home = small.cores[0]
    seq, done = home.push("later", everyone=True, ttl=3_600)
    await done
    await small.settle()
    assert home.store.schedules.notification(seq) is not None
    shared.is_up = True
    tick_later(small, home)
    await came_everywhere(small, "later")


async def test_a_home_that_dies_after_it_told_tells_it_once(small: World, shared: SharedBroadcasts) -> None:
    home = small.cores[0]
    log = small.logs[0]
    assert log is not None
    seq, done = home.push("once", everyone=True, ttl=3_600)
    await done
    log.hold()  # that it is kept no longer is never written
    await until(lambda: shared.last == 1)
    await small.kill(0)
    log.go_on()  # and is refused
    shared.forget_onces()
    home = await small.adopt(0, 2)
    tick_later(small, home)
    await small.settle()
    assert shared.last == 1
    assert home.store.schedules.notification(seq) is None
    assert is_broadcast_seq(home.store.schedules.became(seq))


async def test_one_published_twice_long_apart_is_shown_once(small: World, shared: SharedBroadcasts) -> None:
    await small.cores[0].push("once", everyone=True, ttl=3_600)[1]
    await came_everywhere(small, "once")
    ack_all(small, "once")
    shared.forget_onces()
    shared.put(shared.messages[1], "another")
    await small.settle()
    assert all(core.came[number, "once"] == 1 for core in small.cores.values() for number in core.edge.bound)
    assert all(len(core.store.broadcasts.live(APP)) == 1 for core in small.cores.values())


async def test_a_recall_holds_for_one_that_is_still_on_its_way(small: World, shared: SharedBroadcasts) -> None:
    home = small.cores[0]
    shared.is_up = False
    seq, done = home.push("never", everyone=True, ttl=3_600)
    await done
    await small.settle()
    kept = home.store.schedules.notification(seq)
    assert kept is not None
    shared.is_up = True
    assert await home.dispatch.recall(APP, seq) == 1
    assert home.store.schedules.notification(seq) is None
    shared.put(build_message(Told(msgspec.structs.replace(kept, seq=0, push=seq))), "late")
    await small.settle()
    for core in small.cores.values():
        assert core.store.broadcasts.live(APP) == []
        assert not core.came


async def test_what_is_no_message_is_counted_and_stops_nothing(small: World, shared: SharedBroadcasts) -> None:
    shared.put(b"\x93nonsense", "bad")
    await small.cores[0].push("good", everyone=True)[1]
    await came_everywhere(small, "good")
    assert small.nodes[1].metrics.value(Metric.FLEET_BROADCASTS, "malformed") == 1


async def test_no_more_than_so_many_of_an_app_are_live(small: World) -> None:
    home = small.cores[0]
    for text in "abc":
        await home.push(text, everyone=True)[1]
        await came_everywhere(small, text)
    with pytest.raises(QueueFull):
        home.push("d", everyone=True)


async def test_a_stream_that_lacks_what_a_partition_has_seen_stops_its_adoption(
    small: World, shared: SharedBroadcasts, tmp_path: Path
) -> None:
    await small.cores[0].push("seen", everyone=True)[1]
    await came_everywhere(small, "seen")
    await small.settle()
    await small.kill(1)
    (tmp_path / "other").mkdir()
    small._make_log = SharedBroadcasts().node
    await small.add_node(3)
    with pytest.raises(NodeUnreachable):
        await small.adopt(1, 3)
    shared.is_up = False
    with pytest.raises(LogUnavailable):
        await small.adopt(1, 1)
    shared.is_up = True


async def test_broadcasts_keep_the_order_of_their_acceptance(small: World) -> None:
    home = small.cores[0]
    texts = ["a", "b", "c"]
    pushes = [home.push(text, everyone=True) for text in texts]
    await asyncio.gather(*(done for _, done in pushes))
    await came_everywhere(small, "c")
    became = [home.store.schedules.became(seq) for seq, _ in pushes]
    assert became == sorted(became)
