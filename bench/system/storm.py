"""P11: all devices of a fleet drop and come back at once: how long until all are there again ÷ how long the first
connect took; and the heartbeats of others meanwhile, and pushes to others, none of which may be lost.
"""

from __future__ import annotations

import asyncio

from bench.system.figures import Measured, Run
from bench.system.stage import Stage, open_files, private_bytes, reactors_for
from bench.system.swarm_client import SOURCES, Swarm

FULL, QUICK = 100_000, 20_000
#: those who stay on line meanwhile, with a heartbeat each second
OTHERS_FULL, OTHERS_QUICK = 5_000, 2_000
OTHERS_HEARTBEAT_S = 1
#: those who are pushed to meanwhile
PUSHED, PUSHES_PER_S = 500, 200
#: the others are watched from this long before the storm
BEFORE_S = 1.0
SETTLE_S = 2.0


async def take(run: Run) -> Measured:
    n, others = run.size(FULL, QUICK), run.size(OTHERS_FULL, OTHERS_QUICK)
    reactors = reactors_for(n + others, open_files())
    async with (
        Stage(f"edge.reactors={reactors}") as stage,
        Swarm(port=stage.device_port, key=stage.key, devices=n) as storming,
        Swarm(port=stage.device_port, heartbeat=OTHERS_HEARTBEAT_S, first_source=SOURCES) as calm,
        Swarm(port=stage.device_port, key=stage.key, first_source=2 * SOURCES) as pushed,
    ):
        await calm.connect(others)
        await pushed.connect(PUSHED)
        run.say(f"{n:,} devices connect, {others:,} others are on line")
        first = await storming.connect(n)
        await asyncio.sleep(SETTLE_S)
        before = private_bytes(stage.pid)
        # as long as the storm may take, by the first connect
        watched_s = BEFORE_S + 2 * first["seconds"] + 2
        run.say(f"first connect {first['seconds']:.1f} s; all drop and come back")
        async with asyncio.TaskGroup() as group:
            idle = group.create_task(calm.do("idle", seconds=watched_s))
            pushes = group.create_task(
                pushed.do(
                    "push",
                    rate=PUSHES_PER_S,
                    seconds=watched_s,
                    batch=1,
                    bytes=100,
                    targets="online",
                    window=4_096,
                    connections=1,
                )
            )
            await asyncio.sleep(BEFORE_S)
            storm = await storming.do("storm")
        await asyncio.sleep(SETTLE_S)
        after = private_bytes(stage.pid)
        calmly = idle.result()
        sent = pushes.result()
    lost = sent["accepted"] - sent["delivered"]
    p99, worst = calmly["pong_ms"]["p99"], calmly["pong_ms"]["max"]
    missing = storm["failed"] + calmly["lost"]
    note = (
        f"first connect {first['seconds']:.1f} s ({first['per_s']:,.0f}/s); others' heartbeats p99 {p99:.0f} ms, "
        f"worst {worst:.0f} ms; {sent['accepted']:,} pushes to others, {lost} lost; "
        f"memory {(after - before) / 1e6:+.1f} MB"
    )
    if missing or lost:
        note = f"{storm['failed']} did not come back, {calmly['lost']} others lost their link. " + note
    return Measured(
        value=storm["seconds"],
        unit="s",
        n=n,
        ratio=storm["seconds"] / first["seconds"],
        note=note,
        more={
            "first_connect_s": first["seconds"],
            "others": others,
            "lost": missing + lost,
            "others_p99_ms": p99,
            "others_max_ms": worst,
            "pushes_accepted": sent["accepted"],
            "pushes_lost": lost,
            "push_delivery_ms": sent["delivery_ms"],
            "process_before_bytes": before,
            "process_after_bytes": after,
        },
    )
