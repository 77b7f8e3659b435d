"""A core's far edge by itself: what model.ports.Edge promises, and what it makes nodes do, word by word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from far_scene import now_ms, settle
from open_house import build_config

from gateway.cluster.far_edge import DO, FarEdge
from gateway.cluster.far_hearing import AGAIN, FarHearing
from gateway.cluster.far_wire import (
    Cohort,
    Do,
    Fan,
    Record,
    Told,
    build_head,
    build_record,
    pack_flights,
    pack_numbers,
    parse_body,
    parse_message,
    parse_records,
)
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import node_of_link
from gateway.model.frames import FrameType, build_frame
from gateway.model.notification import Content, Notification, Target
from gateway.model.outcome import State
from gateway.model.ports import Ack
from gateway.model.registration import App, Profile
from gateway.store import Store

NODE, OTHER, ATTACHMENT, LOCAL, EPOCH, PARTITION = 4, 5, 1234, 77, 9, 2


class Bus:
    """Keeps what is told."""

    number = 1
    is_up = True

    def __init__(self) -> None:
        self.told: list[tuple[int, bytes]] = []

    def tell(self, node: int, kind: str, body: bytes) -> None:
        assert kind == DO
        assert parse_message(body)[:2] == (PARTITION, EPOCH)
        self.told.append((node, body))

    def records(self, *, but: Collection[int] = ()) -> list[tuple[int, Record]]:
        told, self.told = self.told, []
        return [(node, r) for node, body in told for r in parse_records(body) if r.kind not in but]


class Heard:
    """Delivery's side."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_acks(self, acks: Sequence[Ack]) -> None:
        self.events.append(("acks", [ack.seq for ack in acks]))

    def on_acks_of(self, seq: int, registrations: Sequence[int], at_ms: int) -> None:
        self.events.append(("acks_of", seq, list(registrations), at_ms))

    def on_acks_settled(self) -> None: ...

    def meant(self, seq: int, registrations: Sequence[int], *, flags: int) -> Sequence[int]:
        return registrations[:1]

    def on_ready(self, registrations: Sequence[int], in_flight: Collection[tuple[int, int]] = ()) -> None:
        self.events.append(("ready", list(registrations), sorted(in_flight), self.edge.room(registrations[0])))

    def on_lost(self, seq: int, registration: int, *, spilled: bool) -> None:
        self.events.append(("lost", seq, registration, spilled))

    def on_ack_timeout(self, seq: int, registration: int) -> None:
        self.events.append(("timeout", seq, registration))

    def on_fanned(self, seq: int, group: int, links: int) -> None:
        self.events.append(("fanned", seq, group, links))

    def take(self) -> list[tuple[Any, ...]]:
        events, self.events = self.events, []
        return events

    edge: FarEdge


class Core:
    def __init__(self, store: Store, config: Any) -> None:
        self.store = store
        self.bus = Bus()
        self.metrics = Metrics(process=False)
        self.edge = FarEdge(
            self.bus,  # type: ignore[arg-type]
            PARTITION,
            EPOCH,
            directory=store.directory,
            journal=store.journal,
            broadcasts=store.broadcasts,
            config=config,
            metrics=self.metrics,
            clock=now_ms,
        )
        self.heard = Heard()
        self.heard.edge = self.edge
        self.edge.attach(self.heard)  # type: ignore[arg-type]
        store.directory.watch(self.edge)
        self.hearing = FarHearing(self.edge, store.batches.table, self.metrics)

    def hear(self, *records: bytes, node: int = NODE) -> None:
        self.hearing.hear(node, build_head(PARTITION, EPOCH) + b"".join(records))

    async def registered(self, device: str = "d", version: str = "1.0") -> int:
        registration, _, written = self.store.directory.register(device, "shop", version, "")
        if written is not None:
            await written
        return registration.number

    async def bound(self, device: str = "d", *, node: int = NODE, attachment: int = ATTACHMENT) -> int:
        number = await self.registered(device)
        self.hear(self.bound_record(number, device, attachment=attachment), node=node)
        self.heard.take()
        return number

    def bound_record(self, number: int, device: str, *, attachment: int = ATTACHMENT, flag: int = 0) -> bytes:
        key = self.store.directory.device_key(device)
        return build_record(Told.BOUND, flag, number, LOCAL + number, attachment, key, now_ms())

    async def sent(self, number: int) -> int:
        """A pending delivery that is on its way."""
        seq = self.store.journal.reserve(1)
        notification = Notification(
            seq=seq,
            app="shop",
            target=Target(token="t"),
            content=Content(title="x"),
            accepted_ms=now_ms(),
            expires_s=now_ms() // 1000 + 60,
            ack_ms=1000,
            notifier_ack_ms=1000,
        )
        await self.store.journal.append(notification, [number])
        self.store.journal.set_state(seq, State.SENT, 0)
        return seq


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    config = build_config(tmp_path / "store", {"edge.window": 32})
    store = await Store.open(config.store, Metrics(process=False))
    await store.directory.put_app(App(name="shop", created_at=1))
    core = Core(store, config)
    yield core
    await core.edge.close()
    await store.close()


