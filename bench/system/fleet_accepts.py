"""K2: durable accepts a second of a fleet through provider streams, a stream to each node, ÷ what a bare client appends
to as many streams on the same servers in the same run, in messages of the size that the fleet's commits had.

The devices are away, so each push is one durable row and an answer after its commit. Half of the cores are the NATS
servers', as if they had machines of their own, and half the clients': gateways and providers, or the bare client. So it
is asked whether gateways on as many cores can make NATS as busy as a client does that only publishes. What NATS itself
needs for an accept, by its CPU, is `nats_cpu_ratio`: that bounds a fleet whose gateways have more cores than NATS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bench.system.accepts import STREAM_BATCH, STREAM_WINDOW
from bench.system.figures import Measured, Run
from bench.system.fleet_stage import FLEET, FleetStage
from bench.system.stage import ROOT, BenchFailed, cpu_seconds, open_files, reactors_for
from bench.system.swarm_client import Swarm

FULL, QUICK = 12_000, 6_000
#: first registrations of each swarm under way at once: each is a commit of one of few partitions
AT_ONCE = 200
SECONDS_FULL, SECONDS_QUICK = 12.0, 4.0
#: addresses of one swarm; the next begins behind them
SOURCES = 100
#: what went before is over when the NATS servers had less than this much of a core for so long; how long at most
QUIET_CORES, QUIET_S, QUIET_MOST_S = 0.1, 1.0, 40.0
#: of the provider to each node, each with a window of its own: a commit under way and the next one being filled
CONNECTIONS = 3


async def journal(stage: FleetStage) -> tuple[int, int]:
    """Messages and bytes that all partitions' streams ever took."""
    async with stage.jetstream() as js:
        messages = size = 0
        for info in await js.streams_info():  # type: ignore[attr-defined]
            if info.config.name.startswith(f"{FLEET}_") and info.config.name.split("_")[-1].isdigit():
                messages += info.state.last_seq
                size += info.state.bytes
    return messages, size


def share_out(stage: FleetStage, clients: list[int]) -> set[int]:
    """The machine's cores between NATS and its clients; returns the clients'."""
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    theirs, ours = set(cores[:half]), set(cores[half:]) or set(cores)
    for pid in nats_pids(stage):
        pin(pid, theirs)
    for pid in clients:
        pin(pid, ours)
    return ours


def pin(pid: int, cores: set[int]) -> None:
    """All threads that it has; later ones inherit it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def nats_pids(stage: FleetStage) -> list[int]:
    assert stage.home.nats is not None
    return [server.process.pid for server in stage.home.nats.servers if server.process is not None]


def nats_cpu_s(stage: FleetStage) -> float:
    """Of the three servers so far."""
    return sum(cpu_seconds(pid) for pid in nats_pids(stage))


def gateway_cpu_s(stage: FleetStage) -> float:
    return sum(cpu_seconds(node.pid) for node in stage.home.nodes)


async def bare(stage: FleetStage, size: int, seconds: float, cores: set[int]) -> dict[str, Any]:
    words = [stage.urls, str(stage.partitions), str(size), str(seconds)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.system.nats_appends", *words, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    pin(child.pid, cores)
    out, _ = await child.communicate()
    if child.returncode:
        raise BenchFailed(f"the bare client failed with exit code {child.returncode}")
    answer: dict[str, Any] = json.loads(out)
    return answer


class Fleet(NamedTuple):
    """What the fleet took in."""

    accepts: int
    accepts_per_s: float
    messages: int
    message_bytes: int
    refused: int
    nats_us: float  # CPU for an accept
    gateway_us: float
    accept_ms: dict[str, Any]

    @property
    def rows(self) -> float:
        """Accepts in a message."""
        return self.accepts / self.messages


class Compared(NamedTuple):
    fleet: Fleet
    bare: dict[str, Any]  # of the bare client
    bare_nats_us: float

    @property
    def floor(self) -> float:
        return float(self.bare["messages_per_s"]) * self.fleet.rows

    @property
    def ratio(self) -> float:
        return self.fleet.accepts_per_s / self.floor

    def numbers(self) -> dict[str, Any]:
        bare = {name: self.bare[name] for name in ("messages_per_s", "p50_ms", "p99_ms")}
        return {**self.fleet._asdict(), "bare": bare, "bare_nats_us": self.bare_nats_us, "ratio": self.ratio}


async def settle(stage: FleetStage) -> None:
    """Standbys are level again, and nothing else is under way."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + QUIET_MOST_S
    while loop.time() < end_s:
        before = nats_cpu_s(stage)
        await asyncio.sleep(QUIET_S)
        if nats_cpu_s(stage) - before < QUIET_CORES * QUIET_S:
            return
    raise BenchFailed("the NATS servers did not come to rest")


