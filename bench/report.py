"""Draws docs/curve-*.svg from measured points; takes the points itself with --measure.

    .venv/bin/python -m bench.report --measure                # some five minutes, keeps docs/curves.json
    .venv/bin/python -m bench.report --points docs/curves.json

The points are {"memory": [{"n", "bytes"}], "latency": [{"n", "p50_ms", "p99_ms"}], "throughput": [{"batch", "per_s"}]},
with the machine and the rates they were taken at beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.curves import Chart, Line, draw
from bench.system import directed, memory
from bench.system.figures import Run
from bench.system.stage import Stage, open_files, reactors_for
from bench.system.swarm_client import Swarm

DOCS = Path(__file__).resolve().parents[1] / "docs"
MEMORY_N = (1_000, 5_000, 10_000, 20_000, 40_000)
LATENCY_N = (100, 1_000, 5_000, 10_000, 20_000, 40_000)
LATENCY_RATE, LATENCY_S = 5_000, 5.0
BATCHES = (1, 4, 16, 64, 256, 1_000)
#: as many pushes without an answer as the gateway lets by default
WINDOW = 10_000
BATCH_DEVICES, BATCH_S = 10_000, 4.0


async def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """All points; bounded by the counts and times above."""
    run = Run(quick=True, say=say)
    points: dict[str, Any] = {"machine": {"cores": os.cpu_count()}, "memory": [], "latency": [], "throughput": []}
    for n in MEMORY_N:
        say(f"memory of {n:,} devices")
        points["memory"].append({"n": n, "bytes": round((await memory.measure(n, run)).value or 0, 1)})
    points["latency_rate_per_s"] = LATENCY_RATE
    for n in LATENCY_N:
        say(f"latency with {n:,} devices")
        points["latency"].append(await _latency(n))
    say("throughput by batch")
    points["throughput"] = await _throughput()
    return points


async def _latency(n: int) -> dict[str, float]:
    async with (
        Stage(f"edge.reactors={reactors_for(n, open_files())}") as stage,
        Swarm(port=stage.device_port, key=stage.key, devices=n) as swarm,
    ):
        await swarm.connect(n)
        took = (await directed.push(swarm, LATENCY_RATE, LATENCY_S))["delivery_ms"]
    return {"n": n, "p50_ms": round(took["p50"], 3), "p99_ms": round(took["p99"], 3)}


async def _throughput() -> list[dict[str, float]]:
    points = []
    settings = ("store.max_pending_per_registration=1_000_000",)
    async with Stage(*settings) as stage, Swarm(port=stage.device_port, key=stage.key) as swarm:
        await swarm.connect(BATCH_DEVICES)
        await swarm.do("drop", count=BATCH_DEVICES)
        for batch in BATCHES:
            took = await swarm.do(
                "push", rate=0, seconds=BATCH_S, batch=batch, bytes=100, targets="away", window=WINDOW, connections=1
            )
            points.append({"batch": batch, "per_s": round(took["accepted_per_s"])})
    return points


def build_charts(points: dict[str, Any]) -> dict[str, str]:
    """File name → SVG."""

    def line(name: str, part: str, x: str, y: str) -> Line:
        return Line(name, [(point[x], point[y]) for point in points.get(part, ())])

    rate = points.get("latency_rate_per_s", LATENCY_RATE)
    charts = {
        "memory": Chart(
            "User memory of an idle device",
            "devices on line",
            "bytes a device",
            [line("gateway", "memory", "n", "bytes")],
            target=256,
        ),
        "latency": Chart(
            f"Push to device, {rate:,} pushes/s, durable",
            "devices on line",
            "milliseconds",
            [line("p99", "latency", "n", "p99_ms"), line("p50", "latency", "n", "p50_ms")],
        ),
        "throughput": Chart(
            "Durable accepts through the provider stream",
            "pushes in a frame",
            "accepts a second",
            [line("stream", "throughput", "batch", "per_s")],
        ),
    }
    return {f"curve-{name}.svg": draw(chart) for name, chart in charts.items() if points.get(name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="take the points first and keep them in --points")
    parser.add_argument("--points", type=Path, default=DOCS / "curves.json", help="measured points, JSON")
    parser.add_argument("--into", type=Path, default=DOCS, help="folder of the pictures")
    options = parser.parse_args()
    if options.measure:
        open_files()
        taken = asyncio.run(measure(lambda text: print(text, file=sys.stderr)))
        options.points.write_text(json.dumps(taken, indent=1) + "\n")
    elif not options.points.exists():
        parser.error(f"there are no points at {options.points}; take them with --measure")
    for name, svg in build_charts(json.loads(options.points.read_text())).items():
        (options.into / name).write_text(svg)
        print(options.into / name)


if __name__ == "__main__":
    main()
