"""P6: directed pushes to random devices of N: the time from the push to the device at 0.9 of the rate that mosquitto
sustains at QoS 1, and the highest rate each sustains; ours is durable, mosquitto's is in memory.
"""

from __future__ import annotations

from typing import Any

from bench.system.accepts import over_http
from bench.system.figures import Measured, Run
from bench.system.peer import NOT_THERE, Mosquitto, find
from bench.system.stage import Stage, open_files, reactors_for
from bench.system.swarm_client import Swarm

FULL, QUICK = 10_000, 2_000
PEER_FULL, PEER_QUICK = 5_000, 2_000
#: pushes in one frame, and without an answer, of ours; PUBLISHes in one write, and unconfirmed, of mosquitto's
BATCH, WINDOW = 16, 8_192
FIRST_RATE = 5_000.0
STEP = 1.5
LATE_MS = 200.0
DELIVERED = 0.98
#: a client that offers less than it should has reached its own end
OFFERED = 0.95
BISECTIONS = 3
#: a Python client, and JSON at both ends, share the two cores: what they can offer beside devices and gateway
HTTP_RATE = 20_000.0
#: rate taken where there is no peer to take it from
ALONE_RATE = 20_000.0


async def push(swarm: Swarm, rate: float, seconds: float) -> dict[str, Any]:
    return await swarm.do(
        "push", rate=rate, seconds=seconds, batch=BATCH, bytes=100, targets="online", window=WINDOW, connections=1
    )


def is_sustained(answer: dict[str, Any], rate: float) -> bool:
    """What was offered came, in time; and it was offered."""
    return (
        answer["offered_per_s"] >= OFFERED * rate
        and answer["delivered"] >= DELIVERED * answer["offered"]
        and answer["delivery_ms"]["p99"] <= LATE_MS
    )


async def highest_rate(swarm: Swarm, seconds: float, run: Run) -> float:
    """Pushes a second that are sustained: upward in steps, then between the last that was and the first not to be."""
    held, missed, rate = 0.0, 0.0, FIRST_RATE
    for _ in range(16):
        answer = await push(swarm, rate, seconds)
        good = is_sustained(answer, rate)
        run.say(
            f"{rate:,.0f}/s: {answer['delivered_per_s']:,.0f}/s delivered, p99 {answer['delivery_ms']['p99']:.1f} ms"
            + ("" if good else ", not sustained")
        )
        if good:
            held = rate
        else:
            missed = rate
            break
        rate *= STEP
    for _ in range(BISECTIONS if missed else 0):
        rate = (held + missed) / 2
        good = is_sustained(await push(swarm, rate, seconds), rate)
        held, missed = (rate, missed) if good else (held, rate)
    return held


async def _over_http(stage: Stage, swarm: Swarm, rate: float, seconds: float) -> dict[str, Any]:
    """Directed pushes in small batches over HTTP; the devices tell how long each took."""
    await swarm.do("idle", seconds=0.0)  # histograms begin anew
    answer = await over_http(stage, swarm, seconds, rate)
    stats = await swarm.do("stats")
    return {"offered_rate": rate, "per_s": answer["per_s"], "delivery_ms": stats["delivery_ms"]}


async def take(run: Run) -> Measured:
    n, peer_n = run.size(FULL, QUICK), run.size(PEER_FULL, PEER_QUICK)
    seconds = 5.0 if not run.quick else 1.0
    settings = f"edge.reactors={reactors_for(n, open_files())}"
    peer_rate: float | None = None
    peer_p99: float | None = None
    rate = ALONE_RATE
    if find() is not None:
        run.say(f"mosquitto with {peer_n:,} links")
        async with Mosquitto() as peer, Swarm(port=peer.port, protocol="mqtt", devices=n) as swarm:
            await swarm.connect(peer_n)
            peer_rate = await highest_rate(swarm, seconds, run)
        rate = 0.9 * peer_rate
        async with Mosquitto() as peer, Swarm(port=peer.port, protocol="mqtt", devices=n) as swarm:
            await swarm.connect(n)
            peer_p99 = (await push(swarm, rate, 2 * seconds))["delivery_ms"]["p99"]
    run.say(f"the gateway with {n:,} links")
    async with Stage(settings) as stage, Swarm(port=stage.device_port, key=stage.key, devices=n) as swarm:
        await swarm.connect(n)
        ours = await push(swarm, rate, 2 * seconds)
    async with Stage(settings) as stage, Swarm(port=stage.device_port, key=stage.key, devices=n) as swarm:
        await swarm.connect(n)
        own_rate = await highest_rate(swarm, seconds, run)
        run.say("the same through HTTP batches")
        http = await _over_http(stage, swarm, min(rate, HTTP_RATE), 2 * seconds)
    p99 = ours["delivery_ms"]["p99"]
    more: dict[str, Any] = {"offered_rate": rate, "highest_rate": own_rate, "delivery_ms": ours["delivery_ms"]}
    more |= {"delivered": ours["delivered"], "offered": ours["offered"], "http": http}
    if peer_rate is None or peer_p99 is None:
        return Measured(value=p99, unit="ms p99", n=n, note=f"at {rate:,.0f}/s. {NOT_THERE}", more=more)
    more |= {"peer_highest_rate": peer_rate, "rate_ratio": own_rate / peer_rate if peer_rate else None}
    return Measured(
        value=p99,
        unit="ms p99",
        n=n,
        peer=peer_p99,
        ratio=p99 / peer_p99,
        note=f"at {rate:,.0f}/s; highest rate {own_rate:,.0f}/s, mosquitto {peer_rate:,.0f}/s ({peer_n:,} links); "
        f"through HTTP batches {http['per_s']:,.0f}/s: p99 {http['delivery_ms']['p99']:.1f} ms",
        more=more,
    )
