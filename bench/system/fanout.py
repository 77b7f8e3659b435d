"""P4 and P5: deliveries a second of one notification to N links, and of a burst of 20 that waits in the queue.

P4's floor is a bare send loop over as many links of the same client, which confirms what it gets there too; P5's peer
is mosquitto with a QoS of 1 (confirmed, as ours is) and of 0 (beside ours unconfirmed).
"""

from __future__ import annotations

from statistics import median

from bench.system.figures import Measured, Run
from bench.system.floor_door import FloorDoor
from bench.system.peer import NOT_THERE, Mosquitto, find
from bench.system.stage import Stage, open_files, reactors_for
from bench.system.swarm_client import Swarm

FULL, QUICK = 40_000, 10_000
BURST = 20
BURST_FULL, BURST_QUICK = 10_000, 5_000
ROUNDS = 5
BURST_ROUNDS = 3


async def take(run: Run) -> Measured:
    return await (_one(run) if run.only == "P4" else _burst(run))


async def _one(run: Run) -> Measured:
    n = min(run.size(FULL, QUICK), int(open_files() * 0.9))
    rates: dict[tuple[str, str], float] = {}
    for ack in ("all", "none"):
        run.say(f"{n:,} links, confirmed: {ack}")
        async with FloorDoor() as floor, Swarm(port=floor.port, key="floor", ack=ack, devices=n) as swarm:
            rates["floor", ack] = await _rate(swarm, n, 1, ROUNDS, run)
        rates["gateway", ack] = await _gateway_rate(n, ack, 1, ROUNDS, run)
    unacked = rates["gateway", "none"] / rates["floor", "none"]
    return Measured(
        value=rates["gateway", "all"],
        unit="deliveries/s",
        n=n,
        floor=rates["floor", "all"],
        ratio=rates["gateway", "all"] / rates["floor", "all"],
        note=f"all confirm, median of {ROUNDS}; where none confirms {rates['gateway', 'none']:,.0f}/s, "
        f"the floor {rates['floor', 'none']:,.0f}/s: {unacked:.2f}",
        more={
            "unacked": rates["gateway", "none"],
            "floor_unacked": rates["floor", "none"],
            "ratio_unacked": unacked,
        },
    )


async def _burst(run: Run) -> Measured:
    n = min(run.size(BURST_FULL, BURST_QUICK), int(open_files() * 0.9))
    ours = await _gateway_rate(n, "all", BURST, BURST_ROUNDS, run)
    unacked = await _gateway_rate(n, "none", BURST, 1, run)
    measured = Measured(value=ours, unit="deliveries/s", n=n, more={"unacked": unacked})
    if find() is None:
        measured.note = NOT_THERE
        return measured
    peers: dict[int, float] = {}
    for qos in (1, 0):
        run.say(f"mosquitto with {n:,} links, QoS {qos}")
        async with Mosquitto() as peer, Swarm(port=peer.port, protocol="mqtt", devices=n) as swarm:
            peers[qos] = await _rate(swarm, n, BURST, BURST_ROUNDS, run, qos=qos)
    measured.peer = peers[1]
    measured.ratio = ours / peers[1]
    measured.more |= {"peer_unacked": peers[0], "ratio_unacked": unacked / peers[0]}
    measured.note = (
        f"{BURST} at once, all confirm, mosquitto QoS 1; none confirms: {unacked:,.0f}/s, "
        f"mosquitto QoS 0 {peers[0]:,.0f}/s: {unacked / peers[0]:.2f}"
    )
    return measured


async def _gateway_rate(n: int, ack: str, count: int, rounds: int, run: Run) -> float:
    run.say(f"the gateway with {n:,} links, confirmed: {ack}")
    async with (
        Stage(f"edge.reactors={reactors_for(n, open_files())}") as stage,
        Swarm(port=stage.device_port, key=stage.key, ack=ack, devices=n) as swarm,
    ):
        return await _rate(swarm, n, count, rounds, run)


async def _rate(swarm: Swarm, n: int, count: int, rounds: int, run: Run, **fields: int) -> float:
    await swarm.connect(n)
    rates = [(await swarm.broadcast(count, **fields))["per_s"] for _ in range(rounds)]
    run.say(f"{median(rates):,.0f} deliveries/s")
    return median(rates)
