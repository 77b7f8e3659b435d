"""P12: CPU of a gateway whose devices only send heartbeats ÷ CPU of the floor that answers the same heartbeats."""

from __future__ import annotations

from bench.system.figures import Measured, Run
from bench.system.floor_door import FloorDoor
from bench.system.stage import Stage, cpu_seconds, open_files, reactors_for
from bench.system.swarm_client import Swarm

FULL, QUICK = 100_000, 20_000
HEARTBEAT_FULL_S, HEARTBEAT_QUICK_S = 60, 5
WATCHED_FULL_S, WATCHED_QUICK_S = 60.0, 10.0


async def take(run: Run) -> Measured:
    limit = open_files()
    n = run.size(FULL, QUICK)
    tables = reactors_for(n, limit)
    heartbeat_s = run.size(HEARTBEAT_FULL_S, HEARTBEAT_QUICK_S)
    seconds = WATCHED_QUICK_S if run.quick else WATCHED_FULL_S
    run.say(f"{n:,} devices at the floor, a heartbeat each {heartbeat_s} s")
    async with (
        FloorDoor(heartbeat_s, tables) as floor,
        Swarm(port=floor.port, heartbeat=heartbeat_s, devices=n) as swarm,
    ):
        floor_s, floor_beats = await _cpu(swarm, floor.pid, n, seconds)
    run.say("the same at the gateway")
    settings = (f"edge.reactors={tables}", f"edge.heartbeat_s={heartbeat_s}")
    async with (
        Stage(*settings) as stage,
        Swarm(port=stage.device_port, key=stage.key, heartbeat=heartbeat_s, devices=n) as swarm,
    ):
        own_s, beats = await _cpu(swarm, stage.pid, n, seconds)
    # for the same number of heartbeats, should the two runs not have had quite as many
    floor_s *= beats / floor_beats
    return Measured(
        value=own_s,
        unit="CPU s",
        n=n,
        floor=floor_s,
        ratio=own_s / floor_s,
        note=f"{beats:,} heartbeats in {seconds:g} s, every {heartbeat_s} s each: {own_s / beats * 1e6:.1f} µs of CPU "
        f"a heartbeat, the floor {floor_s / beats * 1e6:.1f} µs",
        more={"heartbeats": beats, "heartbeat_s": heartbeat_s, "seconds": seconds},
    )


async def _cpu(swarm: Swarm, pid: int, n: int, seconds: float) -> tuple[float, int]:
    """CPU seconds of the process over that time, and the heartbeats in it."""
    await swarm.connect(n)
    await swarm.do("idle", seconds=2)
    before = cpu_seconds(pid)
    idle = await swarm.do("idle", seconds=seconds)
    return cpu_seconds(pid) - before, idle["heartbeats"]
