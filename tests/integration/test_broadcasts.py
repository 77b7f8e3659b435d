"""A3 on real links: stored once, to whoever is there, to whoever comes later, to nobody twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bare_device import BareDevice, close_all
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.frames import FrameType

Open = Callable[..., Any]


async def crowd(house: House, n: int, version: str = "1.0") -> list[BareDevice]:
    devices = [house.device() for _ in range(n)]
    await asyncio.gather(*(device.join(version=version) for device in devices))
    return devices


async def reached(house: House, push: str, **figures: int) -> None:
    async def probe() -> bool:
        have = await house.shop.figures(push)
        return {name: have.get(name, 0) for name in figures} == figures

    try:
        await until(probe)
    except AssertionError:
        raise AssertionError(f"{await house.shop.figures(push)}, not {figures}") from None


async def test_everyone_gets_a_broadcast_once_and_its_figures_say_so(house: House) -> None:
    devices = await crowd(house, 40)
    away = devices[:5]
    await close_all(*away)
    await until(lambda: house.counter("links") == 35)
    push = await house.shop.push({"everyone": True}, "to all")
    for device in devices[5:]:
        await device.note(ack=True)
    await reached(house, push, targeted=40, sent=35, acked=35)
    for device in away:
        await device.join()
        assert (await device.note(ack=True))["title"] == "to all"
    await reached(house, push, targeted=40, sent=40, acked=40)
    for device in devices:
        await device.sync()
        assert not device.waiting()


async def test_all_accounts_of_a_link_get_it_through_a_small_window_and_count_as_sent_once(open_house: Open) -> None:
    house = await open_house({"edge.window": 4, "delivery.ack_ms": 60_000})
    device = house.device()
    await device.login(window=4)
    tokens = [await device.register(account=f"a{n}", keep=True) for n in range(11)]
    for at in range(3):
        push = await house.shop.push({"everyone": True}, f"{at}")
        notes = await device.notes(4)
        device.ack(*(note["id"] for note in notes[:2]))  # there is room, and it is in flight to two
        await device.sync()
        device.ack(*(note["id"] for note in notes[2:]))
        notes += await device.notes(7, ack=True)
        assert [note["title"] for note in notes] == [f"{at}"] * 11
        await reached(house, push, targeted=len(tokens), sent=len(tokens), acked=len(tokens))
    await device.sync()
    assert not device.waiting()


async def test_a_range_of_versions_reaches_its_devices_only(house: House) -> None:
    groups = {version: await crowd(house, 5, version) for version in ("1.0", "1.9.3", "2.0b1", "2.0", "10.1")}
    await house.shop.push({"versions": ">=1.5,<2.1"}, "middle")
    await house.shop.push({"versions": "==10.*"}, "ten")
    got = {}
    for version, devices in groups.items():
        for device in devices:
            await device.sync()
        titles = {tuple(note["title"] for note in device.waiting()) for device in devices}
        assert len(titles) == 1
        got[version] = titles.pop()
    assert got == {"1.0": (), "1.9.3": ("middle",), "2.0b1": ("middle",), "2.0": ("middle",), "10.1": ("ten",)}


async def test_devices_that_join_and_leave_during_a_fan_out_get_it_once_all_the_same(house: House) -> None:
    devices = await crowd(house, 60)
    late = [house.device() for _ in range(20)]
    titles = [f"b{i}" for i in range(8)]

    async def come_and_go() -> None:
        for device in devices[::3]:
            await close_all(device)
            await device.join()

    async def arrive() -> None:
        for device in late:
            await device.join()

    going, arriving = asyncio.create_task(come_and_go()), asyncio.create_task(arrive())
    pushes = [await house.shop.push({"everyone": True}, title) for title in titles]
    await asyncio.gather(going, arriving)
    for device in (*devices, *late):
        seen: set[int] = set()
        while len(seen) < len(titles):
            seen.add((await device.note(ack=True))["id"])
    for push in pushes:
        await until(lambda push=push: _acked(house, push, 80))
    for device in (*devices, *late):
        await device.sync()
    await until(lambda: not house.counter("inflight"))


async def _acked(house: House, push: str, n: int) -> bool:
    return (await house.shop.figures(push)).get("acked", 0) == n


async def test_who_registers_later_gets_what_is_still_live(house: House) -> None:
    gone = await house.shop.push({"everyone": True}, "gone", ttl=0, ack_ms=50)
    live = await house.shop.push({"everyone": True}, "live")
    await until(lambda: _is(house, gone, "expired"))
    device = house.device()
    await device.join()
    assert (await device.note(ack=True))["title"] == "live"
    await reached(house, live, acked=1)
    await device.sync()
    assert not device.waiting()


async def _is(house: House, push: str, state: str) -> bool:
    return (await house.shop.look(push))["state"] == state


async def test_an_upgraded_device_gets_what_is_saved_for_its_new_version_and_nothing_twice(house: House) -> None:
    """A4."""
    device = house.device()
    await device.join(version="1.0")
    for versions in (">=1", ">=2", "<2"):
        await house.shop.push({"versions": versions}, versions)
    assert [n["title"] for n in await device.notes(2, ack=True)] == [">=1", "<2"]
    await device.sync()
    await device.register(version="2.0")
    assert (await device.note(ack=True))["title"] == ">=2"
    await device.register(version="1.0")
    await device.register(version="2.1")
    await device.sync()
    assert not device.waiting()
    await house.shop.push({"versions": "<2"}, "not for it")
    await house.shop.push({"versions": ">2"}, "for it")
    assert (await device.note(ack=True))["title"] == "for it"
    await device.sync()
    assert not device.waiting()


async def test_a_broadcast_in_flight_is_taken_back_from_everyone_and_waits_for_nobody(house: House) -> None:
    devices = await crowd(house, 10)
    push = await house.shop.push({"everyone": True}, "oops")
    ids = {(await device.note())["id"] for device in devices}
    devices[0].ack(*ids)
    await reached(house, push, acked=1)
    assert (await house.shop.recall(push))["recalled"] == 1
    for device in devices:
        assert set(await device.receive(FrameType.RECALL)) == ids
        device.ack(*ids)
        await device.sync()
    assert house.counter("inflight") == 0
    assert (await house.shop.look(push))["state"] == "recalled"
    late = house.device()
    await late.join()
    await late.sync()
    assert not late.waiting()
    assert (await house.shop.figures(push))["acked"] == 1


async def test_a_broadcast_nobody_acked_comes_again_after_a_restart(house: House) -> None:
    devices = await crowd(house, 4)
    push = await house.shop.push({"everyone": True}, "to all")
    notes = [await device.note() for device in devices]
    devices[0].ack(notes[0]["id"])
    await reached(house, push, acked=1)
    await house.restart()
    await asyncio.gather(*(device.join() for device in devices))
    for device in devices[1:]:
        assert (await device.note(ack=True))["id"] == notes[0]["id"]
    await reached(house, push, acked=4)
    await devices[0].sync()
    assert not devices[0].waiting()


async def test_accounts_side_by_side_on_one_link_each_count_for_a_broadcast(house: House) -> None:
    device = house.device()
    await device.login()
    for name in ("anna", "bert"):
        await device.register(account=name, keep=True)
    push = await house.shop.push({"everyone": True}, "to all")
    ids = {n["id"] for n in await device.notes(2, ack=True)}
    assert len(ids) == 1
    await reached(house, push, acked=2)
    assert house.value(Metric.INFLIGHT) == 0


async def test_an_ack_of_a_broadcast_that_was_never_for_the_device_counts_for_nobody(house: House) -> None:
    old, new = house.device(), house.device()
    await old.join(version="1.0")
    await new.join(version="2.0")
    push = await house.shop.push({"versions": ">=2"}, "new")
    note = await new.note()
    old.ack(note["id"])
    old.shown(note["id"])
    await old.sync()
    figures = await house.shop.figures(push)
    assert (figures.get("acked", 0), figures.get("shown", 0)) == (0, 0)
    new.shown(note["id"])
    await reached(house, push, acked=1, shown=1)
