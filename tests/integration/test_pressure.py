"""More than the mailboxes hold, and thousands that come and go: nothing is lost, and memory comes back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from bare_device import BareDevice, pack
from open_house import until

from gateway.app import unix_ms
from gateway.delivery.accept import Acceptor
from gateway.delivery.request import PushRequest, TargetRequest
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
    await until(lambda: house.counter("late_acks") == 200_000)
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


async def test_a_full_mailbox_of_commands_loses_no_push_no_broadcast_and_no_answer(open_house: Open) -> None:
    house = await open_house({"edge.mailbox_bytes": 1})
    device = house.device()
    token = await device.join()
    gateway = house.gateway
    plane, reactor = gateway.edge.plane, gateway.edge.plane.reactors[0]
    link = gateway.store.directory.registry.link(1)
    acceptor = Acceptor(
        directory=gateway.store.directory,
        journal=gateway.store.journal,
        schedules=gateway.store.schedules,
        dispatcher=gateway.dispatcher,
        config=gateway.config,
        metrics=gateway.metrics,
    )
    app = gateway.store.directory.app("shop")
    # In one turn of the loop: events nobody takes stop the reads, then what is said to commands stops those as well.
    blocked = BlockedLoop([device])
    rest = b""

    def pour() -> bool:
        """True: neither the reactor nor the kernel takes more."""
        nonlocal rest
        rest = rest or pack(FrameType.ACK, [1 << 40] * 1000)
        taken = blocked.send(0, rest)
        rest = rest[taken:]
        return not taken and house.counter("mailbox_full") > 0

    _stand_still_until(pour)
    refused = 0

    def fill() -> bool:
        """True: the mailbox is full, and stays so."""
        nonlocal refused
        refused = 0 if reactor.echo(link) else refused + 1
        return refused == 200_000

    _stand_still_until(fill)
    now = unix_ms()
    plane.insist(reactor.send, link, pack(FrameType.DONE, {"req": 1}))
    accepted = [
        acceptor.push(app, PushRequest(target=TargetRequest(token=token), title="single"), now),
        acceptor.push(app, PushRequest(target=TargetRequest(everyone=True), title="to all"), now),
    ]
    plane.insist(reactor.send, link, pack(FrameType.DONE, {"req": 2}))
    assert house.value(Metric.MAILBOX_FULL, "down") >= 2
    device.send_raw(rest)
    for push in accepted:
        await push.done
    await device.sync()
    assert [done["req"] for done in device.waiting(FrameType.DONE)] == [1, 2]
    notes = await device.notes(2, ack=True)
    assert {note["title"] for note in notes} == {"single", "to all"}
    await until(lambda: not gateway.store.journal.pending_count() and not house.counter("inflight"))
    await device.sync()
    assert not device.waiting()


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
