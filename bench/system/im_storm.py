"""D2: the devices of N users, who have bound an account each, come at once; until all accounts are connected at the
pace that is set, and what becomes of the gateway meanwhile. Whole gateway, swarm, and an IRC server of ours that takes
half a second for a login.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.system.figures import Measured, Run
from bench.system.im_gateway import ImGateway
from bench.system.im_network import IrcNetwork
from bench.system.stage import BenchFailed, cpu_seconds, open_files
from bench.system.swarm_client import Swarm
from gateway.config.im_section import Im

FULL, QUICK = 10_000, 1_000
LOGIN_MS = 500
#: no account more is connected for so long: those that lack do not come
STILL_S = 90.0
LOOK_S, SAY_S = 0.25, 10.0
CALM_S = 2.0


async def take(run: Run) -> Measured:
    return await measure(run.size(FULL, QUICK), run)


async def measure(n: int, run: Run, *settings: str, per_s: float = Im().connects_per_s) -> Measured:
    """`settings` that differ from the defaults, with the pace that they set."""
    # devices are in the reactors' own tables
    if open_files() < n + 500:
        raise BenchFailed(f"{n:,} accounts need as many open files; raise the limit (ulimit -n)")
    async with (
        IrcNetwork(LOGIN_MS) as network,
        ImGateway(*settings) as gateway,
        Swarm(port=gateway.port, devices=n) as swarm,
    ):
        run.say(f"{n:,} devices register")
        await swarm.connect(n)
        await swarm.do("drop", count=n)
        await gateway.settle(**network.form)
        await gateway.ask("begin")
        await asyncio.sleep(CALM_S)
        calm = await gateway.ask("end")
        run.say(f"all come back; {per_s:g} connects a second are allowed")
        before, cpu_s = await gateway.ask("begin"), cpu_seconds(gateway.pid)
        came = await swarm.reconnect(n)
        seen = await _watch(network, n, run)
        after, cpu_s = await gateway.ask("end"), cpu_seconds(gateway.pid) - cpu_s
        connected = (await gateway.ask("look"))["connected"]
    if connected != n:
        raise BenchFailed(f"{connected:,} of {n:,} accounts are connected")
    seconds = seen["last_s"] - before["at_s"]
    ideal = n / per_s
    account_bytes = (after["bytes"] - before["bytes"]) / n
    return Measured(
        value=seconds,
        unit="s",
        n=n,
        floor=ideal,
        ratio=seconds / ideal,
        note=f"the devices were there after {came['seconds']:.1f} s; at most {seen['most_in_1s']} connects in a second "
        f"and {seen['most_at_once']} at once; half waited {seen['middle_s'] - before['at_s']:.0f} s; the loop late "
        f"p50 {after['lag_p50_ms']:.1f} ms, p99 {after['lag_p99_ms']:.1f}, most {after['lag_most_ms']:.0f} (idle "
        f"{calm['lag_p50_ms']:.1f}, {calm['lag_p99_ms']:.1f}, {calm['lag_most_ms']:.0f}); {account_bytes:,.0f} bytes "
        f"an account with its device, {cpu_s / n * 1e3:.2f} ms of CPU",
        more={
            "most_in_1s_ratio": seen["most_in_1s"] / per_s,
            "most_at_once": seen["most_at_once"],
            "lag_p99_ms": after["lag_p99_ms"],
            "lag_most_ms": after["lag_most_ms"],
            "idle_lag_p99_ms": calm["lag_p99_ms"],
            "account_bytes": account_bytes,
            "cpu_ms_an_account": cpu_s / n * 1e3,
            "connects": seen["begun"],
            "devices_per_s": came["per_s"],
        },
    )


async def _watch(network: IrcNetwork, n: int, run: Run) -> dict[str, Any]:
    here, moved, said = -1, time.monotonic(), time.monotonic()
    while True:
        seen = await network.ask("look")
        now = time.monotonic()
        if seen["here"] >= n:
            await asyncio.sleep(CALM_S)
            return seen
        if seen["here"] > here:
            here, moved = seen["here"], now
        if now - moved > STILL_S:
            raise BenchFailed(f"{here:,} of {n:,} accounts, and no more come: {seen}")
        if now - said >= SAY_S:
            said = now
            run.say(f"{here:,} accounts")
        await asyncio.sleep(LOOK_S)
