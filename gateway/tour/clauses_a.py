"""A1–A6, message tokens: one function a clause; returns what came out, raises Failed where it is not what was said."""

from __future__ import annotations

import asyncio
import time

from gateway.model.frames import FrameType
from gateway.tour.bare import BareDevice
from gateway.tour.fleet import Fleet
from gateway.tour.stage import Stage, check


async def a1(stage: Stage, _fleet: Fleet) -> str:
    first, other = BareDevice(stage.device_port), BareDevice(stage.device_port)
    token = await first.connect("ann")
    other_account = await first.register("ben", keep=True)
    await first.close()
    again = await first.connect("ann")
    other_device = await other.connect("ann")
    await first.close()
    await other.close()
    check(again == token, "the same device, app and account got another token after it came back")
    check(len({token, other_account, other_device}) == 3, "another account or another device got the same token")
    return "same triple: same token after a reconnect; other account, other device: other tokens"


async def a2(stage: Stage, fleet: Fleet) -> str:
    member = fleet.pick()
    by_token = await stage.push({"token": member.token}, "a2 token", data={"order": 17})
    await fleet.got("a2 token", lambda m: m is member)
    await stage.push({"alias": member.alias}, "a2 alias")
    await fleet.got("a2 alias", lambda m: m is member)
    await stage.push({"tag": member.tag}, "a2 tag")
    tagged = await fleet.got("a2 tag", lambda m: m.tag == member.tag)
    record = await stage.state_of(by_token, "acked")
    sleeper = BareDevice(stage.device_port)
    token = await sleeper.connect("sleeper")
    await sleeper.close()
    await stage.disconnected(token)
    saved = await stage.push({"token": token}, "a2 saved", fallback=[])
    await sleeper.connect("sleeper")
    sleeper.ack(await sleeper.titled("a2 saved"))
    await stage.state_of(saved, "acked")
    await sleeper.close()
    took = record["deliveries"][0]["at_ms"] - record["accepted_at_ms"]
    return f"token (acked after {took} ms), alias, tag ({tagged} devices); saved while off line, came when back"


async def a3(stage: Stage, fleet: Fleet) -> str:
    push = await stage.push({"versions": ">=1.5,<3"}, "a3 range")
    reached = await fleet.got("a3 range", lambda m: m.version in ("1.5", "2.0", "2.3"))
    late, wrong = BareDevice(stage.device_port), BareDevice(stage.device_port)
    await late.connect("late", version="2.2")
    late.ack(await late.titled("a3 range"))
    await wrong.connect("wrong", version="3.1")
    check(await wrong.nothing_comes(0.3), "a device of another version got it")
    await late.close()
    await wrong.close()
    check((await stage.look(push))["deliveries"] == [], "it was stored for each device, not once")
    everyone = await stage.push({"everyone": True}, "a3 everyone", ttl=30)
    all_of_them = await fleet.got("a3 everyone", lambda _: True)
    await stage.recall(everyone)  # so that devices of later clauses don't get it
    return f"stored once; {reached} devices in >=1.5,<3 and one that joined later; everyone: {all_of_them}"


async def a4(stage: Stage, _fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    token = await device.connect("asker", version="9.1", urgency=3)  # urgent ones only, so that it has to ask
    await stage.push({"token": token}, "a4 token", data=1)
    await stage.push({"versions": "==9.1"}, "a4 version", data=2)
    check(await device.nothing_comes(0.3), "it came without being asked for, below the device's urgency")
    titles = sorted(note.title for note in await device.fetch(token))
    again = await device.fetch(token)
    await device.close()
    check(titles == ["a4 token", "a4 version"], f"asked with the token, {titles} came")
    check(not again, f"asked again, {len(again)} came a second time")
    return "asked with its token: what was saved for the token and for app and version, each once"


async def a5(stage: Stage, _fleet: Fleet) -> str:
    device = BareDevice(stage.device_port)
    ann = await device.connect("ann", version="8.0")
    ben = await device.register("ben", version="8.0")
    await stage.push({"token": ann}, "a5 for ann")
    await stage.push({"token": ben}, "a5 for ben")
    got = await device.notification()
    device.ack(got)
    check(got.title == "a5 for ben", f"ben's device got {got.title!r}")
    check(await device.nothing_comes(0.4), "something for ann reached ben")
    check(not stage.endpoint.has("a5 for ann"), "the notifier was asked to show ann's message on ben's device")
    await device.register("ann", version="8.0")
    got = await device.notification()
    device.ack(got)
    await device.close()
    check(got.title == "a5 for ann" and got.token == ann, f"back at ann, {got.title!r} came")
    return "only the new account's came, the old one's by no channel; it came after switching back"


async def a6(stage: Stage, fleet: Fleet) -> str:
    member = fleet.pick()
    counters = member.device.counters
    links = counters.links
    began = time.perf_counter()
    member.device.cut()  # what a NAT does, without a word
    async with asyncio.timeout(20):
        while counters.links == links:  # noqa: ASYNC110 - the SDK counts, it has no event for this
            await asyncio.sleep(0.005)
    back_ms = (time.perf_counter() - began) * 1000
    await stage.push({"token": member.token}, "a6 back")
    await fleet.got("a6 back", lambda m: m is member)
    bare = BareDevice(stage.device_port)
    await bare.connect("pinger")
    bare.send(FrameType.PING)
    await bare.receive(FrameType.PONG)
    agreed = await bare.ask_heartbeat(200)
    check(agreed == 200, f"asked for a heartbeat of 200 s, the gateway agreed to {agreed} s")
    await bare.close()
    return f"no certificate: secret issued at login; cut, back by itself in {back_ms:.0f} ms; heartbeat 60 → {agreed} s"


CLAUSES = {
    "A1": ("a token for (device, app, account)", a1),
    "A2": ("save for a token, alias, tag; off line and back", a2),
    "A3": ("save once for app and version range; everyone", a3),
    "A4": ("ask with the token, get both, each once", a4),
    "A5": ("switch the account", a5),
    "A6": ("no certificate, keep-alive, cheap reconnection", a6),
}
