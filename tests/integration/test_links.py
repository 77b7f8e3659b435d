"""Two links for one device, links whose peer is gone or does not read, many that come and go, and the drain."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from bare_device import BareDevice, check_error, close_all
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.errors import ConfigError, Draining, HeartbeatTimeout, SlowConsumer, Takeover
from gateway.model.frames import FrameType

Open = Callable[..., Any]
BODY = "x" * 30_000


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def twin_of(house: House, device: BareDevice) -> BareDevice:
    """The same device on a second link."""
    twin = house.device()
    twin.device, twin.secret = device.device, device.secret
    return twin


# --- takeover


async def test_the_newer_link_takes_over_and_gets_what_is_pending_once(house: House) -> None:
    old = house.device()
    token = await old.join()
    pushes = [await house.shop.push(token, f"n{i}") for i in range(5)]
    first = await old.notes(5)
    new = twin_of(house, old)
    await new.login()
    await old.sent_away(Takeover)
    assert await new.register() == token
    notes = await new.notes(5, ack=True)
    assert [n["title"] for n in notes] == [f"n{i}" for i in range(5)]
    assert [n["id"] for n in notes] == [n["id"] for n in first]
    for push in pushes:
        await house.shop.reaches(push, "acked")
    await new.sync()
    assert not new.waiting()
    assert house.sessions == 1


async def test_acks_and_requests_of_a_link_taken_over_change_nothing(house: House) -> None:
    old = house.device()
    token = await old.join()
    new = twin_of(house, old)
    await new.connect()
    # the old link's frames are on their way while the new one logs in
    old.send(FrameType.REGISTER, {"req": 1, "app": "shop", "version": "9.9"})
    new.send(FrameType.HELLO, new.hello())
    old.send(FrameType.UNREGISTER, {"req": 2, "token": token})
    old.send(FrameType.STATE, {"req": 3, "urgency": 3})
    await new.receive(FrameType.WELCOME)
    await old.end()
    assert await new.register() == token
    await house.shop.push(token, "new", urgency="very-low")
    assert (await new.note())["title"] == "new"


async def test_a_storm_of_takeovers_leaves_one_link_that_works(open_house: Open) -> None:
    house = await open_house({"edge.device_logins_per_minute": 0})
    device = house.device()
    token = await device.join()
    push = await house.shop.push(token, "kept")
    links = [twin_of(house, device) for _ in range(40)]
    for link in links:
        await link.connect()
    for link in links:
        link.send(FrameType.HELLO, link.hello())
        link.send(FrameType.REGISTER, {"req": 1, "app": "shop", "version": "1.0"})
    await until(lambda: sum(not link.closed for link in links) == 1 and house.counter("links") == 1)
    (last,) = [link for link in links if not link.closed]
    await last.note(ack=True)
    await house.shop.reaches(push, "acked")
    assert house.sessions == 1
    assert house.counter("inflight") == 0


# --- half-open and silent


async def test_a_peer_that_vanished_without_a_word_is_ended_by_the_heartbeat_threshold(
    open_house: Open, endpoint: Any
) -> None:
    """B1: its last sign of life is what counts; a ping keeps the other one."""
    house = await open_house(
        {"edge.heartbeat_min_s": 1},
        apps={"shop": {"fallback": ["webhook"], "notifiers": {"webhook": {"url": "", "secret": ""}}}},
    )
    quiet, lively = house.device(), house.device()
    token = await quiet.join(heartbeat=1)
    await lively.join(heartbeat=1)

    async def ping() -> None:
        while not quiet.closed:
            lively.send(FrameType.PING)
            await lively.receive(FrameType.PONG)
            await asyncio.sleep(0.2)

    pinging = asyncio.create_task(ping())
    await quiet.sent_away(HeartbeatTimeout)
    await pinging
    assert house.ended("heartbeat_timeout") == 1
    assert not await house.shop.is_connected(token)
    await lively.sync()


# --- a peer that does not read


async def test_who_never_reads_is_cut_off_and_everything_comes_after_the_reconnect_in_order(open_house: Open) -> None:
    house = await open_house(
        {
            "edge.outbox_bytes": 65_536,
            "edge.slow_timeout_s": 0.3,
            "edge.window": 1024,
            "delivery.ack_ms": 60_000,
            "delivery.inline_bytes": 32_768,
        }
    )
    device = house.device()
    token = await device.join()
    await close_all(device)
    await device.connect(receive_buffer=4_096)
    await device.login()
    await device.register()
    device.transport.pause_reading()
    pushes = await house.shop.push_many(
        [{"target": {"token": token}, "title": f"{i}", "data": BODY} for i in range(300)]
    )
    await until(lambda: house.ended("slow_consumer") == 1)
    assert house.value(Metric.SPILLED, "outbox") > 0
    assert house.counter("stalled") > 0
    # it reads at last: what the kernel still holds, perhaps the reason, then the end
    device.transport.resume_reading()
    frames = await device.end()
    if not device.reset and frames and frames[-1].kind == FrameType.GOAWAY:
        check_error(frames[-1].body, SlowConsumer)
    await device.join()
    notes = await device.notes(300, ack=True)
    assert [int(n["title"]) for n in notes] == list(range(300))
    await device.sync()
    assert not device.waiting()
    await house.shop.reaches(pushes[-1], "acked")
    assert house.gateway.store.journal.pending_count() == 0


async def test_a_slow_reader_that_goes_on_reading_is_not_cut_off(open_house: Open) -> None:
    house = await open_house(
        {
            "edge.outbox_bytes": 65_536,
            "edge.slow_timeout_s": 1.0,
            "edge.window": 1024,
            "delivery.ack_ms": 60_000,
            "delivery.inline_bytes": 32_768,
        }
    )
    device = await house.device().connect(receive_buffer=131_072)
    token = await device.join()
    device.transport.pause_reading()
    await house.shop.push_many([{"target": {"token": token}, "title": f"{i}", "data": BODY} for i in range(300)])
    await until(lambda: house.counter("stalled"))
    for i in range(300):
        if i % 20 == 0:  # 1.5 s in all
            device.transport.pause_reading()
            await asyncio.sleep(0.1)
            device.transport.resume_reading()
        assert (await device.note(ack=True))["title"] == str(i)
    assert house.ended("slow_consumer") == 0
    assert house.value(Metric.SPILLED, "outbox") > 0


# --- the drain


async def test_a_drain_sends_everyone_away_spread_over_the_time_and_loses_nothing(open_house: Open) -> None:
    house = await open_house({"edge.drain_s": 0.3})
    devices = [house.device() for _ in range(30)]
    tokens = [await device.join() for device in devices]
    waiting = await house.device().connect()  # not logged in
    push = await house.shop.push(tokens[0], "kept")
    await devices[0].note()
    told: set[int] = set()  # how many had been told, each time somebody looked

    async def watch() -> None:
        while len(told) < 5 or max(told) < len(devices):
            told.add(sum(bool(device.waiting(FrameType.GOAWAY)) for device in devices))
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    await house.gateway.drain()
    await asyncio.wait_for(watching, 10)
    for device in (*devices, waiting):
        body = await device.sent_away(Draining)
        assert body["jitter_ms"] >= 300
    with pytest.raises(ConnectionRefusedError):
        await house.device().connect()
    await house.is_empty()
    await house.restart()
    await devices[0].join()
    await devices[0].note(ack=True)
    await house.shop.reaches(push, "acked")


# --- other listeners


async def test_the_door_opens_on_ipv6_or_says_that_it_can_not(open_house: Open) -> None:
    if not has_ipv6():
        with pytest.raises(ConfigError, match="::1"):
            await open_house({"edge.host": "::1"})
        return
    house = await open_house({"edge.host": "::1"})
    device = house.device("::1")
    token = await device.join()
    push = await house.shop.push(token, "six")
    await device.note(ack=True)
    await house.shop.reaches(push, "acked")
