"""What a fleet's devices live through: nodes cut off and back, owners that change while links are stale, peers that
talk nonsense, words that are lost without a trace.
"""

from __future__ import annotations

from typing import Any

import pytest
from far_scene import Open, settle
from open_house import until

from gateway.cluster import far_edge, flights
from gateway.cluster.far_door import TOLD
from gateway.cluster.far_edge import DO
from gateway.cluster.far_wire import Do, Record, Told, build_head, build_record
from gateway.metrics import Metric
from gateway.model.errors import Overloaded, Takeover
from gateway.model.outcome import State
from gateway.model.registration import Profile, parse_token


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks after what was not heard of at once."""
    monkeypatch.setattr(flights, "GRACE_S", 0)
    monkeypatch.setattr(far_edge, "TICK_S", 0.05)
    monkeypatch.setattr(far_edge, "HOLD_AGAIN_TICKS", 2)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01",
        b"\x63" + bytes(15),
        build_head(0, 1) + b"x",
        build_head(0, 1) + build_record(200),
        build_head(0, 1) + build_record(0),
        build_head(0, 1) + build_record(Do.MOVE, number=1, local=1, payload=b"\xff"),
        build_head(0, 1) + build_record(Do.FANOUT, payload=b"\x90"),
        build_head(0, 1) + build_record(Do.RETURN, seq=1, payload=b"\xc1"),
        build_head(0, 1) + build_record(Do.NOTIFY, number=0xFFFFFFFF, local=0xFFFFFFFF, a=1 << 63),
        build_head(0, 1) + build_record(Told.READY, b=1 << 60),
        build_head(0, 1) + build_record(Told.BOUND, number=0xFFFFFFFF, local=7, seq=1),
        build_head(0, 1) + build_record(Told.LATE, payload=b"xyz"),
        build_head(0, 1) + build_record(Told.LOST, number=0xFFFFFFFF),
        build_head(0, 1) + build_record(Told.SYNCED, a=99),
        build_head(0xFFFF, 1) + build_record(Told.LEFT),
    ],
)
async def test_nonsense_from_a_peer_costs_nobody_anything(open_fleet: Open, message: bytes) -> None:
    fleet = await open_fleet(nodes=2, owners=dict.fromkeys(range(4), 2))
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    fleet.nodes[2].bus.tell(1, DO, message)
    fleet.nodes[1].bus.tell(2, TOLD, message)
    await settle()
    core = fleet.core_of(token)
    seq = await core.push(token, "as ever")
    assert (await device.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)


@pytest.mark.parametrize("stale_first", [True, False])
async def test_a_new_owner_keeps_the_later_of_two_links_of_a_device_whoever_tells_it_first(
    open_fleet: Open, stale_first: bool
) -> None:
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    stale = fleet.nodes[1].device()
    token = await stale.join()
    await fleet.connected(token, 1)
    partition = fleet.core_of(token).partition
    await fleet.cores.pop(partition).close()  # its owner dies before it hears of the second link
    for node in fleet.nodes.values():
        node.view.owners.pop(partition)
    live = fleet.nodes[3].device()
    live.device, live.secret = stale.device, stale.secret
    await live.login()
    door = fleet.nodes[3].node
    # what REGISTER would have done, had its answer come
    local = door.homes.take(partition, 1, fleet_token(token), live.device, "shop", "1.0")
    link = door.homes.registry.device_link(fleet.device_key(live.device))
    door.edge.bind(link, local, fleet.device_key(live.device))
    order = [1, 3] if stale_first else [3, 1]
    core = await fleet.adopt(partition, 2, 2)
    owner = fleet.owners[partition] = fleet.owners[partition]._replace(epoch=2)
    for number in (2, *order):
        fleet.nodes[number].view.owners[partition] = owner
        fleet.nodes[number].node.owner_changed(partition, owner)
        await settle(50)
    await stale.sent_away(Overloaded)
    await fleet.connected(token, 3)
    seq = await core.push(token, "to the live one")
    assert (await live.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)


def fleet_token(token: str) -> bytes:
    raw = parse_token(token)
    assert raw is not None
    return raw


async def test_news_of_an_older_link_that_were_long_on_their_way_do_not_end_the_newer_one(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    old = fleet.nodes[1].device()
    token = await old.join()
    await fleet.connected(token, 1)
    core = fleet.core_of(token)
    edge = core.edge
    number = core.store.directory.find(token, "shop")
    key = fleet.device_key(old.device)
    then = edge._bound_ms[number]
    attachment = edge.registry.link(number) & ((1 << 40) - 1)
    new = fleet.nodes[3].device()
    new.device, new.secret = old.device, old.secret
    await new.join()
    await fleet.connected(token, 3)
    await old.sent_away(Takeover)
    edge._bound_ms[number] = then + 5
    edge.bind(1, attachment, number, 1, key, at_ms=then, floor=0, again=False)
    await fleet.connected(token, 3)
    seq = await core.push(token, "still there")
    assert (await new.note(ack=True))["id"] == seq


async def test_an_owner_that_nodes_know_of_before_it_hears_them_has_their_devices_too(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    partition = fleet.core_of(token).partition
    await fleet.cores.pop(partition).close()
    owner = fleet.owners[partition] = fleet.owners[partition]._replace(node=3, epoch=2)
    for node in fleet.nodes.values():
        node.view.owners[partition] = owner
        node.node.owner_changed(partition, owner)
    await until(lambda: fleet.nodes[3].dropped("stale"))
    core = await fleet.adopt(partition, 3, 2)
    await fleet.connected(token, 1)
    seq = await core.push(token, "found")
    assert (await device.note(ack=True))["id"] == seq


async def test_a_second_link_to_the_same_node_takes_the_place_of_the_first(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    seq = await core.push(token, "unacked")
    await device.note()
    again = fleet.nodes[1].device()
    again.device, again.secret = device.device, device.secret
    await again.join()
    await device.sent_away(Takeover)
    assert (await again.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)
    assert len(fleet.nodes[1].node.homes.registry) == 1


async def test_a_node_that_was_cut_off_and_is_back_has_its_devices_again(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    member = fleet.members[1]
    fleet.network.cut(1, 2)
    fleet.gone(1)
    await fleet.away(token)
    seq = await core.push(token, "meanwhile")
    assert core.state(seq) == State.WAITING
    fleet.network.heal()
    fleet.members[1] = member
    for node in fleet.nodes.values():
        node.view.members[1] = member
        node.door.member_came(member)
    await fleet.connected(token, 1)
    assert (await device.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)


@pytest.mark.usefixtures("hasty")
async def test_a_notification_that_vanishes_without_a_gap_is_missed_and_sent_again(
    open_fleet: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    tell = core.node.bus.tell
    swallowed: list[bytes] = []

    def swallow(node: int, kind: str, body: bytes) -> None:
        if kind == DO and not swallowed:
            swallowed.append(body)
        else:
            tell(node, kind, body)

    monkeypatch.setattr(core.node.bus, "tell", swallow)
    seq = await core.push(token, "gone", ack_ms=20)
    assert (await device.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)
    assert fleet.nodes[2].metrics.value(Metric.FAR_LOST, "asked") >= 1


@pytest.mark.usefixtures("hasty")
async def test_a_question_for_room_that_vanishes_is_asked_again(
    open_fleet: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = await open_fleet(nodes=2, settings={"edge.window": 2})
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    handlers = fleet.nodes[1].node._handlers
    lost: list[Record] = []
    hold = handlers[Do.HOLD]
    monkeypatch.setitem(handlers, Do.HOLD, lambda _, record: lost.append(record))
    seqs = [await core.push(token, str(i)) for i in range(5)]
    await until(lambda: lost)
    monkeypatch.setitem(handlers, Do.HOLD, hold)
    assert {note["id"] for note in await device.notes(5, ack=True)} == set(seqs)


async def test_a_registration_of_another_version_is_in_its_new_group_everywhere(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join(version="1.0")
    await fleet.connected(token)
    core = fleet.core_of(token)
    number = core.store.directory.find(token, "shop")
    await core.store.directory.update(number, profile=Profile(locale="de-DE"))
    # Whoever has moved is asked what is in flight there, and an answer older than a fan-out has that sent once more.
    await until(lambda: not core.edge._held)
    seq = await core.push({"everyone": True}, "hi")
    assert (await device.note(ack=True))["id"] == seq
    await until(lambda: core.store.broadcasts.figures(seq).get("sent") == 1)
    homes = fleet.nodes[1].node.homes
    assert homes.known_groups(core.partition, "shop", [(1, "1.0\x1f\x1fde-DE")]) == [
        homes.registry.group(fleet.nodes[1].homes_of(token))
    ]
    assert await device.register(version="2.0") == token
    seq = await core.push({"versions": ">=2"}, "two")
    assert (await device.note(ack=True))["id"] == seq


async def test_a_revocation_that_the_store_refuses_leaves_the_device_as_it_was(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    number = core.store.directory.find(token, "shop")
    registration = core.store.directory.registration(number)
    assert registration is not None
    core.edge.leaving(registration)  # what a failed commit undoes
    await until(lambda: fleet.nodes[1].homes_of(token) < 0)
    core.edge.returned(registration)
    await fleet.connected(token)
    seq = await core.push(token, "still here")
    assert (await device.note(ack=True))["id"] == seq


async def test_late_acks_are_the_owners_to_judge(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    seq = await core.push(token, "slow", ack_ms=1)
    await device.note()
    await core.reaches(seq, State.WAITING)
    device.shown(seq)
    await core.reaches(seq, State.ACKED)
    assert core.steps(seq)[-2:] == ["acked", "shown"]
    device.ack(seq + 1_000)
    await device.sync()


async def test_many_devices_are_told_to_a_new_owner_in_slices(
    open_fleet: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cluster.node_edge.SLICE_NUMBERS", 7)
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    devices: list[Any] = [fleet.nodes[1].device() for _ in range(40)]
    tokens = [await device.join() for device in devices]
    for token in tokens:
        await fleet.connected(token)
    for partition in list(fleet.cores):
        await fleet.move(partition, 3)
    for token in tokens:
        await fleet.connected(token, 1)
    for device, token in zip(devices, tokens, strict=True):
        seq = await fleet.core_of(token).push(token, "found")
        assert (await device.note(ack=True))["id"] == seq
