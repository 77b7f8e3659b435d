"""A device that registers again on its link misses nothing: not what the change lets go, not what crosses it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from bare_device import PATIENCE_S
from open_house import House, until
from test_timing_and_audience import a_span_around_now

from gateway.client import Device, Notification, Profile
from gateway.model.frames import FrameType
from gateway.store.environment import Environment


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set: commits go on; clear it and the next one waits."""
    go_on = threading.Event()
    go_on.set()
    apply = Environment.apply

    def wait(self: Environment, groups: object) -> None:
        go_on.wait()
        apply(self, groups)  # type: ignore[arg-type]

    monkeypatch.setattr(Environment, "apply", wait)
    yield go_on
    go_on.set()


async def test_what_the_change_lets_go_comes_behind_token(house: House, commits: threading.Event) -> None:
    device, other = house.device(), house.device()
    await other.join()
    await device.login()
    token = await device.register(timezone="UTC", quiet=a_span_around_now())
    await house.shop.push(token, "single")
    await house.shop.push({"everyone": True}, "broadcast")
    assert (await other.note(ack=True))["title"] == "broadcast"
    commits.clear()
    device.send(FrameType.REGISTER, {"req": 8, "app": "shop", "version": "1.0", "quiet": ""})
    directory = house.gateway.store.directory
    number = directory.find(token, "shop")
    await until(lambda: directory.cohort(number).quiet == "")
    for _ in range(3):
        await other.sync()  # what the reactor said to the move is heard, and what came of it is on its way
    assert device.frames == []
    commits.set()
    await device.until(lambda: len(device.frames) == 3, "TOKEN and two notifications")
    assert device.frames[0] == (FrameType.TOKEN, {"req": 8, "token": token})
    assert [note["title"] for note in device.waiting()] == ["single", "broadcast"]


async def test_a_device_that_ends_its_quiet_hours_gets_what_they_held(house: House) -> None:
    got: asyncio.Queue[Notification] = asyncio.Queue()
    async with Device("127.0.0.1", house.port) as device, asyncio.timeout(PATIENCE_S):
        phone = await device.register("shop", "1.0", profile=Profile(quiet=a_span_around_now()), on_message=got.put)
        single = await house.shop.push(phone.token, "single", ttl=3600)
        await house.shop.push({"everyone": True}, "broadcast", ttl=3600)
        await device.register("shop", "1.0", profile=Profile(quiet=""))
        assert [(await got.get()).title for _ in range(2)] == ["single", "broadcast"]
        await house.shop.reaches(single, "acked")
        assert device.counters.unbound == 0


async def test_a_push_that_crosses_the_change_is_taken(house: House, commits: threading.Event) -> None:
    got: asyncio.Queue[Notification] = asyncio.Queue()
    async with Device("127.0.0.1", house.port) as device, asyncio.timeout(PATIENCE_S):
        phone = await device.register("shop", "1.0", on_message=got.put)
        commits.clear()
        change = asyncio.create_task(device.register("shop", "1.0", tags=["new"]))
        directory = house.gateway.store.directory
        await until(lambda: directory.by_tag("shop", "new"))
        pushes = asyncio.create_task(house.shop.push(phone.token, "crosses", ttl=3600))
        assert (await got.get()).title == "crosses"
        assert not change.done()
        commits.set()
        await house.shop.reaches(await pushes, "acked")
        await change
