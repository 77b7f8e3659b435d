"""Pushes to an alias, a tag or a condition over all partitions: each takes it over once, whoever dies in the middle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spread_rig import PARTITIONS, RigCore, World, until
from store_rig import APP, START_MS

from gateway.cluster.memory_broadcasts import SharedBroadcasts
from gateway.fleet.core_pushes import MOST_TAKES
from gateway.fleet.spread import TAKE, Answer, Ask, parse_answers, parse_ask
from gateway.metrics import Metric
from gateway.model.cluster import first_seq
from gateway.model.condition import Condition
from gateway.model.errors import BadRequest, NodeUnreachable, QueueFull, UnknownPush
from gateway.model.notification import Content, Notification, Target
from gateway.model.outcome import State
from gateway.model.registration import build_token
from gateway.store.records import Db
from gateway.store.row_codec import parse_rows

ALIAS = "anna"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Three partitions on two nodes; Anna has a device in each, and another one is tagged."""
    world = World(tmp_path, SharedBroadcasts().node)
    for number in (1, 2):
        await world.add_node(number)
    for partition in range(PARTITIONS):
        core = await world.adopt(partition, 1 + partition % 2)
        core.edge.connect(core.register(f"device-{partition}", alias=ALIAS))
    yield world
    await world.close()


async def came_everywhere(world: World, text: str) -> None:
    await until(lambda: all(world.came[p][n, text] for p in range(PARTITIONS) for n in world.numbers(p)))


def tick_later(world: World, core: RigCore, ms: int = 61_000) -> None:
    world.clock.now_ms += ms
    core.scheduler.tick()


async def asks_again(world: World, core: RigCore, true: Callable[[], object]) -> None:
    """Its time runs on until then: that a try failed may be heard after the clock was set."""

    def is_true_later() -> object:
        tick_later(world, core, 100)
        return true()

    await until(is_true_later)


async def is_over(world: World, core: RigCore, seq: int) -> None:
    await until(lambda: core.store.schedules.notification(seq) is None)
    await world.settle()


async def test_a_push_to_an_alias_comes_to_its_registrations_in_all_partitions(world: World) -> None:
    home = world.cores[1]
    seq, done = home.push("hello", alias=ALIAS)
    await done
    await came_everywhere(world, "hello")
    await is_over(world, home, seq)
    for core in world.cores.values():
        for number in core.edge.bound:
            assert core.edge.ack(number, "hello")
        await core.flush()
        record = core.store.receipts.lookup(APP, seq)
        assert record is not None
        assert [State(delivery.state) for delivery in record.deliveries] == [State.ACKED]
        assert [receipt.push for receipt in core.store.receipts.after(APP, 0, 10)] == [seq]
        assert sum(core.came.values()) == 1


async def test_a_condition_is_looked_for_in_each_partition(world: World) -> None:
    for core in world.cores.values():
        number = core.register(f"tagged-{core.partition}", tags=["vip"])
        core.edge.connect(number)
    await world.settle()
    seq, done = world.cores[0].push("vip", where=Condition(tag="vip"))
    await done
    await is_over(world, world.cores[0], seq)
    await until(
        lambda: all(sum(n for (_, t), n in core.came.items() if t == "vip") == 1 for core in world.cores.values())
    )


async def test_an_app_with_many_audiences_leaves_another_its_place(world: World) -> None:
    core = world.cores[0]

    def kept(app: str, at: int) -> Notification:
        return Notification(
            seq=first_seq(1) + at,
            app=app,
            target=Target(where=Condition(tag="vip")),
            content=Content(text="t"),
            accepted_ms=START_MS,
            expires_s=START_MS // 1_000 + 60,
            ack_ms=3_000,
            notifier_ack_ms=30_000,
        )

    flood = [core.pushes.take(kept("flood", at)) for at in range(MOST_TAKES)]
    *told, of_another = await asyncio.gather(*flood, core.pushes.take(kept(APP, 5_000)), return_exceptions=True)
    assert [isinstance(each, QueueFull) for each in told] == [False] * (MOST_TAKES * 3 // 4) + [True] * (
        MOST_TAKES // 4
    )
    assert of_another == 0
    assert await core.pushes.take(kept("flood", 6_000)) == 0


async def test_nobody_of_that_alias_leaves_a_record_at_home_alone(world: World) -> None:
    home = world.cores[2]
    seq, done = home.push("hello", alias="nobody")
    await done
    await is_over(world, home, seq)
    found = {p: core.store.receipts.lookup(APP, seq) for p, core in world.cores.items()}
    assert found[0] is None
    assert found[1] is None
    assert found[2] is not None
    assert found[2].deliveries == []