async def test_where_nothing_is_connected_nothing_is_sent(core: Core) -> None:
    number = await core.registered()
    edge = core.edge
    assert (edge.is_connected(number), edge.room(number), edge.urgency_floor(number)) == (False, 0, 0)
    assert not edge.notify(number, b"frame", 1, 1000)
    edge.await_room(number)
    edge.recall(number, 1)
    edge.moved(number, asked=False)
    await settle()
    assert core.bus.told == []


async def test_a_bound_registration_is_ready_and_gets_what_is_sent_in_one_message_a_turn(core: Core) -> None:
    number = await core.registered()
    core.hear(core.bound_record(number, "d"))
    assert core.heard.take() == [("ready", [number], [], 32)]
    edge = core.edge
    assert edge.is_connected(number)
    assert edge.notify(number, b"one", 41, 0)
    assert edge.notify(number, b"two", 42, 3000, again=True)
    edge.recall(number, 41)
    assert core.bus.told == []
    await settle()
    assert len(core.bus.told) == 1
    known = {"number": number, "local": LOCAL + number, "attachment": ATTACHMENT}
    assert core.bus.records() == [
        (NODE, Record(Do.NOTIFY, 0, seq=41, a=1, payload=b"one", **known)),
        (NODE, Record(Do.NOTIFY, 1, seq=42, a=3000, payload=b"two", **known)),
        (NODE, Record(Do.CANCEL, seq=41, **known)),
    ]


async def test_a_held_link_takes_nothing_until_it_is_ready_and_then_as_much_as_it_said(core: Core) -> None:
    number = await core.bound()
    edge = core.edge
    edge.await_room(number)
    edge.await_room(number)
    assert (edge.room(number), edge.notify(number, b"x", 1, 1)) == (0, False)
    await settle()
    key = core.store.directory.device_key("d")
    assert core.bus.records() == [(NODE, Record(Do.HOLD, attachment=ATTACHMENT, seq=key))]
    payload, count = pack_flights({number: [7, 8]})
    core.hear(build_record(Told.READY, attachment=ATTACHMENT, a=5, b=count, payload=payload))
    assert core.heard.take() == [("ready", [number], [(7, number), (8, number)], 5)]
    assert edge.room(number) == 32
    assert edge.notify(number, b"x", 1, 1)


async def test_what_was_spilled_holds_its_link_and_what_was_lost_does_not(core: Core) -> None:
    number = await core.bound()
    core.hear(
        build_record(Told.LOST, 0, number, 1, ATTACHMENT, 9), build_record(Told.TIMEOUT, 0, number, 1, ATTACHMENT, 8)
    )
    assert core.heard.take() == [("lost", 9, number, False), ("timeout", 8, number)]
    assert core.edge.room(number) == 32
    core.hear(build_record(Told.LOST, 1, number, 1, ATTACHMENT, 10))
    assert core.heard.take() == [("lost", 10, number, True)]
    assert core.edge.room(number) == 0