async def push_all(run: Run, stage: FleetStage, swarms: list[Swarm], seconds: float) -> Fleet:
    await settle(stage)
    before, cpu, ours = await journal(stage), nats_cpu_s(stage), gateway_cpu_s(stage)
    run.say(f"a stream to each node, {seconds:g} s")
    answers = await asyncio.gather(*(_push(swarm, seconds) for swarm in swarms))
    after, cpu, ours = await journal(stage), nats_cpu_s(stage) - cpu, gateway_cpu_s(stage) - ours
    accepts = sum(answer["accepted"] for answer in answers)
    messages, size = after[0] - before[0], after[1] - before[1]
    if not messages or not accepts:
        raise BenchFailed(f"nothing was accepted: {answers}")
    return Fleet(
        accepts=accepts,
        accepts_per_s=sum(answer["accepted_per_s"] for answer in answers),
        messages=messages,
        message_bytes=size // messages,
        refused=sum(answer["refused"] for answer in answers),
        nats_us=cpu / accepts * 1e6,
        gateway_us=ours / accepts * 1e6,
        accept_ms=answers[0]["accept_ms"],
    )


async def compare(run: Run, stage: FleetStage, fleet: Fleet, seconds: float, cores: set[int]) -> Compared:
    run.say(f"{fleet.accepts:,} in {fleet.messages:,} messages of {fleet.message_bytes:,} bytes; the bare client")
    await settle(stage)
    cpu = nats_cpu_s(stage)
    floor = await bare(stage, fleet.message_bytes, seconds, cores)
    cpu = nats_cpu_s(stage) - cpu
    return Compared(fleet, floor, cpu / (floor["messages"] * fleet.rows) * 1e6)


async def take(run: Run) -> Measured:
    n = run.size(FULL, QUICK)
    seconds = SECONDS_QUICK if run.quick else SECONDS_FULL
    settings = (
        "store.max_pending_per_registration=1_000_000",
        "cluster.snapshot_bytes=268_435_456",  # so that the streams keep what they took, to be counted
        f"edge.reactors={reactors_for(n, open_files())}",
    )
    async with FleetStage(*settings) as stage:
        ports = [stage.device_port(node) for node in range(len(stage.home.nodes))]
        swarms = [
            Swarm(port=port, key=stage.key, devices=n, first_source=place * SOURCES) for place, port in enumerate(ports)
        ]
        async with swarms[0], swarms[1], swarms[2]:
            run.say(f"{n:,} devices register at three nodes and leave")
            await asyncio.gather(*(swarm.connect(n // 3, at_once=AT_ONCE) for swarm in swarms))
            await asyncio.gather(*(swarm.do("drop", count=n // 3) for swarm in swarms))
            cores = share_out(stage, [*(node.pid for node in stage.home.nodes), *(swarm.pid for swarm in swarms)])
            fleet = await push_all(run, stage, swarms, seconds)
            # last, for it leaves no room for what a fleet has to say in time
            taken = await compare(run, stage, fleet, seconds, cores)
    return Measured(
        value=fleet.accepts_per_s,
        unit="accepts/s",
        n=n,
        floor=taken.floor,
        ratio=taken.ratio,
        note=f"{fleet.rows:,.0f} accepts in a message of {fleet.message_bytes:,.0f} bytes, "
        f"{fleet.messages / seconds:,.0f} messages/s; bare {taken.bare['messages_per_s']:,.0f}, p50 "
        f"{taken.bare['p50_ms']:.1f} ms; CPU for an accept: NATS {fleet.nats_us:.1f} and bare {taken.bare_nats_us:.1f} "
        f"µs, gateways {fleet.gateway_us:.1f}; refused {fleet.refused}",
        more={"nats_cpu_ratio": taken.bare_nats_us / fleet.nats_us, **taken.numbers()},
    )


async def _push(swarm: Swarm, seconds: float) -> dict[str, Any]:
    return await swarm.do(
        "push",
        rate=0,
        seconds=seconds,
        batch=STREAM_BATCH,
        bytes=100,
        targets="away",
        window=STREAM_WINDOW,
        connections=CONNECTIONS,
    )
