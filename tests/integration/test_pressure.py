"""More than the mailboxes hold, and thousands that come and go: nothing is lost, and memory comes back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from bare_device import BareDevice, pack
from open_house import until

from gateway.metrics import Metric
from gateway.model.frames import FrameType

Open = Callable[..., Any]


class BlockedLoop:
    """The control thread stands still while the peers' bytes go straight to the kernel."""

    def __init__(self, devices: list[BareDevice]) -> None:
        self._sockets = [device.transport.get_extra_info("socket") for device in devices]

    def send(self, i: int, raw: bytes) -> int:
        """As much as the kernel takes."""
        sock = socket.socket(fileno=self._sockets[i].fileno())
        try:
            return sock.send(raw, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        finally:
            sock.detach()


async def test_acks_that_fill_the_mailbox_wait_in_the_kernel_and_all_count(open_house: Open) -> None:
    house = await open_house({"edge.mailbox_bytes": 1, "edge.window": 1000, "delivery.ack_ms": 60_000})
    devices = [house.device() for _ in range(100)]
    await asyncio.gather(*(device.join() for device in devices))
    pushes = []
    for i in range(200):
        pushes.append(await house.shop.push({"everyone": True}, f"{i}"))
    for device in devices:
        await device.until(lambda device=device: len(device.waiting()) == 200, "200 broadcasts")
    ids = [note["id"] for note in devices[0].waiting()]
    assert house.counter("inflight") == 20_000
    # 20,000 acks that count, and far more that do not: over 4 MiB of events, and nobody takes them
    noise = pack(FrameType.ACK, [1 << 40] * 1000)
    acks = pack(FrameType.ACK, ids)
    blocked = BlockedLoop(devices)
    for i in range(len(devices)):
        assert blocked.send(i, noise + acks + noise) == len(noise + acks + noise)
    _stand_still_until(lambda: house.counter("mailbox_full") > 0)
    await until(lambda: house.counter("inflight") == 0)
    assert house.counter("late_acks") == 200_000
    for push in (pushes[0], pushes[100], pushes[199]):

        async def all_acked(push: str = push) -> bool:
            return (await house.shop.figures(push)).get("acked") == 100

        await until(all_acked)
    assert house.value(Metric.MAILBOX_FULL, "up") > 0
    for device in devices:
        await device.sync()


def _stand_still_until(probe: Callable[[], bool]) -> None:
    """Without a turn of the loop; the counters are the reactor's own."""
    for _ in range(50_000_000):
        if probe():
            return
    raise AssertionError("it never came")


#: a command of 1 MiB to nobody
TO_NOBODY = (list(range(1000, 1000 + (1 << 18))), b"\x02\x00", 1 << 40, 1)


async def test_commands_that_fill_the_mailbox_lose_no_broadcast_and_no_answer(open_house: Open) -> None:
    house = await open_house({"edge.mailbox_bytes": 1})
    device = house.device()
    token = await device.join()
    plane = house.gateway.edge.plane
    for _ in range(40):
        plane.insist(plane.reactors[0].fanout, *TO_NOBODY)
    push = await house.shop.push({"everyone": True}, "to all")
    single = await house.shop.push(token, "single")
    await device.ask(FrameType.STATE, foreground=True)
    assert house.value(Metric.MAILBOX_FULL, "down") >= 1
    got = {note["title"] for note in await device.notes(2, ack=True)}
    assert got == {"to all", "single"}
    await house.shop.reaches(single, "acked")

    async def acked() -> bool:
        return (await house.shop.figures(push)).get("acked") == 1

    await until(acked)


async def test_commands_given_to_a_full_mailbox_are_carried_out_in_their_order(open_house: Open) -> None:
    house = await open_house({"edge.mailbox_bytes": 1})
    device = house.device()
    await device.join()
    plane = house.gateway.edge.plane
    link = house.gateway.store.directory.registry.link(1)
    for _ in range(20):
        plane.insist(plane.reactors[0].fanout, *TO_NOBODY)
    for req in range(5):
        plane.insist(plane.reactors[0].send, link, pack(FrameType.DONE, {"req": req}))
    assert house.value(Metric.MAILBOX_FULL, "down") >= 1
    assert [(await device.receive(FrameType.DONE))["req"] for _ in range(5)] == list(range(5))


async def test_3000_devices_come_and_go_three_times_and_leave_nothing_behind(open_house: Open) -> None:
    house = await open_house({"edge.device_logins_per_minute": 0, "delivery.ack_ms": 60_000})
    reactor = house.gateway.edge.plane.reactors[0]
    registry = house.gateway.store.directory.registry
    devices = [house.device() for _ in range(3000)]
    memory: list[int] = []
    for round_ in range(3):
        for start in range(0, len(devices), 500):
            batch = devices[start : start + 500]
            await asyncio.gather(*(device.connect() for device in batch))
            for device in batch:
                device.send_raw(
                    pack(FrameType.HELLO, device.hello())
                    + pack(FrameType.REGISTER, {"req": 1, "app": "shop", "version": f"1.{round_}"})
                )
            await asyncio.gather(*(_joined(device) for device in batch))
        assert house.counter("links") == 3000
        assert house.sessions == 3000
        push = await house.shop.push({"everyone": True}, f"{round_}")
        await until(lambda: house.counter("inflight") == 3000)
        for device in devices[::2]:
            await device.until(lambda device=device: device.waiting(), "the broadcast")
            device.ack(device.waiting()[-1]["id"])
        await until(lambda: house.counter("inflight") == 1500)
        await house.shop.recall(push)
        await until(lambda: house.counter("inflight") == 0)
        for i, device in enumerate(devices):
            device.vanish() if i % 2 else device.close()
        await house.is_empty()
        memory.append(reactor.memory_bytes)
    assert house.value(Metric.LINKS) == 0
    assert house.value(Metric.INFLIGHT) == 0
    # groups of versions that are not used any more keep their place; nothing else may grow
    assert memory[1] - memory[0] <= 3000 * 16
    assert memory[2] - memory[1] <= 3000 * 16
    assert registry.sessions == 0


async def _joined(device: BareDevice) -> None:
    welcome = await device.receive(FrameType.WELCOME)
    device.device, device.secret = welcome["device"], welcome.get("secret") or device.secret
    await device.receive(FrameType.TOKEN)
