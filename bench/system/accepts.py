"""P7: pushes accepted a second, answered after their commit, through the provider stream and through HTTP batches ÷
rows of the same size appended to LMDB in the same run.

The devices are away, so nothing is sent to them and each push is one durable row.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from bench.system.appends import appended_rows_per_s
from bench.system.figures import Measured, Run
from bench.system.stage import ROOT, BenchFailed, Stage, open_files, reactors_for
from bench.system.swarm_client import Swarm
from gateway.model.registration import TOKEN_BYTES, build_token

#: of the swarm's file of credentials
RECORD_BYTES = 68
DEVICES_FULL, DEVICES_QUICK = 20_000, 10_000
SECONDS_FULL, SECONDS_QUICK = 10.0, 4.0
#: the gateway's own defaults
STREAM_BATCH, STREAM_WINDOW = 1_000, 10_000


async def take(run: Run) -> Measured:
    n = run.size(DEVICES_FULL, DEVICES_QUICK)
    seconds = SECONDS_QUICK if run.quick else SECONDS_FULL
    # a row a push and no end of rows for one device: the limits are not what is measured
    settings = (
        "store.max_pending_per_registration=1_000_000",
        f"edge.reactors={reactors_for(n, open_files())}",
    )
    async with Stage(*settings) as stage, Swarm(port=stage.device_port, key=stage.key, devices=n) as swarm:
        run.say("rows appended to LMDB")
        floor = await asyncio.to_thread(appended_rows_per_s, stage.folder, seconds=seconds / 2)
        await swarm.connect(n)
        await swarm.do("drop", count=n)
        run.say(f"the stream, {seconds:g} s")
        stream = await swarm.do(
            "push",
            rate=0,
            seconds=seconds,
            batch=STREAM_BATCH,
            bytes=100,
            targets="away",
            window=STREAM_WINDOW,
            connections=1,
        )
        run.say(f"HTTP batches, {seconds:g} s")
        http = await over_http(stage, swarm, seconds)
        floor_after = await asyncio.to_thread(appended_rows_per_s, stage.folder, seconds=seconds / 2)
    floor = (floor + floor_after) / 2
    rate = stream["accepted_per_s"]
    return Measured(
        value=rate,
        unit="accepts/s",
        n=n,
        floor=floor,
        ratio=rate / floor,
        note=f"stream, frames of {STREAM_BATCH}; through HTTP batches {http['per_s']:,.0f}/s: "
        f"{http['per_s'] / floor:.2f}; refused {stream['refused']} and {http['refused']}",
        more={
            "http_per_s": http["per_s"],
            "http_ratio": http["per_s"] / floor,
            "http_batch_ms": http["batch_ms"],
            "accept_ms": stream["accept_ms"],
            "stream_refused": stream["refused"],
            "http_refused": http["refused"],
        },
    )


async def tokens_of(swarm: Swarm, folder: Path) -> list[str]:
    """The tokens of its devices: each record of its file ends with one."""
    saved = folder / "credentials"
    count = (await swarm.do("credentials", save=str(saved)))["saved"]
    raw = saved.read_bytes()
    found = []
    # a line, then how many threads; of each thread how many records, then these
    at = raw.index(b"\n") + 5
    while len(found) < count:
        size = int.from_bytes(raw[at : at + 4], "little")
        at += 4
        ends = range(at + RECORD_BYTES, at + (size + 1) * RECORD_BYTES, RECORD_BYTES)
        found += [build_token(raw[end - TOKEN_BYTES : end]) for end in ends]
        at += size * RECORD_BYTES
    return found


async def over_http(stage: Stage, swarm: Swarm, seconds: float, rate: float = 0.0) -> dict[str, Any]:
    """Batches to the swarm's devices by a client in a process of its own, as fast as it goes or at a pace."""
    tokens = stage.folder / "tokens"
    tokens.write_text("\n".join(await tokens_of(swarm, stage.folder)))
    words = [str(stage.api_port), stage.key, str(tokens), str(seconds), *([str(rate)] if rate else [])]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.system.http_batches", *words, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    out, _ = await child.communicate()
    if child.returncode:
        raise BenchFailed(f"the HTTP provider failed with exit code {child.returncode}")
    answer: dict[str, Any] = json.loads(out)
    return answer
