"""P1: user-space bytes of the gateway for an idle, logged-in device with one registration, index included.

Reads the private memory of an empty gateway; has all devices register once; restarts the gateway on that store, so that
it holds what a running one does; has all devices come back over real TCP (HELLO and REGISTER, then silence), and reads
its memory again. Kernel memory of the sockets is not in it. Few devices read higher, for what is taken in blocks is
spread over them.
"""

from __future__ import annotations

import asyncio
import signal

from bench.system.figures import Measured, Run
from bench.system.stage import Stage, open_files, private_bytes, reactors_for
from bench.system.swarm_client import Swarm

FULL, QUICK = 56_000, 28_000
HEARTBEAT_S = 240
#: for commits and answers under way
SETTLE_S = 3.0


async def take(run: Run) -> Measured:
    return await measure(run.size(FULL, QUICK), run)


async def measure(n: int, run: Run) -> Measured:
    reactors = reactors_for(n, open_files())
    async with Stage(f"edge.reactors={reactors}") as stage:
        empty = private_bytes(stage.pid)
        async with Swarm(port=stage.device_port, key=stage.key, heartbeat=HEARTBEAT_S, devices=n) as swarm:
            run.say(f"{n:,} devices register")
            first = await swarm.connect(n)
            await swarm.do("drop", count=n)
            await stage.stop_gateway(signal.SIGTERM)
            await stage.start_gateway()
            run.say("the gateway was restarted; they come back")
            again = await swarm.reconnect(n)
            await asyncio.sleep(SETTLE_S)
            full = private_bytes(stage.pid)
        await stage.stop_gateway(signal.SIGTERM)
    return Measured(
        value=(full - empty) / n,
        unit="bytes",
        n=n,
        note=f"{reactors} reactor(s); process {empty / 1e6:.1f} MB empty, {full / 1e6:.1f} MB with them",
        more={
            "process_empty_bytes": empty,
            "process_full_bytes": full,
            "reactors": reactors,
            "first_logins_per_s": first["per_s"],
            "logins_per_s": again["per_s"],
        },
    )
