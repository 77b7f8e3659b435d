"""Who counts as away while a partition changes its owner: nobody whose node has not told of its devices yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from far_scene import Core, Fleet, Open, settle
from open_house import until

from gateway.cluster import far_edge
from gateway.model.outcome import State
from gateway.notifiers.stub.client import StubNotifier

#: some of the dispatcher's ticks
TICKS_S = 0.35


@pytest.fixture
async def stub() -> StubNotifier:
    return StubNotifier()


async def open_with(open_fleet: Open, stub: StubNotifier) -> Fleet:
    return await open_fleet(
        nodes=2, owners=dict.fromkeys(range(4), 2), notifiers={"stub": stub}, app={"fallback": ["stub"]}
    )


async def adopt_untold(fleet: Fleet, token: str) -> Core:
    """Its next owner's core is open, and no node knows yet."""
    partition = fleet.core_of(token).partition
    await fleet.cores.pop(partition).close()
    owner = fleet.owners[partition] = fleet.owners[partition]._replace(epoch=2)
    return await fleet.adopt(partition, owner.node, owner.epoch)


def tell(fleet: Fleet, core: Core, *nodes: int) -> None:
    owner = fleet.owners[core.partition]
    for number in nodes:
        fleet.nodes[number].view.owners[core.partition] = owner
        fleet.nodes[number].node.owner_changed(core.partition, owner)


@pytest.mark.parametrize("fields", [{}, {"ttl": 0}], ids=["usual", "ttl-0"])
async def test_a_push_before_its_node_has_told_of_the_device_goes_to_the_device(
    open_fleet: Open, stub: StubNotifier, fields: dict[str, Any]
) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = await adopt_untold(fleet, token)
    seq = await core.push(token, "in between", **fields)
    await asyncio.sleep(TICKS_S)
    tell(fleet, core, 2)
    await asyncio.sleep(TICKS_S)
    assert not stub.calls
    tell(fleet, core, 1)
    assert (await device.note(ack=True))["id"] == seq
    await core.reaches(seq, State.ACKED)
    assert not stub.calls


async def test_one_that_is_away_goes_to_the_notifier_once_when_all_have_told(
    open_fleet: Open, stub: StubNotifier
) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    device.vanish()
    await fleet.away(token)
    core = await adopt_untold(fleet, token)
    seq = await core.push(token, "nobody there")
    at_once = await core.push(token, "now or never", ttl=0)
    await asyncio.sleep(TICKS_S)
    assert not stub.calls
    tell(fleet, core, 1, 2)
    await until(lambda: len(stub.calls) >= 2)
    await asyncio.sleep(TICKS_S)
    assert [call.notification for call in stub.calls] == [seq, at_once]


async def test_a_node_that_says_nothing_does_not_keep_notifiers_waiting_for_ever(
    open_fleet: Open, stub: StubNotifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_edge, "SETTLE_MS", 300)
    monkeypatch.setattr(far_edge, "TICK_S", 0.05)
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    device.vanish()
    await fleet.away(token)
    core = await adopt_untold(fleet, token)
    tell(fleet, core, 2)
    seq = await core.push(token, "nobody there")
    await until(lambda: [call.notification for call in stub.calls] == [seq])


async def test_a_node_that_has_gone_is_not_waited_for(open_fleet: Open, stub: StubNotifier) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = await adopt_untold(fleet, token)
    tell(fleet, core, 2)
    seq = await core.push(token, "its node is dead")
    await asyncio.sleep(TICKS_S)
    assert not stub.calls
    await fleet.kill(1)
    await until(lambda: [call.notification for call in stub.calls] == [seq])


async def test_a_broadcast_with_a_chain_waits_for_all_to_have_told(open_fleet: Open, stub: StubNotifier) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = await adopt_untold(fleet, token)
    seq = await core.push({"everyone": True}, "to all", fallback=["stub"])
    await asyncio.sleep(TICKS_S)
    tell(fleet, core, 1, 2)
    assert (await device.note(ack=True))["id"] == seq
    await asyncio.sleep(TICKS_S)
    assert not stub.calls


async def test_what_an_owner_before_sent_and_nobody_acks_falls_over_as_ever(
    open_fleet: Open, stub: StubNotifier
) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    seq = await fleet.core_of(token).push(token, "no ack", ack_ms=1_500)
    assert (await device.note())["id"] == seq
    core = await adopt_untold(fleet, token)
    tell(fleet, core, 1, 2)
    await fleet.connected(token)
    await until(lambda: [call.notification for call in stub.calls] == [seq])
    assert "ack_timeout" in core.steps(seq)
    assert not device.waiting()


async def test_the_end_of_a_round_is_not_told_to_another_owner(open_fleet: Open, stub: StubNotifier) -> None:
    fleet = await open_with(open_fleet, stub)
    device = fleet.nodes[1].device()
    token = await device.join()
    await fleet.connected(token)
    core = fleet.core_of(token)
    node, owners = fleet.nodes[1], fleet.nodes[1].view.owners
    mark = node.node._telling[core.partition] = object()
    telling = node.node._tell_all(core.partition, 0, mark, owners[core.partition])
    next(telling)  # all are told of
    core = await adopt_untold(fleet, token)
    await settle(50)  # what it asks is not heard by those who do not know it yet
    owners[core.partition] = fleet.owners[core.partition]
    list(telling)
    tell(fleet, core, 2)
    await until(lambda: core.edge._unheard == {1})
    await settle()
    assert not core.edge.is_certain
