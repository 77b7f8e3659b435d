"""The in-flight window and what waits behind it: in order, each once, and never forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bare_device import close_all
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.frames import FrameType

Open = Callable[..., Any]


async def test_500_pushes_through_a_window_of_4_come_in_order_each_once(house: House) -> None:
    device = house.device()
    token = await device.join(window=4)
    await house.shop.push_many([{"target": {"token": token}, "title": f"{i}"} for i in range(500)])
    unacked: list[int] = []
    for i in range(500):
        note = await device.note()
        assert int(note["title"]) == i
        unacked.append(note["id"])
        assert len(unacked) <= 4
        if len(unacked) == 4 or i % 3 == 0:
            device.ack(*unacked)
            unacked = []
    device.ack(*unacked)
    await until(lambda: house.gateway.store.journal.pending_count() == 0)
    assert not device.waiting()
    assert house.value(Metric.SPILLED, "window") > 0


async def test_pushes_that_come_while_others_wait_do_not_overtake_them(house: House) -> None:
    """Each push of its own while the device acks as fast as it can: every race of window, spill and READY."""
    device = house.device()
    token = await device.join(window=2)
    total = 300
    order: list[int] = []

    async def read() -> None:
        while len(order) < total:
            order.append(int((await device.note(ack=True))["title"]))

    reading = asyncio.create_task(read())
    for start in range(0, total, 6):
        await asyncio.gather(
            house.shop.push_many([{"target": {"token": token}, "title": f"{start + i}"} for i in range(6)])
        )
    await reading
    assert order == list(range(total))
    await until(lambda: house.gateway.store.journal.pending_count() == 0)
    assert not device.waiting()


async def test_all_that_waits_goes_though_acks_come_while_it_is_sent(open_house: Open) -> None:
    """What fits by chance must not leave the rest waiting for a READY that nobody says."""
    house = await open_house({"edge.window": 3, "delivery.retry_ms": 3_600_000})
    device = house.device()
    for _ in range(15):
        token = await device.join()
        await close_all(device)
        await house.shop.push_many([{"target": {"token": token}, "title": f"{i}"} for i in range(40)])
        await device.join()
        notes = await device.notes(40, ack=True)
        assert [int(n["title"]) for n in notes] == list(range(40))
        await device.sync()
        await close_all(device)
    assert house.gateway.store.journal.pending_count() == 0


async def test_registrations_of_one_link_share_its_window_and_all_get_theirs(house: House) -> None:
    device = house.device()
    await device.login(window=3)
    tokens = [await device.register(account=f"a{i}", keep=True) for i in range(5)]
    await house.shop.push_many([{"target": {"token": token}, "title": f"{i}"} for i in range(20) for token in tokens])
    got: dict[str, list[int]] = {token: [] for token in tokens}
    for _ in range(100):
        note = await device.note(ack=True)
        got[note["token"]].append(int(note["title"]))
    assert all(numbers == list(range(20)) for numbers in got.values())


async def test_broadcasts_and_pushes_wait_together_and_come_in_the_order_of_their_acceptance(house: House) -> None:
    device = house.device()
    token = await device.join(window=2)
    await close_all(device)
    for i in range(30):
        await house.shop.push({"everyone": True} if i % 3 else token, f"{i}")
    await device.join(window=2)
    notes = await device.notes(30, ack=True)
    assert [int(n["title"]) for n in notes] == list(range(30))
    await device.sync()
    assert not device.waiting()


async def test_unacked_broadcasts_hold_nobody_up(house: House) -> None:
    """Two broadcasts in flight and nothing acked: what waits behind the window stays calm, then goes."""
    device = house.device()
    token = await device.join(window=4)
    for i in range(2):
        await house.shop.push({"everyone": True}, f"b{i}")
    broadcasts = await device.notes(2)
    await house.shop.push_many([{"target": {"token": token}, "title": f"{i}"} for i in range(10)])
    first = await device.notes(2)
    assert [n["title"] for n in first] == ["0", "1"]
    await device.sync()
    turns = house.value(Metric.EVENTS_IGNORED, "back")
    notified = house.counter("notified")
    await device.sync()
    await device.sync()
    assert house.counter("notified") == notified
    assert house.value(Metric.EVENTS_IGNORED, "back") == turns
    device.ack(*[n["id"] for n in first])
    rest = await device.notes(8, ack=True)
    assert [n["title"] for n in rest] == [f"{i}" for i in range(2, 10)]
    device.ack(*[n["id"] for n in broadcasts])
    await until(lambda: house.counter("inflight") == 0)


async def test_a_frame_larger_than_the_whole_outbox_goes_and_nothing_spins(open_house: Open) -> None:
    house = await open_house({"edge.outbox_bytes": 1024, "delivery.inline_bytes": 32_768})
    device = house.device()
    token = await device.join()
    await house.shop.push_many([{"target": {"token": token}, "title": f"{i}", "data": "x" * 20_000} for i in range(50)])
    assert [int(n["title"]) for n in await device.notes(50, ack=True)] == list(range(50))
    await until(lambda: house.gateway.store.journal.pending_count() == 0)
    assert house.value(Metric.SPILLED, "outbox") < 5_000


async def test_acks_of_a_whole_window_at_once_and_of_ids_never_sent_change_only_what_is_theirs(house: House) -> None:
    device, other = house.device(), house.device()
    token, theirs = await device.join(), await other.join()
    mine = [await house.shop.push(token, f"{i}") for i in range(20)]
    foreign = [await house.shop.push(theirs, f"{i}") for i in range(5)]
    ids = [n["id"] for n in await device.notes(20)]
    foreign_ids = [n["id"] for n in await other.notes(5)]
    odd = [0, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    device.ack(*foreign_ids, *odd)
    device.shown(*foreign_ids, *odd)
    await device.sync()
    for push in foreign:
        assert (await house.shop.delivery(push))["state"] == "sent"
        assert "shown" not in await house.shop.steps(push)
    device.ack(*ids, *ids, *odd)
    for push in mine:
        await house.shop.reaches(push, "acked")
    assert house.counter("inflight") == 5
    other.ack(*foreign_ids)
    for push in foreign:
        await house.shop.reaches(push, "acked")
    # and the door still works for both
    for device_, token_ in ((device, token), (other, theirs)):
        push = await house.shop.push(token_, "last")
        await device_.note(ack=True)
        await house.shop.reaches(push, "acked")
    assert house.value(Metric.FRAMES_MALFORMED, "malformed_frame") == 0
    assert FrameType.ERROR not in {frame.kind for frame in (*device.frames, *other.frames)}
