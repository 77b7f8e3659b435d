"""P9: arm and cancel a timer with a million armed, beside asyncio's call_later and cancel with as many."""

from __future__ import annotations

import asyncio
import random
import time

from bench.system.figures import Measured, Run

ARMED = 1_000_000
SPAN_S = 240
TICK_MS = 8
PAIRS = 4_000_000
ASYNCIO_PAIRS = 200_000
ROUNDS = 3


async def take(run: Run) -> Measured:
    from gateway._load.core_loops import Timers

    run.say(f"a wheel with {ARMED:,} timers")
    timers = Timers(ARMED, SPAN_S * 1000 // TICK_MS)
    pair_s = min(_timed(timers, PAIRS) for _ in range(ROUNDS)) / PAIRS
    began = time.perf_counter()
    timers.rearm_each(ARMED, PAIRS)
    rearm_s = (time.perf_counter() - began) / PAIRS
    del timers
    run.say(f"an event loop with {ARMED:,} timers")
    peer_s = await asyncio.to_thread(_asyncio_pair_s)
    return Measured(
        value=pair_s * 1e9,
        unit="ns",
        n=ARMED,
        peer=peer_s * 1e9,
        ratio=peer_s / pair_s,
        note=f"one native loop, as in the reactor; peer: asyncio call_later + cancel, {peer_s * 1e6:.2f} µs; "
        f"to arm a random one of the million anew takes {rearm_s * 1e9:.0f} ns",
        more={"rearm_random_ns": rearm_s * 1e9, "rearm_ratio": peer_s / rearm_s},
    )


def _timed(timers: object, pairs: int) -> float:
    began = time.perf_counter()
    if timers.arm_and_cancel(pairs) != ARMED:  # type: ignore[attr-defined]
        raise AssertionError("a timer was lost")
    return time.perf_counter() - began


def _asyncio_pair_s() -> float:
    """On a loop that does not run meanwhile, so that only call_later and cancel are timed."""
    loop = asyncio.new_event_loop()
    chance = random.Random(1)
    delays = [chance.uniform(1, SPAN_S) for _ in range(ASYNCIO_PAIRS)]
    try:
        held = [loop.call_later(chance.uniform(1, SPAN_S), int) for _ in range(ARMED)]
        began = time.perf_counter()
        for delay in delays:
            loop.call_later(delay, int).cancel()
        took = time.perf_counter() - began
        del held
    finally:
        loop.close()
    return took / ASYNCIO_PAIRS