async def test_acks_come_first_then_what_else_was_told_in_its_order(core: Core) -> None:
    number = await core.bound()
    seq = await core.sent(number)
    core.hear(
        build_record(Told.ACK, 0, number, 1, ATTACHMENT, seq, 5, 6),
        build_record(Told.ACK, 0, number, 1, ATTACHMENT, 900, 5, 6),
        build_record(Told.LATE, 0, number, 1, ATTACHMENT, 77, 0, 6, pack_numbers([number])),
        build_record(Told.READY, attachment=ATTACHMENT, a=3, b=1, payload=pack_numbers([number])),
        build_record(Told.FANNED, 0, 3, seq=900, a=11),
    )
    assert core.heard.take() == [
        ("acks_of", 900, [number], 6),
        ("acks", [seq, 77]),
        ("ready", [number], [], 3),
        ("fanned", 900, 3, 11),
    ]


async def test_a_stale_attachment_neither_acks_nor_times_out_nor_leaves(core: Core) -> None:
    number = await core.bound()
    seq = await core.sent(number)
    stale = ATTACHMENT + 1
    core.hear(
        build_record(Told.ACK, 0, number, 1, stale, seq, 5, 6),
        build_record(Told.TIMEOUT, 0, number, 1, stale, seq),
        build_record(Told.LOST, 0, number, 1, stale, seq),
        build_record(Told.FLOOR, 3, number, 1, stale),
        build_record(Told.LEFT, 0, number, 1, stale),
        build_record(Told.READY, attachment=stale, a=3, b=1, payload=pack_numbers([number])),
        build_record(Told.LATE, 0, number, 1, stale, seq, 0, 6, pack_numbers([number])),
    )
    core.hear(build_record(Told.ACK, 0, number, 1, ATTACHMENT, seq, 5, 6), node=OTHER)
    assert core.heard.take() == []
    assert core.edge.is_connected(number)
    assert core.edge.urgency_floor(number) == 0
    assert core.metrics.value(Metric.FAR_DROPPED, "stale") == 6


async def test_what_its_link_lost_is_heard_after_it_left_but_not_once_it_is_back(core: Core) -> None:
    number = await core.bound()
    core.hear(build_record(Told.LEFT, 0, number, 1, ATTACHMENT), build_record(Told.LOST, 1, number, 1, ATTACHMENT, 9))
    assert core.heard.take() == [("lost", 9, number, False)]
    assert core.edge.registry.sessions == 0
    core.hear(core.bound_record(number, "d", attachment=ATTACHMENT + 1))
    core.heard.take()
    core.hear(build_record(Told.LOST, 0, number, 1, ATTACHMENT, 9))
    assert core.heard.take() == []


async def test_a_newer_link_takes_the_place_of_the_older_and_its_node_is_told_to_close_it(core: Core) -> None:
    number = await core.bound()
    core.hear(core.bound_record(number, "d", attachment=8), node=OTHER)
    assert core.heard.take() == [("ready", [number], [], 32)]
    await settle()
    key = core.store.directory.device_key("d")
    assert core.bus.records() == [(NODE, Record(Do.TAKEOVER, attachment=ATTACHMENT, seq=key))]
    assert node_of_link(core.edge.registry.link(number)) == OTHER


async def test_one_that_is_told_again_asks_what_is_in_flight_only_where_something_may_be(core: Core) -> None:
    number = await core.registered()
    core.hear(core.bound_record(number, "d", flag=AGAIN | 2))
    assert (core.heard.take(), core.edge.room(number), core.edge.urgency_floor(number)) == ([], 32, 2)
    await core.sent(number)
    core.hear(core.bound_record(number, "d", flag=AGAIN))
    assert (core.edge.room(number), core.edge.urgency_floor(number)) == (0, 0)
    await settle()
    assert [record.kind for _, record in core.bus.records()] == [Do.HOLD]


async def test_an_unknown_and_a_signed_out_registration_are_not_bound(core: Core) -> None:
    number = await core.registered()
    await core.store.directory.sign_out(number)
    core.hear(core.bound_record(number, "d"), core.bound_record(number + 50, "d"))
    await settle()
    assert [(node, r.kind, r.number) for node, r in core.bus.records()] == [
        (NODE, Do.UNBIND, number),
        (NODE, Do.UNBIND, number + 50),
    ]
    assert not core.edge.is_connected(number)


