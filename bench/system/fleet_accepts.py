"""K2: durable accepts a second of a fleet through provider streams, a stream to each node, ÷ what a bare client appends
to as many streams on the same servers in the same run, in messages of the size that the fleet's commits had.

The devices are away, so each push is one durable row and an answer after its commit.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from bench.system.accepts import STREAM_BATCH, STREAM_WINDOW
from bench.system.figures import Measured, Run
from bench.system.fleet_stage import FLEET, FleetStage
from bench.system.stage import ROOT, BenchFailed, open_files, reactors_for
from bench.system.swarm_client import Swarm

FULL, QUICK = 20_000, 5_000
SECONDS_FULL, SECONDS_QUICK = 12.0, 4.0
#: addresses of one swarm; the next begins behind them
SOURCES = 100
SETTLE_S = 1.0


async def journal(stage: FleetStage) -> tuple[int, int]:
    """Messages and bytes that all partitions' streams ever took."""
    async with stage.jetstream() as js:
        messages = size = 0
        for info in await js.streams_info():  # type: ignore[attr-defined]
            if info.config.name.startswith(f"{FLEET}_") and info.config.name.split("_")[-1].isdigit():
                messages += info.state.last_seq
                size += info.state.bytes
    return messages, size


async def bare(stage: FleetStage, size: int, seconds: float) -> dict[str, Any]:
    words = [stage.urls, str(stage.partitions), str(size), str(seconds)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.system.nats_appends", *words, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
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
        "cluster.snapshot_bytes=17_179_869_184",  # so that the streams keep what they took, to be counted
        f"edge.reactors={reactors_for(n, open_files())}",
    )
    async with FleetStage(*settings) as stage:
        ports = [stage.device_port(node) for node in range(len(stage.home.nodes))]
        swarms = [
            Swarm(port=port, key=stage.key, devices=n, first_source=place * SOURCES) for place, port in enumerate(ports)
        ]
        async with swarms[0], swarms[1], swarms[2]:
            run.say(f"{n:,} devices register at three nodes and leave")
            await asyncio.gather(*(swarm.connect(n // 3) for swarm in swarms))
            await asyncio.gather(*(swarm.do("drop", count=n // 3) for swarm in swarms))
            await asyncio.sleep(SETTLE_S)
            before = await journal(stage)
            run.say(f"a stream to each node, {seconds:g} s")
            answers = await asyncio.gather(*(_push(swarm, seconds) for swarm in swarms))
            after = await journal(stage)
        accepts = sum(answer["accepted"] for answer in answers)
        rate = sum(answer["accepted_per_s"] for answer in answers)
        messages, size = after[0] - before[0], after[1] - before[1]
        if not messages or not accepts:
            raise BenchFailed(f"nothing was accepted: {answers}")
        run.say(f"{accepts:,} in {messages:,} messages of {size // messages:,} bytes; the bare client")
        floor = await bare(stage, size // messages, seconds)
    rows = accepts / messages
    bare_rows = floor["messages_per_s"] * rows
    refused = sum(answer["refused"] for answer in answers)
    return Measured(
        value=rate,
        unit="accepts/s",
        n=n,
        floor=bare_rows,
        ratio=rate / bare_rows,
        note=f"{rows:,.0f} accepts in a message of {size / messages:,.0f} bytes, {messages / seconds:,.0f} messages/s; "
        f"bare {floor['messages_per_s']:,.0f} messages/s, p50 {floor['p50_ms']:.1f} ms; refused {refused}",
        more={
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
        connections=1,
    )
