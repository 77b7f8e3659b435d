"""Devices on any node: registered here, owned there, and what happens when links, nodes, owners, messages are lost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from bare_device import BareDevice, pack
from far_scene import Core, Fleet, Open, settle
from open_house import until
from test_timing_and_audience import a_span_around_now

from gateway.metrics import Metric
from gateway.model.cluster import BROADCAST_FIELD, SEQ_SHIFT
from gateway.model.errors import NodeUnreachable, Takeover
from gateway.model.frames import FrameType
from gateway.model.outcome import State
from gateway.model.registration import App, parse_token


async def test_a_device_of_one_node_gets_what_comes_for_it_at_another_and_its_ack_ends_it(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token, 1)
    core = fleet.core_of(token)
    seq = await core.push(token, "Anna", text="Hello", data={"chat": 7})
    note = await device.note(ack=True)
    assert (note["id"], note["token"], note["title"], note["data"]) == (seq, token, "Anna", {"chat": 7})
    await core.reaches(seq, State.ACKED)
    assert core.steps(seq) == ["sent", "acked"]
    await core.store.journal.committed()  # the feed has what is durable
    assert [r.outcome.seq for r in core.store.receipts.after("shop", 0, 10)] == [seq]


async def test_what_a_device_lets_go_by_registering_again_comes_behind_token(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    await device.login()
    token = await device.register(quiet=a_span_around_now())
    await fleet.connected(token, 1)
    core = fleet.core_of(token)
    seqs = [await core.push(token, "held"), await core.push(token, "held too")]
    device.send(FrameType.REGISTER, {"req": 8, "app": "shop", "version": "1.0", "quiet": ""})
    await device.until(lambda: len(device.frames) == 3, "TOKEN and two notifications")
    assert [frame.kind for frame in device.frames] == [FrameType.TOKEN, FrameType.NOTIFY, FrameType.NOTIFY]
    assert [note["id"] for note in await device.notes(2, ack=True)] == seqs
    for seq in seqs:
        await core.reaches(seq, State.ACKED)


async def test_what_waited_while_it_was_away_comes_once_it_is_at_any_node(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token, 1)
    device.close()
    await fleet.away(token)
    core = fleet.core_of(token)
    seqs = [await core.push(token, str(i)) for i in range(3)]
    device.port = fleet.nodes[3].port
    assert await device.join() == token
    assert [note["id"] for note in await device.notes(3, ack=True)] == seqs
    for seq in seqs:
        await core.reaches(seq, State.ACKED)
    await fleet.connected(token, 3)


async def test_a_device_that_connects_to_another_node_takes_its_place_and_the_older_link_ends(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token, 1)
    core = fleet.core_of(token)
    seq = await core.push(token, "in flight there")
    await device.note()
    again = fleet.nodes[3].device()
    again.device, again.secret = device.device, device.secret
    assert await again.join() == token
    await device.sent_away(Takeover)
    assert (await again.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)
    await fleet.connected(token, 3)
    assert (await core.push(token, "next")) == (await again.note(ack=True))["id"]


async def test_a_node_that_dies_leaves_its_devices_away_and_what_was_in_flight_comes_again(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token, 1)
    core = fleet.core_of(token)
    seq = await core.push(token, "unacked")
    await device.note()
    await fleet.kill(1)
    await fleet.away(token)
    await core.reaches(seq, State.WAITING)
    device.port = fleet.nodes[2].port
    await device.join()
    assert (await device.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)


async def test_another_owner_finds_every_device_where_it_is_and_sends_nothing_twice(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token, 1)
    partition = fleet.core_of(token).partition
    seq = await fleet.core_of(token).push(token, "in flight")
    await device.note()
    core = await fleet.move(partition, 3)
    await fleet.connected(token, 1)
    later = await core.push(token, "later")
    assert (await device.note(ack=True))["id"] == later
    device.ack(seq)
    await core.reaches(seq, State.ACKED)
    await core.reaches(later, State.ACKED)
    assert device.waiting() == []


async def test_an_owner_of_before_is_not_heard_and_hears_nothing(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token, 1)
    stale = fleet.core_of(token)
    number = stale.store.directory.find(token, "shop")
    owner = fleet.owners[stale.partition]
    fleet.nodes[1].view.owners[stale.partition] = owner._replace(node=3, epoch=2)
    assert stale.edge.notify(number, b"\x08\x00", 99, 1000)
    await until(lambda: fleet.nodes[1].dropped("stale"))
    assert device.waiting() == []
    fleet.nodes[1].view.owners[stale.partition] = owner._replace(epoch=2)
    fleet.nodes[1].node.events.left(fleet.nodes[1].homes_of(token))
    await until(lambda: fleet.nodes[2].dropped("stale"))
    assert stale.edge.is_connected(number)


async def test_more_than_the_window_waits_for_acks_and_comes_in_its_order(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2, settings={"edge.window": 4})
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    seqs = [await core.push(token, str(i)) for i in range(23)]
    notes = await device.notes(23, ack=True)
    assert [note["id"] for note in notes] == seqs
    for seq in seqs:
        await core.reaches(seq, State.ACKED)
    assert fleet.nodes[1].metrics.value(Metric.SPILLED, "window") >= 0


async def test_registrations_of_several_owners_share_a_link_and_none_starves(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2, owners={0: 1, 1: 2, 2: 1, 3: 2}, settings={"edge.window": 4})
    device = fleet.nodes[1].device()
    await device.login()
    tokens = [await device.register(account=f"a{i}", keep=True) for i in range(8)]
    assert len({fleet.core_of(token).partition for token in tokens}) > 1
    for token in tokens:
        await fleet.connected(token)
    seqs = {}
    for round_ in range(5):
        for token in tokens:
            seqs[await fleet.core_of(token).push(token, str(round_))] = token
    got = await device.notes(len(seqs), ack=True)
    assert {note["id"] for note in got} == set(seqs)
    for seq, token in seqs.items():
        await fleet.core_of(token).reaches(seq, State.ACKED)


async def test_a_broadcast_reaches_the_devices_of_every_node_and_counts_them(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    devices = [fleet.nodes[1 + i % 3].device() for i in range(9)]
    tokens = [await device.join() for device in devices]
    for token in tokens:
        await fleet.connected(token)
    pushes = {core: await core.push({"everyone": True}, "all") for core in fleet.cores.values()}
    for device, token in zip(devices, tokens, strict=True):
        note = await device.note(ack=True)
        assert (note["id"], note["title"]) == (pushes[fleet.core_of(token)], "all")

    def acked() -> bool:
        figures = [core.store.broadcasts.figures(seq) for core, seq in pushes.items()]
        return [sum(f.get(what, 0) for f in figures) for what in ("sent", "acked")] == [9, 9]

    await until(acked)


async def test_a_broadcast_taken_back_is_taken_back_on_every_node(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    seq = await core.push({"everyone": True}, "all")
    await device.note()
    await core.dispatcher.recall("shop", seq)
    assert await device.receive(FrameType.RECALL) == [seq]


async def test_a_push_in_flight_is_taken_back(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    seq = await core.push(token, "oops")
    await device.note()
    assert await core.dispatcher.recall("shop", seq) == 1
    assert await device.receive(FrameType.RECALL) == [seq]
    assert core.state(seq) == State.RECALLED


async def push_light(fleet: Fleet, node: int) -> tuple[BareDevice, str, Core, int]:
    """One of which the body waits, to a device of this node: device, token, its core, sequence."""
    device = fleet.nodes[node].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    return device, token, core, await core.push(token, "light", data={"body": 1}, body="on_demand")


async def test_a_light_push_is_fetched_from_its_owner(open_fleet: Open) -> None:
    device, token, core, seq = await push_light(await open_fleet(nodes=2), 1)
    light = await device.note(ack=True)
    assert light["more"] is True
    await core.reaches(seq, State.ANNOUNCED)
    answer = await device.ask(FrameType.FETCH, FrameType.FETCHED, token=token, ids=[seq])
    assert answer["count"] == 1
    whole = await device.note(ack=True)
    assert whole["data"] == {"body": 1}
    await core.reaches(seq, State.ACKED)


@pytest.mark.parametrize("nodes", [1, 2])
async def test_the_ack_of_a_light_form_just_before_its_fetch_is_not_the_bodys(open_fleet: Open, nodes: int) -> None:
    """Both in one piece, as the SDK sends them; and the body does not come, for the link is lost."""
    device, token, core, seq = await push_light(await open_fleet(nodes=nodes), nodes)
    await device.note()
    fetch = {"req": 9, "token": token, "ids": [seq]}
    device.send_raw(pack(FrameType.ACK, [seq]) + pack(FrameType.FETCH, fetch))
    await device.receive(FrameType.FETCHED)
    assert core.state(seq) in (State.ANNOUNCED, State.SENT)
    await device.note(ack=True)
    await core.reaches(seq, State.ACKED)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("acked", [False, True], ids=["in flight", "light form acked"])
async def test_a_device_that_has_the_body_says_so(open_fleet: Open, nodes: int, acked: bool) -> None:
    """It got it from an owner or a gateway that is no more, and is sent the light form."""
    device, _, core, seq = await push_light(await open_fleet(nodes=nodes), nodes)
    await device.note(ack=acked)
    if acked:
        await core.reaches(seq, State.ANNOUNCED)
    device.send(FrameType.WHOLE, [seq])
    await core.reaches(seq, State.ACKED)


async def test_a_body_in_flight_at_a_change_of_owners_is_confirmed_to_the_next(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    device, token, core, seq = await push_light(fleet, 1)
    await device.note(ack=True)
    await device.ask(FrameType.FETCH, FrameType.FETCHED, token=token, ids=[seq])
    await device.note()
    core = await fleet.move(core.partition, 3)
    await fleet.connected(token, 1)
    device.shown(seq)
    device.send(FrameType.WHOLE, [seq])
    await core.reaches(seq, State.ACKED)


async def test_a_fetch_past_the_window_counts_what_was_sent_and_says_that_more_waits(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2, settings={"edge.window": 4})
    device = fleet.nodes[1].device()
    await device.login(window=2)
    token = await device.register()
    await fleet.connected(token)
    core = fleet.core_of(token)
    seqs = [await core.push(token, str(i), data={"i": i}, body="on_demand") for i in range(4)]
    await device.notes(2)
    answer = await device.ask(FrameType.FETCH, FrameType.FETCHED, token=token, ids=seqs)
    assert answer.get("more") is True
    sent = {note["id"] for note in device.waiting() if "data" in note}
    assert answer["count"] == len(sent) <= 2


async def test_another_account_takes_the_place_of_the_first_wherever_that_is_kept(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2, owners={0: 1, 1: 2, 2: 1, 3: 2})
    device = fleet.nodes[1].device()
    await device.login()
    tokens = [await device.register(account=f"a{i}") for i in range(6)]
    assert len({fleet.core_of(token).partition for token in tokens}) > 1
    for token in tokens[:-1]:
        core = fleet.core_of(token)
        number = core.store.directory.find(token, "shop")
        assert core.store.directory.registry.signed_out(number)
        await fleet.away(token)
    await fleet.connected(tokens[-1])


async def test_a_token_given_up_is_dead_and_one_signed_out_waits(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    await device.login()
    forgotten = await device.register(account="a", keep=True)
    signed_out = await device.register(account="b", keep=True)
    core = fleet.core_of(signed_out)
    await device.ask(FrameType.UNREGISTER, token=forgotten, forget=True)
    await device.ask(FrameType.UNREGISTER, token=signed_out)
    assert fleet.core_of(forgotten).store.directory.find(forgotten, "shop") == -1
    await fleet.away(signed_out)
    seq = await core.push(signed_out, "later")
    assert core.state(seq) == State.WAITING
    assert await device.register(account="b", keep=True) == signed_out
    assert (await device.note(ack=True))["id"] == seq


async def test_a_token_revoked_by_its_provider_gets_nothing_more_on_its_link(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    await core.store.directory.revoke(core.store.directory.find(token, "shop"))
    await until(lambda: fleet.nodes[1].node.homes.registry.find(raw(token)) < 0)
    assert len(fleet.nodes[1].node.homes.registry) == 0
    renewed = await device.register()  # the link is still good
    assert renewed != token


def raw(token: str) -> bytes:
    found = parse_token(token)
    assert found is not None
    return found


async def test_below_its_floor_a_device_gets_nothing_until_it_lowers_it(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    await device.login(urgency=3)
    token = await device.register()
    await fleet.connected(token)
    core = fleet.core_of(token)
    low = await core.push(token, "low", urgency="low")
    high = await core.push(token, "high", urgency="high")
    assert (await device.note(ack=True))["id"] == high
    assert core.state(low) == State.WAITING
    await device.ask(FrameType.STATE, urgency=0)
    assert (await device.note(ack=True))["id"] == low


async def test_no_owner_is_an_error_to_come_back_with_and_the_link_stays(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    await device.login()
    owners = dict(fleet.nodes[1].view.owners)
    fleet.nodes[1].view.owners.clear()
    device.send(FrameType.REGISTER, {"req": 3, "app": "shop", "version": "1"})
    await device.error(NodeUnreachable, req=3)
    fleet.nodes[1].view.owners.update(owners)
    await device.register()


async def test_an_owner_that_does_not_answer_is_an_error_too(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    await device.login()
    fleet.network.cut(1, 2)
    device.send(FrameType.REGISTER, {"req": 3, "app": "shop", "version": "1"})
    await device.error(NodeUnreachable, req=3)
    fleet.network.heal()
    token = await device.register()
    await fleet.connected(token)


async def test_a_command_that_is_lost_is_sent_again(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    await settle()
    fleet.network.drop(2, 1)
    seq = await core.push(token, "lost on its way")
    assert (await device.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)


async def test_an_ack_that_is_lost_is_asked_for(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    seq = await core.push(token, "once")
    await device.note()
    fleet.network.drop(1, 2)
    device.ack(seq)
    again = await device.note(ack=True)
    assert again["id"] == seq
    await core.reaches(seq, State.ACKED)


async def test_a_departure_that_is_lost_is_found_out(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    other = fleet.nodes[1].device()
    stays = await other.join()
    await fleet.connected(token)
    await fleet.connected(stays)
    await settle()
    fleet.network.drop(1, 2)
    device.close()
    await fleet.away(token)
    await fleet.connected(stays)


async def test_a_batch_to_devices_of_other_nodes_is_one_message_to_each_and_delivered_whole(
    open_fleet: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = await open_fleet(nodes=3, owners=dict.fromkeys(range(4), 2))
    devices = [fleet.nodes[1 + 2 * (i % 2)].device() for i in range(24)]
    tokens = [await device.join() for device in devices]
    for token in tokens:
        await fleet.connected(token)
    tell = fleet.nodes[2].bus.tell
    told: list[int] = []
    monkeypatch.setattr(fleet.nodes[2].bus, "tell", lambda node, *rest: (told.append(node), tell(node, *rest))[1])
    seqs: dict[str, int] = {}
    for partition, core in fleet.cores.items():
        mine = [token for token in tokens if fleet.core_of(token).partition == partition]
        told.clear()
        results = await core.push_batch([{"target": {"token": token}, "title": token} for token in mine])
        assert len(told) == len(set(told)) == len({1 + 2 * (tokens.index(token) % 2) for token in mine})
        seqs.update(zip(mine, results, strict=True))
    for device, token in zip(devices, tokens, strict=True):
        note = await device.note(ack=True)
        assert (note["id"], note["title"], note["token"]) == (seqs[token], token, token)
        await fleet.core_of(token).reaches(seqs[token], State.ACKED)
        assert fleet.core_of(token).steps(seqs[token]) == ["sent", "acked"]


async def test_a_batch_past_the_window_comes_in_its_order(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2, settings={"edge.window": 4})
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    seqs = await core.push_batch([{"target": {"token": token}, "title": str(i)} for i in range(30)])
    assert [note["id"] for note in await device.notes(30, ack=True)] == seqs
    for seq in seqs:
        await core.reaches(seq, State.ACKED)


async def test_a_batch_whose_message_is_lost_is_sent_again(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    await settle()
    fleet.network.drop(2, 1)
    seqs = await core.push_batch([{"target": {"token": token}, "title": str(i)} for i in range(5)])
    assert [note["id"] for note in await device.notes(5, ack=True)] == seqs
    for seq in seqs:
        await core.reaches(seq, State.ACKED)


async def test_what_is_in_flight_to_one_app_is_not_said_of_another_of_the_same_link(
    open_fleet: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broadcast has one number in all partitions: said of both, one owner would pass its registration over."""
    fleet = await open_fleet(nodes=2)
    apps = ["shop", *map("app-{}".format, range(8))]
    for core in fleet.cores.values():
        for app in apps[1:]:
            await core.store.directory.put_app(App(name=app, created_at=1))
    device = fleet.nodes[1].device()
    await device.login()
    tokens = {app: await device.register(app) for app in apps}
    core = fleet.core_of(tokens["shop"])
    app = next(app for app, token in tokens.items() if fleet.core_of(token) is not core)
    other = fleet.core_of(tokens[app])
    numbers = {one: await _bound(one, tokens[name], name) for one, name in ((core, "shop"), (other, app))}
    said: dict[Core, set[tuple[int, int]]] = {}
    for one in numbers:

        def on_ready(_: object, in_flight: Iterable[tuple[int, int]] = (), one: Core = one) -> None:
            said[one] = set(in_flight)

        monkeypatch.setattr(one.dispatcher, "on_ready", on_ready)
    seq = (BROADCAST_FIELD << SEQ_SHIFT) + 1
    notify = pack(FrameType.NOTIFY, {"id": seq, "token": tokens["shop"]})
    assert core.edge.notify(numbers[core], notify, seq, 60_000)
    assert (await device.note())["id"] == seq
    for one, number in numbers.items():
        one.edge.await_room(number)
    await until(lambda: len(said) == 2)
    assert said == {core: {(seq, numbers[core])}, other: set()}


async def _bound(core: Core, token: str, app: str) -> int:
    """Its number, once its owner knows where it is."""
    number = core.store.directory.find(token, app)
    await until(lambda: core.edge.registry.link(number))
    return number
