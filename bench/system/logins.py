"""P3: logins a second of returning devices (HELLO verified, token answered) ÷ what the floor takes of the same client.

The floor makes the same system calls (accept4, epoll_ctl, recv, send) and answers fixed bytes to what comes first, so
client and kernel do the same work for both.
"""

from __future__ import annotations

from statistics import median

from bench.system.figures import Measured, Run
from bench.system.floor_door import FloorDoor
from bench.system.stage import Stage, open_files, reactors_for
from bench.system.swarm_client import Swarm

FULL, QUICK = 40_000, 15_000
ROUNDS = 3


async def take(run: Run) -> Measured:
    limit = open_files()
    n = min(run.size(FULL, QUICK), int(limit * 0.9))
    run.say(f"{n:,} logins at the floor")
    async with FloorDoor() as floor, Swarm(port=floor.port, devices=n) as swarm:
        _, floor_rate, floor_each = await _rates(swarm, n, run)
    run.say(f"{n:,} logins at the gateway")
    async with (
        Stage(f"edge.reactors={reactors_for(n, limit)}") as stage,
        Swarm(port=stage.device_port, key=stage.key, devices=n) as swarm,
    ):
        first, rate, each = await _rates(swarm, n, run)
    return Measured(
        value=rate,
        unit="logins/s",
        n=n,
        floor=floor_rate,
        ratio=rate / floor_rate,
        note=f"returning devices, median of {ROUNDS}; first registrations, durable: {first:,.0f}/s",
        more={"first_logins_per_s": first, "rounds": each, "floor_rounds": floor_each},
    )


async def _rates(swarm: Swarm, n: int, run: Run) -> tuple[float, float, list[float]]:
    """Of first connects, of returning devices, and each round of these."""
    first = (await swarm.connect(n))["per_s"]
    rates = []
    for number in range(ROUNDS):
        await swarm.do("drop", count=n)
        rates.append((await swarm.reconnect(n))["per_s"])
        run.say(f"round {number + 1} of {ROUNDS}: {rates[-1]:,.0f}/s")
    return first, median(rates), rates
