"""D3: messages a second that a network brings, into the users' logs and out to their devices, beside as many plain
pushes by token in the same process. Both are durable before a device has them, and every device acks.

Messages come over as many connections as there are accounts, from an IRC server of ours in a process of its own; the
pushes are taken in by the gateway's own intake without a door, so the floor's work is that of a push alone.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

from bench.system.asked_process import AskedProcess
from bench.system.figures import Measured, Run
from bench.system.im_gateway import ImGateway
from bench.system.im_network import IrcNetwork
from bench.system.stage import BenchFailed, cpu_seconds, open_files
from bench.system.swarm_client import Swarm

FULL, QUICK = 1_000, 200
EACH, QUICK_EACH = 100, 25
#: of the highest rate, for the latencies: messages come one by one then, and each is a commit's own
SHARE = 0.25
LOGIN_MS = 0
STILL_S = 20.0
LOOK_S = 0.05


class Flow(NamedTuple):
    per_s: float
    #: of the gateway's process, µs each
    cpu_us: float
    p50_ms: float
    p99_ms: float
    lost: int


async def take(run: Run) -> Measured:
    n = run.size(FULL, QUICK)
    return await measure(n, n * run.size(EACH, QUICK_EACH), run, run.size(10, 3))


async def measure(n: int, count: int, run: Run, paced_s: float) -> Measured:
    # devices are in the reactors' own tables
    if open_files() < n + 500:
        raise BenchFailed(f"{n:,} accounts need as many open files; raise the limit (ulimit -n)")
    pace = ("im.connects_per_s=100000", "im.connects_at_once=1000")
    async with (
        IrcNetwork(LOGIN_MS) as network,
        ImGateway(*pace) as gateway,
        Swarm(port=gateway.port, devices=n) as swarm,
    ):
        await swarm.connect(n)
        await swarm.do("drop", count=n)
        await gateway.settle(**network.form)
        await swarm.reconnect(n)
        await gateway.wait_until_connected(n, STILL_S)
        bench = _Bench(gateway, swarm)
        run.say(f"{count:,} plain pushes to {n:,} devices")
        floor = await bench.flow(gateway, "push", count, 0)
        run.say(f"{count:,} messages from {n:,} accounts")
        ours = await bench.flow(network, "say", count, 0)
        rate = ours.per_s * SHARE
        run.say(f"both at {rate:,.0f}/s")
        floor_paced = await bench.flow(gateway, "push", int(rate * paced_s), rate)
        paced = await bench.flow(network, "say", int(rate * paced_s), rate)
    lost = ours.lost + floor.lost + paced.lost + floor_paced.lost
    return Measured(
        value=ours.per_s,
        unit="messages/s",
        n=n,
        floor=floor.per_s,
        ratio=ours.per_s / floor.per_s,
        note=f"CPU of the gateway {ours.cpu_us:.0f} µs a message, {floor.cpu_us:.0f} a plain push; one by one at "
        f"{rate:,.0f}/s {paced.cpu_us:.0f} and {floor_paced.cpu_us:.0f}, p50 {paced.p50_ms:.1f} ms and p99 "
        f"{paced.p99_ms:.1f}, plain pushes {floor_paced.p50_ms:.1f} and {floor_paced.p99_ms:.1f}",
        more={
            "cpu_ratio": floor.cpu_us / ours.cpu_us,
            "lost": lost,
            "rate": rate,
            "p50_ms": paced.p50_ms,
            "p99_ms": paced.p99_ms,
            "paced_cpu_ratio": floor_paced.cpu_us / paced.cpu_us,
            "floor_p50_ms": floor_paced.p50_ms,
            "floor_p99_ms": floor_paced.p99_ms,
            "messages": count,
        },
    )


class _Bench:
    def __init__(self, gateway: ImGateway, swarm: Swarm) -> None:
        self._gateway = gateway
        self._swarm = swarm

    async def flow(self, source: AskedProcess, what: str, count: int, rate: float) -> Flow:
        """So many from there, until the devices have them all."""
        before = (await self._swarm.do("idle", seconds=0), await self._swarm.do("stats"))[1]["notified"]
        cpu_s = cpu_seconds(self._gateway.pid)
        asked = asyncio.create_task(source.ask(what, count=count, rate=rate, wait_s=300.0))
        seen, ended_s = await self._watch(before + count)
        told = await asked
        cpu_s = cpu_seconds(self._gateway.pid) - cpu_s
        delivery = seen["delivery_ms"]
        got = seen["notified"] - before
        return Flow(
            got / (ended_s - told["began_s"]),
            cpu_s / count * 1e6,
            delivery["p50"],
            delivery["p99"],
            count - got,
        )

    async def _watch(self, wanted: int) -> tuple[dict[str, Any], float]:
        """(the swarm's figures, the moment at which the last of them came)"""
        last, moved = -1, time.monotonic()
        while True:
            seen = await self._swarm.do("stats")
            now = time.monotonic()
            if seen["notified"] != last:
                last, moved = seen["notified"], now
            if last >= wanted or now - moved > STILL_S:
                return seen, moved
            await asyncio.sleep(LOOK_S)
