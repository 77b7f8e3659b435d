"""K2: durable accepts a second of a fleet through provider streams, a stream to each node, ÷ what a bare client appends
to as many streams on the same servers in the same run, in messages of the size that the fleet's commits had.

The devices are away, so each push is one durable row and an answer after its commit. Half of the cores are the NATS
servers', as if they had machines of their own, and half the clients': gateways and providers, or the bare client. So it
is asked whether gateways on as many cores can make NATS as busy as a client does that only publishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

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
SETTLE_S = 1.0
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
    assert stage.home.nats is not None
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    theirs, ours = set(cores[:half]), set(cores[half:]) or set(cores)
    for server in stage.home.nats.servers:
        if server.process is not None:
            pin(server.process.pid, theirs)
    for pid in clients:
        pin(pid, ours)
    return ours


def pin(pid: int, cores: set[int]) -> None:
    """All threads that it has; later ones inherit it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def nats_cpu_s(stage: FleetStage) -> float:
    """Of the three servers so far."""
    assert stage.home.nats is not None
    return sum(cpu_seconds(server.process.pid) for server in stage.home.nats.servers if server.process is not None)


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
            await asyncio.sleep(SETTLE_S)
            before, cpu, ours = await journal(stage), nats_cpu_s(stage), gateway_cpu_s(stage)
            run.say(f"a stream to each node, {seconds:g} s")
            answers = await asyncio.gather(*(_push(swarm, seconds) for swarm in swarms))
            after, cpu, ours = await journal(stage), nats_cpu_s(stage) - cpu, gateway_cpu_s(stage) - ours
        accepts = sum(answer["accepted"] for answer in answers)
        rate = sum(answer["accepted_per_s"] for answer in answers)
        messages, size = after[0] - before[0], after[1] - before[1]
        if not messages or not accepts:
            raise BenchFailed(f"nothing was accepted: {answers}")
        run.say(f"{accepts:,} in {messages:,} messages of {size // messages:,} bytes; the bare client")
        bare_cpu = nats_cpu_s(stage)
        floor = await bare(stage, size // messages, seconds, cores)
        bare_cpu = nats_cpu_s(stage) - bare_cpu
    rows = accepts / messages
    bare_rows = floor["messages_per_s"] * rows
    row_us, bare_row_us = cpu / accepts * 1e6, bare_cpu / (floor["messages"] * rows) * 1e6
    refused = sum(answer["refused"] for answer in answers)
    return Measured(
        value=rate,
        unit="accepts/s",
        n=n,
        floor=bare_rows,
        ratio=rate / bare_rows,
        note=f"{rows:,.0f} accepts in a message of {size / messages:,.0f} bytes, {messages / seconds:,.0f} messages/s; "
        f"bare {floor['messages_per_s']:,.0f} messages/s, p50 {floor['p50_ms']:.1f} ms; NATS had {row_us:.1f} "
        f"and {bare_row_us:.1f} µs of CPU for an accept, gateways {ours / accepts * 1e6:.1f}; refused {refused}",
        more={
            "nats_cpu_ratio": bare_row_us / row_us,
            "nats_us": row_us,
            "bare_nats_us": bare_row_us,
            "gateway_us": ours / accepts * 1e6,
            "accepts": accepts,
            "messages": messages,
            "message_bytes": size / messages,
            "bare_messages_per_s": floor["messages_per_s"],
            "bare_p50_ms": floor["p50_ms"],
            "bare_p99_ms": floor["p99_ms"],
            "accept_ms": answers[0]["accept_ms"],
            "refused": refused,
        },
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