async def test_a_fan_out_goes_to_every_node_once_with_groups_by_what_they_stand_for(core: Core) -> None:
    number = await core.bound()
    await core.bound("e", node=OTHER, attachment=3)
    group = core.edge.registry.group(number)
    core.edge.fanout([group], b"frame", 900, 0, 2)
    core.edge.recall_fanout([group], 900)
    await settle()
    records = core.bus.records()
    assert sorted((node, r.kind, r.seq, r.a) for node, r in records) == [
        (NODE, Do.FANOUT, 900, 0),
        (NODE, Do.FANOUT, 900, 1),
        (OTHER, Do.FANOUT, 900, 0),
        (OTHER, Do.FANOUT, 900, 1),
    ]
    assert parse_body(records[0][1].payload, Fan) == Fan("shop", b"frame", 2, [(group, "1.0")])
    assert parse_body(records[-1][1].payload, Fan).frame == build_frame(FrameType.RECALL, [900])


async def test_a_registration_of_another_cohort_moves_on_its_node(core: Core) -> None:
    number = await core.bound()
    await core.store.directory.update(number, profile=Profile(os="ios"))
    await settle()
    [(node, move), (_, hold)] = core.bus.records()
    assert (node, move.kind, move.number, hold.kind) == (NODE, Do.MOVE, number, Do.HOLD)
    assert parse_body(move.payload, Cohort) == Cohort("shop", "1.0\x1fios")


async def test_one_that_its_device_moved_is_looked_at_once_its_node_has_answered_it(core: Core) -> None:
    number = await core.bound()
    await core.sent(number)
    assert await core.registered(version="2.0") == number
    await settle()
    assert [(node, record.kind) for node, record in core.bus.records()] == [(NODE, Do.MOVE)]
    core.hear(core.bound_record(number, "d", flag=AGAIN))
    await settle()
    assert [(node, record.kind) for node, record in core.bus.records()] == [(NODE, Do.HOLD)]


async def test_a_node_that_is_gone_loses_what_was_in_flight_and_only_that(core: Core) -> None:
    number = await core.bound()
    stays = await core.bound("e", node=OTHER, attachment=3)
    lost, waits, other = await core.sent(number), await core.sent(number), await core.sent(stays)
    core.store.journal.set_state(waits, State.WAITING, 0)
    core.edge.member_gone(NODE)
    await settle(200)
    assert core.heard.take() == [("lost", lost, number, False)]
    assert not core.edge.is_connected(number)
    assert core.edge.is_connected(stays)
    assert core.store.journal.get(other) is not None
    assert core.edge.registry.sessions == 1


async def test_what_a_node_does_not_tell_of_in_its_round_is_there_no_more(core: Core) -> None:
    number = await core.bound()
    gone = await core.bound("e", attachment=3)
    elsewhere = await core.bound("f", node=OTHER, attachment=3)
    seq = await core.sent(gone)
    core.edge.ask_again(NODE)
    core.edge.ask_again(NODE)
    await settle()
    assert [(r.kind, r.a) for _, r in core.bus.records()] == [(Do.AGAIN, 1), (Do.AGAIN, 2)]
    core.hear(core.bound_record(number, "d", flag=AGAIN), build_record(Told.SYNCED, a=1))
    await settle(200)
    assert core.edge.is_connected(gone)  # that round is not the last
    core.hear(build_record(Told.SYNCED, a=2))
    await settle(200)
    assert [core.edge.is_connected(n) for n in (number, gone, elsewhere)] == [True, False, True]
    assert core.heard.take() == [("lost", seq, gone, False)]


async def test_after_its_end_it_sends_nothing_and_says_so(core: Core) -> None:
    number = await core.bound()
    await core.edge.close()
    assert not core.edge.notify(number, b"x", 1, 1)
    core.edge.recall(number, 1)
    core.edge.flush()
    assert core.bus.told == []


async def test_a_large_burst_does_not_wait_for_the_end_of_the_turn(core: Core) -> None:
    number = await core.bound()
    for seq in range(100, 110):
        core.edge.notify(number, b"x" * 60_000, seq, 1)
    assert core.bus.told != []
    await settle()
    assert [r.seq for _, r in core.bus.records()] == list(range(100, 110))
