"""The device SDK against a fleet: it knows nothing of owners, and gets over a part of the fleet without one."""

from __future__ import annotations

import asyncio

import pytest
from far_scene import Open
from open_house import until

from gateway.client import Device, Notification
from gateway.metrics import Metric
from gateway.model.errors import NodeUnreachable
from gateway.model.outcome import State


async def next_note(registration: object) -> Notification:
    async for item in registration:  # type: ignore[attr-defined]
        if isinstance(item, Notification):
            return item
    raise AssertionError("the registration ended")


async def test_the_sdk_registers_at_a_node_gets_its_pushes_and_acks_them(open_fleet: Open) -> None:
    fleet = await open_fleet(nodes=2)
    async with Device("127.0.0.1", fleet.nodes[1].port) as phone:
        registration = await phone.register("shop", "1.0")
        await fleet.connected(registration.token, 1)
        core = fleet.core_of(registration.token)
        seq = await core.push(registration.token, "hello")
        async with asyncio.timeout(60):
            note = await next_note(registration)
        assert note.title == "hello"
        await core.reaches(seq, State.ACKED)
        phone.cut()
        await fleet.away(registration.token)
        later = await core.push(registration.token, "later")
        async with asyncio.timeout(60):
            assert (await next_note(registration)).title == "later"
        await core.reaches(later, State.ACKED)


async def test_the_sdk_asks_again_until_its_part_of_the_fleet_has_an_owner(
    open_fleet: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NodeUnreachable, "after_ms", 20)
    fleet = await open_fleet(nodes=2)
    node = fleet.nodes[1]
    owners = dict(node.view.owners)
    node.view.owners.clear()
    async with Device("127.0.0.1", node.port) as phone:
        registering = asyncio.ensure_future(phone.register("shop", "1.0"))
        await until(lambda: node.metrics.value(Metric.FRAMES_MALFORMED, NodeUnreachable.name) >= 2)
        assert not registering.done()
        node.view.owners.update(owners)
        async with asyncio.timeout(60):
            registration = await registering
        await fleet.connected(registration.token)
