"""K1: directed pushes over the provider stream to devices of one node: registrations that another node owns against
those that this node owns itself. The same fleet, the same door for devices and provider, the same rate, by turns.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from statistics import median
from typing import Any

from bench.system.directed import push
from bench.system.figures import Measured, Run
from bench.system.fleet_stage import FleetStage
from bench.system.stage import BenchFailed, open_files, reactors_for
from bench.system.swarm_client import Swarm
from gateway.model.registration import TOKEN_BYTES

FULL, QUICK = 4_000, 1_000
ROUNDS_FULL, ROUNDS_QUICK = 5, 3
SECONDS_FULL, SECONDS_QUICK = 8.0, 3.0
#: pushes a second, of either kind
RATE = 200.0
#: of the swarm's file of credentials
RECORD_BYTES = 68
NODE = 1
#: addresses of one swarm; the next begins behind them
SOURCES = 100


def split(raw: bytes, is_near: Any) -> tuple[bytes, bytes]:
    """A swarm's file of credentials as two: of tokens that are near, and of the others."""
    line_end = raw.index(b"\n") + 1
    head, at = raw[: line_end + 4], line_end + 4
    files = [bytearray(head), bytearray(head)]
    for _ in range(int.from_bytes(raw[line_end : line_end + 4], "little")):
        size = int.from_bytes(raw[at : at + 4], "little")
        at += 4
        parts: tuple[list[bytes], list[bytes]] = ([], [])
        for _ in range(size):
            record = raw[at : at + RECORD_BYTES]
            parts[0 if is_near(record[-TOKEN_BYTES:]) else 1].append(record)
            at += RECORD_BYTES
        for file, records in zip(files, parts, strict=True):
            file += len(records).to_bytes(4, "little") + b"".join(records)
    return bytes(files[0]), bytes(files[1])


async def register(stage: FleetStage, port: int, n: int) -> Path:
    """So many devices that were there once; the file of their credentials."""
    saved = stage.folder / "credentials"
    async with Swarm(port=port, key=stage.key, devices=n) as swarm:
        await swarm.connect(n)
        await swarm.do("credentials", save=str(saved))
    return saved


async def come_back(swarm: Swarm, file: Path, raw: bytes) -> int:
    await asyncio.to_thread(file.write_bytes, raw)
    count = int((await swarm.do("credentials", load=str(file)))["loaded"])
    if not count:
        raise BenchFailed("no registration of this kind; take more devices")
    await swarm.reconnect(count)
    return count


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if answer["delivered"] < answer["accepted"] or answer["refused"]:
        raise BenchFailed(f"not all pushes came: {answer}")
    return answer


async def take(run: Run) -> Measured:
    n = run.size(FULL, QUICK)
    rounds, seconds = (ROUNDS_QUICK, SECONDS_QUICK) if run.quick else (ROUNDS_FULL, SECONDS_FULL)
    async with FleetStage(f"edge.reactors={reactors_for(n, open_files())}") as stage:
        port = stage.device_port(NODE)
        run.say(f"{n:,} devices register at one of three nodes")
        raw = (await register(stage, port, n)).read_bytes()
        owners = await stage.owners()
        near, far = split(raw, lambda token: stage.owner_in(owners, token) == NODE)
        async with (
            Swarm(port=port, key=stage.key, devices=n) as same,
            Swarm(port=port, key=stage.key, devices=n, first_source=SOURCES) as cross,
        ):
            counts = (
                await come_back(same, stage.folder / "near", near),
                await come_back(cross, stage.folder / "far", far),
            )
            run.say(f"{counts[0]:,} are owned there, {counts[1]:,} elsewhere; {rounds} rounds at {RATE:,.0f}/s")
            taken: dict[str, list[dict[str, Any]]] = {"same": [], "cross": []}
            for _ in range(rounds):
                taken["same"].append(_checked(await push(same, RATE, seconds)))
                taken["cross"].append(_checked(await push(cross, RATE, seconds)))
            if await stage.owners() != owners:
                raise BenchFailed("partitions changed their owners meanwhile")
    figures = {
        f"{name}_{part}_ms": median(answer["delivery_ms"][part] for answer in answers)
        for name, answers in taken.items()
        for part in ("p50", "p99")
    }
    ratio = figures["cross_p99_ms"] / figures["same_p99_ms"]
    every = ", ".join(
        f"{b['delivery_ms']['p99']:.1f}/{a['delivery_ms']['p99']:.1f}"
        for a, b in zip(taken["same"], taken["cross"], strict=True)
    )
    return Measured(
        value=figures["cross_p99_ms"],
        unit="ms p99",
        n=n,
        floor=figures["same_p99_ms"],
        ratio=ratio,
        note=f"at {RATE:,.0f}/s, median of {rounds} rounds; p50 {figures['cross_p50_ms']:.2f} ms and "
        f"{figures['same_p50_ms']:.2f} ms; p99 by round {every} ms",
        more=figures,
    )
