"""B1–B7, channel first, then the notification server: one function a clause; raises Failed where it does not hold."""

from __future__ import annotations

import asyncio
import time

from gateway.client import AckPolicy, Device, MemoryCredentials, Notification, Tip
from gateway.model.frames import Fetch, FrameType, Goaway, Notify, parse_body
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.stage import APP, Stage, check

#: the default ack time, B3
ACK_S = 3.0


async def b1(stage: Stage, _fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    token = await device.connect("quiet", heartbeat=1)
    check(await stage.is_connected(token), "not connected right after login")
    for _ in range(5):  # 2 s, past the threshold of 1.5 s: the heartbeats keep it
        await asyncio.sleep(0.4)
        device.send(FrameType.PING)
        await device.receive(FrameType.PONG)
    began = time.monotonic()
    check(await stage.is_connected(token), "disconnected in spite of its heartbeats")
    goaway = parse_body(await device.receive(FrameType.GOAWAY), Goaway)
    silent = time.monotonic() - began
    await stage.disconnected(token)
    await device.close()
    check(goaway.name == "heartbeat_timeout", f"closed for {goaway.name}")
    return f"heartbeat every 1 s: connected; silent: disconnected after {silent:.1f} s (threshold 1.5 s)"


async def b2(stage: Stage, _fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    token = await device.connect("reader")
    light = await stage.push({"token": token}, "b2 light", data={"body": "long"}, body="on_demand")
    note = await device.titled("b2 light")
    check(note.more and not bytes(note.data), "the light notification brought the body along")
    device.ack(note)
    await stage.state_of(light, "announced")
    device.send(FrameType.FETCH, Fetch(req=7, token=token, ids=[note.id]))
    full = parse_body(await device.receive(FrameType.NOTIFY), Notify)
    check(full.id == note.id and bytes(full.data), "the body did not follow")
    device.ack(full)
    await stage.state_of(light, "acked")
    await stage.push({"token": token}, "b2 at once", data={"body": "short"}, body="at_once")
    note = await device.titled("b2 at once")
    device.ack(note)
    await device.close()
    check(bytes(note.data), "the body did not come at once where the push said so")
    return "light one first, body on the app's request; at once where the push says so"


async def b3(stage: Stage, _fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    token = await device.connect("deaf")
    push = await stage.push({"token": token}, "b3 unacked")
    await device.titled("b3 unacked")
    sent = time.monotonic()
    asked = await stage.endpoint.post_with("b3 unacked") - sent
    check(ACK_S * 0.9 < asked < ACK_S + 1.5, f"the notifier was asked after {asked:.2f} s, not {ACK_S:g} s")
    await stage.state_of(push, "notified")
    await device.close()
    return f"no ack: the notifier was asked after {asked:.2f} s, signed, with the content"


async def b4(stage: Stage, _fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    token = await device.connect("away")
    await device.close()
    await stage.disconnected(token)
    began = time.monotonic()
    push = await stage.push({"token": token}, "b4 away")
    asked = await stage.endpoint.post_with("b4 away") - began
    check(asked < ACK_S / 2, f"the notifier was asked only after {asked:.2f} s")
    steps = await stage.steps_of(push)
    check("sent" not in steps, f"it was sent on a channel that is not there: {steps}")
    return f"disconnected: the notifier was asked at once ({asked * 1000:.0f} ms)"


async def b5(stage: Stage, _fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    token = await device.connect("slow")
    push = await stage.push({"token": token}, "b5 recheck", ack_ms=300, notifier_ack_ms=700)
    first = await device.titled("b5 recheck")
    await stage.endpoint.post_with("b5 recheck")
    second = await device.titled("b5 recheck")
    device.ack(second)
    await stage.state_of(push, "acked")
    steps = await stage.steps_of(push)
    await device.close()
    check(first.id == second.id, "the second one has another id, so a device would show it twice")
    check("recheck" in steps, f"no recheck in its history: {steps}")
    return f"history: {' → '.join(steps)}"


async def b6(stage: Stage, _fleet: Fleet) -> str:
    tips: asyncio.Queue[Tip] = asyncio.Queue()
    messages: asyncio.Queue[Notification] = asyncio.Queue()
    async with Device("127.0.0.1", stage.device_port, store=MemoryCredentials(), label="b6") as device:
        app = await device.register(
            APP,
            "1.0",
            account="viewer",
            foreground=False,
            ack=AckPolicy.DISPLAY,
            on_tip=tips.put_nowait,
            on_message=messages.put_nowait,
        )
        push = await stage.push({"token": app.token}, "b6 back", ack_ms=60_000, data="hidden")
        tip = await asyncio.wait_for(tips.get(), 10)
        check(tip.title == "b6 back" and messages.empty(), "in the background the message was shown, not a tip")
        await asyncio.sleep(0.2)
        check("acked" not in await stage.steps_of(push), "it was acked although nothing was shown")
        tip.shown()
        device.set_foreground(APP, True)
        await stage.state_of(push, "acked")
        while not messages.empty():
            messages.get_nowait()
        push = await stage.push({"token": app.token}, "b6 front")
        message = await asyncio.wait_for(messages.get(), 10)
        check(message.title == "b6 front" and tips.empty(), "in the foreground a tip popped up")
        message.shown()
        await stage.state_of(push, "acked")
        steps = await stage.steps_of(push)
        check("shown" in steps, f"no 'shown' in its history: {steps}")
    return "background: a tip; foreground: the message, no tip; acked only when shown"


async def b7(stage: Stage, _fleet: Fleet) -> str:
    messages: asyncio.Queue[Notification] = asyncio.Queue()
    async with Device("127.0.0.1", stage.device_port, store=MemoryCredentials(), label="b7") as device:
        app = await device.register(APP, "1.0", account="origin", on_message=messages.put_nowait)
        await stage.push({"token": app.token}, "b7 ours")
        message = await asyncio.wait_for(messages.get(), 10)
    check(message.channel == "edge", f"its channel reads {message.channel!r}")
    return "what comes over the device's authenticated connection carries the channel 'edge'"


CLAUSES = {
    "B1": ("channel state from heartbeats inside a threshold", b1),
    "B2": ("connected: a light one, the body on request", b2),
    "B3": (f"no ack in {ACK_S:g} s: the notifier", b3),
    "B4": ("disconnected: the notifier at once", b4),
    "B5": ("notifier unacked: look at the channel again", b5),
    "B6": ("tip in the background, message in the foreground", b6),
    "B7": ("the device knows it is its gateway's", b7),
}