async def test_a_scheduled_push_goes_everywhere_when_its_time_comes(world: World) -> None:
    home = world.cores[0]
    seq, done = home.push("later", alias=ALIAS, deliver_at=START_MS // 1000 + 60)
    await done
    home.scheduler.tick()
    await world.settle()
    assert not any(core.came for core in world.cores.values())
    tick_later(world, home)
    await came_everywhere(world, "later")
    await is_over(world, home, seq)


async def test_a_partition_without_an_owner_gets_it_when_it_has_one_and_the_others_at_once(world: World) -> None:
    home = world.cores[0]
    [number] = world.cores[1].edge.bound
    await world.settle()
    await world.kill(1)
    seq, done = home.push("hello", alias=ALIAS)
    await done
    await until(lambda: world.came[0] and world.came[2])
    await world.settle()
    assert home.store.schedules.notification(seq) is not None
    assert home.node.metrics.value(Metric.FLEET_SPREADS, "unreachable") >= 1
    core = await world.adopt(1, 1)
    core.edge.connect(number)
    await asks_again(world, home, lambda: core.came[number, "hello"])
    await is_over(world, home, seq)
    assert all(count == 1 for came in world.came for count in came.values())


async def test_a_home_that_dies_in_the_middle_is_followed_by_one_that_goes_on(world: World) -> None:
    home = world.cores[0]
    numbers = {p: set(core.edge.bound) for p, core in world.cores.items()}
    await world.settle()
    await world.kill(1)  # so it can not be given out to the end
    seq, done = home.push("hello", alias=ALIAS)
    await done
    await until(lambda: world.came[0] and world.came[2])
    await world.settle()
    await world.kill(0)
    for partition in (0, 1):
        core = await world.adopt(partition, 2)
        core.edge.connect(*numbers[partition])
    assert world.cores[0].store.schedules.notification(seq) is not None
    world.cores[0].scheduler.tick()
    await is_over(world, world.cores[0], seq)
    await until(lambda: world.came[1])
    records = [core.store.receipts.lookup(APP, seq) for core in world.cores.values()]
    assert [record is not None and len(record.deliveries) for record in records] == [1, 1, 1]


async def test_an_owner_that_dies_before_its_commit_takes_it_over_again_and_one_after_it_does_not(world: World) -> None:
    home = world.cores[0]
    await world.settle()
    [number] = world.cores[1].edge.bound
    log = world.logs[1]
    assert log is not None
    log.hold()
    seq, done = home.push("hello", alias=ALIAS)
    await done
    await until(lambda: log.held)
    await world.kill(1)
    log.go_on()  # too late: it is fenced
    core = await world.adopt(1, 2)
    core.edge.connect(number)
    assert core.store.schedules.became(seq) == 0
    await asks_again(world, home, lambda: core.came[number, "hello"])
    await is_over(world, home, seq)
    await world.kill(1)
    core = await world.adopt(1, 1)
    assert core.store.schedules.became(seq)
    kept = core.store.journal.notification(core.store.schedules.became(seq))
    assert kept is not None
    assert len(core.store.journal.pending_of(number)) == 1


async def test_asked_twice_at_once_a_partition_takes_it_over_once(world: World) -> None:
    home = world.cores[0]
    seq, done = home.push("hello", alias=ALIAS)
    await done
    kept = home.store.schedules.notification(seq)
    assert kept is not None
    asked = [home.node.spread.ask(TAKE, kept, range(PARTITIONS)) for _ in range(5)]
    await asyncio.gather(*asked)
    await is_over(world, home, seq)
    assert all(sum(came.values()) == 1 for came in world.came)


async def test_an_answer_that_is_lost_makes_no_second_push(world: World) -> None:
    home = world.cores[0]
    world.network.drop(2, 1, count=1)
    home.node.spread._ask_timeout_s = 0.05
    seq, done = home.push("hello", alias=ALIAS)
    await done
    await until(lambda: home.node.metrics.value(Metric.FLEET_SPREADS, "unreachable"))
    await world.settle()
    await asks_again(world, home, lambda: home.store.schedules.notification(seq) is None)
    await world.settle()
    assert all(sum(came.values()) == 1 for came in world.came)


async def test_an_audience_larger_than_a_commit_is_never_taken_over_twice(tmp_path: Path) -> None:
    """The deliveries and what they are known by are one commit, however large."""
    world = World(tmp_path, SharedBroadcasts().node)
    await world.add_node(1)
    for partition in range(PARTITIONS):
        await world.adopt(partition, 1)
    core = world.cores[1]
    core.store.committer._commit_rows = 4
    for place in range(30):
        core.register(f"device-{place}", alias=ALIAS)
    await world.settle()
    before = len(world.journals[1].commits)
    seq, done = world.cores[0].push("hello", alias=ALIAS)
    await done
    await is_over(world, world.cores[0], seq)
    commits = [[db for block in parse_rows(raw) for _, db, _, _ in block] for raw in world.journals[1].commits[before:]]
    [with_it] = [commit for commit in commits if Db.JOURNAL in commit]
    assert with_it.count(Db.JOURNAL) == 31
    assert with_it.count(Db.RELEASED) == 2
    await world.kill(1)
    core = await world.adopt(1, 1)
    assert core.store.schedules.became(seq)
    assert core.store.journal.pending_count() == 30
    await world.close()


async def test_a_recall_takes_it_back_everywhere(world: World) -> None:
    home = world.cores[0]
    seq, done = home.push("wrong", alias=ALIAS)
    await done
    await came_everywhere(world, "wrong")
    await is_over(world, home, seq)
    assert await home.dispatch.recall(APP, seq) == 3
    assert all(world.taken_away)
    assert await home.dispatch.recall(APP, seq) == 0


async def test_a_recall_holds_in_partitions_that_did_not_have_it_yet(world: World) -> None:
    home = world.cores[0]
    [number] = world.cores[1].edge.bound
    await world.settle()
    await world.kill(1)
    seq, done = home.push("wrong", alias=ALIAS)
    await done
    await until(lambda: world.came[0] and world.came[2])
    await world.settle()
    kept = home.store.schedules.notification(seq)
    assert kept is not None
    with pytest.raises(NodeUnreachable):
        await home.dispatch.recall(APP, seq)
    core = await world.adopt(1, 1)
    core.edge.connect(number)
    assert await home.dispatch.recall(APP, seq) == 0  # the two were taken back by the first try
    assert await home.node.spread.ask(TAKE, kept, [1]) == {1: 0}  # an ask that was long on its way
    tick_later(world, home)
    await world.settle()
    assert not core.came
    assert world.taken_away[0]
    assert world.taken_away[2]
    assert home.store.schedules.notification(seq) is None


async def test_a_recall_before_its_time_needs_nobody_else(world: World) -> None:
    home = world.cores[0]
    seq, done = home.push("later", alias=ALIAS, deliver_at=START_MS // 1000 + 60)
    await done
    await world.kill(1)
    assert await home.dispatch.recall(APP, seq) == 1
    tick_later(world, home)
    await world.settle()
    assert not any(world.came)
    with pytest.raises(UnknownPush):
        await home.dispatcher.recall(APP, seq)


async def test_one_that_expires_before_every_partition_had_it_is_tried_no_more(world: World) -> None:
    home = world.cores[0]
    await world.kill(1)
    seq, done = home.push("short", alias=ALIAS, ttl=30)
    await done
    await until(lambda: world.came[0] and world.came[2])
    await world.settle()
    tick_later(world, home)
    await world.settle()
    assert home.store.schedules.notification(seq) is None
    record = home.store.receipts.lookup(APP, seq)
    assert record is not None
    assert len(record.deliveries) == 1


async def test_a_push_to_a_token_stays_where_it_is(world: World) -> None:
    home = world.cores[0]
    [number] = home.edge.bound
    registration = home.store.directory.registration(number)
    assert registration is not None
    seq, done = home.push("mine", token=build_token(registration.token))
    await done
    await world.settle()
    assert home.store.schedules.became(seq) == 0
    assert home.came == {(number, "mine"): 1}


@given(raw=st.binary(max_size=200))
def test_any_bytes_of_another_node_are_an_ask_or_refused(raw: bytes) -> None:
    for parse in (parse_ask, parse_answers):
        with contextlib.suppress(BadRequest):
            parse(raw)


@given(
    partitions=st.lists(st.integers(0, 1023), max_size=5),
    alias=st.text(min_size=1, max_size=20),
    seq=st.integers(1, 1 << 59),
)
def test_asks_and_answers_come_through_whole(partitions: list[int], alias: str, seq: int) -> None:
    kept = Notification(
        seq=seq,
        app=APP,
        target=Target(alias=alias),
        content=Content(text=alias, data=b"\x81"),
        accepted_ms=START_MS,
        expires_s=START_MS // 1000,
        ack_ms=1,
        notifier_ack_ms=1,
    )
    ask = Ask(partitions, kept)
    assert parse_ask(msgspec.msgpack.encode(ask)) == ask
    answers = [Answer(partition, seq, 57, alias) for partition in partitions]
    assert parse_answers(msgspec.msgpack.encode(answers)) == answers
