"""Two and three reactors behave as one: takeover and fan-out across them, and counters that add up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from bare_device import BareDevice, close_all
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.errors import Takeover

Open = Callable[..., Any]


async def spread(house: House, n: int) -> list[BareDevice]:
    """Devices on all reactors; the kernel chooses, so some more come until each has one."""
    devices: list[BareDevice] = []
    while len(devices) < n or any(not r.counters()["links"] for r in house.gateway.edge.plane.reactors):
        assert len(devices) < n + 200
        device = house.device()
        await device.join()
        devices.append(device)
    return devices


def reactor_of(house: House, token: str) -> int:
    directory = house.gateway.store.directory
    return int(directory.registry.link(directory.find(token, "shop"))) >> 56


@pytest.mark.parametrize("reactors", [2, 3])
async def test_a_fan_out_crosses_reactors_and_the_counters_add_up(open_house: Open, reactors: int) -> None:
    house = await open_house({"edge.reactors": reactors})
    devices = await spread(house, 30)
    n = len(devices)
    push = await house.shop.push({"everyone": True}, "to all")
    for device in devices:
        await device.note(ack=True)

    async def counted() -> bool:
        figures = await house.shop.figures(push)
        return (figures.get("sent"), figures.get("acked")) == (n, n)

    await until(counted)
    assert house.counter("acks") == n
    assert house.value(Metric.LINKS) == n
    assert house.value(Metric.LINKS_ACCEPTED) == n
    assert house.value(Metric.ACKS) == n
    links = Counter([reactor_of(house, await device.register()) for device in devices])
    assert set(links) == set(range(reactors))
    assert [links[i] for i in range(reactors)] == [r.counters()["links"] for r in house.gateway.edge.plane.reactors]
    recalled = await house.shop.push({"everyone": True}, "oops")
    await house.shop.recall(recalled)
    await close_all(*devices)
    await house.is_empty()


async def test_a_takeover_crosses_reactors_and_pending_moves_in_order(open_house: Open) -> None:
    house = await open_house({"edge.reactors": 2, "edge.device_logins_per_minute": 0})
    device = house.device()
    token = await device.join()
    crossed = 0
    for round_ in range(60):
        here = reactor_of(house, token)
        pushes = [await house.shop.push(token, f"{round_}.{i}") for i in range(3)]
        ids = [n["id"] for n in await device.notes(3)]
        new = house.device()
        new.device, new.secret = device.device, device.secret
        await new.login()
        await device.sent_away(Takeover)
        assert await new.register() == token
        crossed += reactor_of(house, token) != here
        got: dict[int, str] = {}
        while len(got) < 3:
            note = await new.note()
            got[note["id"]] = note["title"]
        assert list(got) == ids
        new.ack(*ids)
        for push in pushes:
            await house.shop.reaches(push, "acked")
        device = new
        if crossed >= 5:
            break
    assert crossed >= 5
    assert house.sessions == 1
    await until(lambda: house.counter("links") == 1)


async def test_login_rate_and_drain_hold_over_all_reactors(open_house: Open) -> None:
    house = await open_house({"edge.reactors": 2, "edge.drain_s": 0.1})
    devices = await spread(house, 10)
    await house.gateway.drain()
    await asyncio.gather(*(device.end() for device in devices))
    assert house.ended("draining") == len(devices)
    await house.is_empty()
