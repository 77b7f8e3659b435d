"""F, the gateway itself: what providers expect around A and B, and that a killed process loses nothing."""

from __future__ import annotations

import asyncio
import signal
import time

from gateway.model.frames import FrameType, parse_ids
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.stage import Stage, check


async def f1(stage: Stage, _fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    token = await device.connect("options")
    push = await stage.push({"token": token}, "f1 recalled", ack_ms=60_000)
    note = await device.titled("f1 recalled")
    await stage.recall(push)
    taken = parse_ids(await device.receive(FrameType.RECALL))
    check(taken == [note.id], "the device was not told to take it away")
    await stage.state_of(push, "recalled")
    await device.close()
    await stage.disconnected(token)
    short = await stage.push({"token": token}, "f1 expired", ttl=1, fallback=[])
    old = await stage.push({"token": token}, "f1 old", collapse_key="score", fallback=[])
    new = await stage.push({"token": token}, "f1 new", collapse_key="score", fallback=[])
    await stage.state_of(old, "replaced")
    await stage.state_of(short, "expired")
    await device.connect("options")
    note = await device.titled("f1 new")
    device.ack(note)
    await stage.state_of(new, "acked")
    await device.close()
    return "recalled on the device; expired after its TTL; a newer one with the same collapse key replaced the older"


async def f2(stage: Stage, fleet: Fleet) -> str:
    began = time.perf_counter()
    pushes = [{"target": {"token": member.token}, "title": "f2 batch"} for member in fleet.members]
    answer = await stage.call("POST", "/v1/push/batch", json=pushes)
    accepted = sum(1 for line in answer.text.splitlines() if '"status":201' in line)
    check(accepted == len(pushes), f"{accepted} of {len(pushes)} pushes of a batch were accepted")
    took = time.perf_counter() - began
    reached = await fleet.got("f2 batch", lambda _: True)
    return f"a batch of {accepted} pushes answered in {took:.2f} s (durable), {reached} devices got theirs"


async def f3(stage: Stage, fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    token = await device.connect("survivor")
    await device.close()
    await stage.disconnected(token)
    acked = fleet.pick()
    done = await stage.push({"token": acked.token}, "f3 acked")
    await stage.state_of(done, "acked")
    kept = [await stage.push({"token": token}, f"f3 kept {i}", fallback=[]) for i in range(20)]
    await stage.stop_gateway(signal.SIGKILL)
    began = time.monotonic()
    await stage.start_gateway()
    restart_s = time.monotonic() - began
    await device.connect("survivor")
    got: set[str] = set()
    while len(got) < len(kept):
        note = await device.notification()
        device.ack(note)
        got.add(note.title)
    await device.close()
    for push in kept:
        await stage.state_of(push, "acked")
    async with asyncio.timeout(60):
        while not await stage.is_connected(acked.token):  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.05)
    check(acked.titles["f3 acked"] == 1, "what was acked before the kill came again")
    return f"kill -9: {len(kept)} of {len(kept)} accepted pushes came after a restart of {restart_s:.1f} s, none twice"


CLAUSES = {
    "F1": ("recalled, expired, replaced", f1),
    "F2": ("a batch to every device", f2),
    "F3": ("kill -9, restart, nothing lost", f3),
}
