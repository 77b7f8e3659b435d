"""Takes the figures of NATS that the simulator starts from, on three servers on loopback that sync every write: what an
idle stream of three replicas costs, how long a stream has no leader when a server is killed, how long a publish takes,
and what a small message between nodes costs its client. Must assume nothing of the gateway.

    .venv/bin/python -m bench.simulator.nats_figures             # some five minutes; JSON on stdout
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from nats.js.errors import Error as JetStreamError

from bench.system.stage import cpu_seconds, private_bytes
from gateway.tour.nats_servers import NatsServers

REPLICAS = 3
IDLE_COUNTS = (16, 256, 1_024)
IDLE_S = 8.0
PUBLISHES, PUBLISH_BYTES = 2_000, 10_000
ELECTION_STREAMS, ELECTION_KILLS, HANDOVERS = 16, 8, 3
#: between a stream's publishes while servers are killed
ELECTION_PACE_S = 0.02
#: a publish without an answer is sent again after so long, as the gap is what is looked for
ELECTION_TRY_S = 0.25
ELECTION_WATCH_S = 16.0
#: shorter ones are a slow turn and no election
SHORTEST_GAP_S = 0.2
SMALL_MESSAGES, SMALL_BYTES = 100_000, 64


async def add_streams(js: Any, first: int, last: int) -> None:
    for number in range(first, last):
        name = f"s{number}"
        await js.add_stream(StreamConfig(name=name, subjects=[name], num_replicas=REPLICAS))


def spread(sample: Sequence[float]) -> dict[str, float]:
    ordered = sorted(sample)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {name: round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 3) for name, part in at.items()}
    return found | {"max": round(ordered[-1], 3), "mean": round(statistics.fmean(ordered), 3), "n": len(ordered)}


async def publishes(servers: NatsServers) -> dict[str, Any]:
    """One after the other, each acked by a majority that has synced it."""
    client = await nats.connect(servers.urls.split(","))
    js = client.jetstream(timeout=30)
    await js.add_stream(StreamConfig(name="p", subjects=["p"], num_replicas=REPLICAS))
    body = bytes(PUBLISH_BYTES)
    took = []
    for _ in range(PUBLISHES):
        began = time.perf_counter()
        await js.publish("p", body, timeout=30)
        took.append((time.perf_counter() - began) * 1e3)
    await js.delete_stream("p")
    await client.close()
    return {"bytes": PUBLISH_BYTES, "ms": spread(took)}


async def small_messages(servers: NatsServers) -> dict[str, Any]:
    """From one connection to another of the same process: CPU of sending and of hearing one, together."""
    urls = servers.urls.split(",")
    sender, receiver = await nats.connect(urls[0]), await nats.connect(urls[1])
    came = asyncio.Event()
    heard = 0

    async def hear(_: Any) -> None:
        nonlocal heard
        heard += 1
        if heard == SMALL_MESSAGES:
            came.set()

    await receiver.subscribe("small", cb=hear, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await receiver.flush()
    await asyncio.sleep(0.5)
    body = bytes(SMALL_BYTES)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    servers_before = sum(cpu_seconds(server.process.pid) for server in servers.servers if server.process)
    began = time.perf_counter()
    for number in range(SMALL_MESSAGES):
        await sender.publish("small", body)
        if number % 256 == 255:
            await asyncio.sleep(0)
    await asyncio.wait_for(came.wait(), 60)
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    served = sum(cpu_seconds(server.process.pid) for server in servers.servers if server.process) - servers_before
    await sender.close()
    await receiver.close()
    return {
        "messages": SMALL_MESSAGES,
        "per_s": round(SMALL_MESSAGES / took),
        "client_us": round(cpu / SMALL_MESSAGES * 1e6, 2),
        "servers_us": round(served / SMALL_MESSAGES * 1e6, 2),
    }


async def idle_streams(servers: NatsServers, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Memory and CPU of all three servers with so many streams that nobody writes to."""
    client = await nats.connect(servers.urls.split(","))
    js = client.jetstream(timeout=30)
    found, there = [], 0
    pids = [server.process.pid for server in servers.servers if server.process]
    for count in (0, *IDLE_COUNTS):
        began = time.perf_counter()
        await add_streams(js, there, count)
        created = time.perf_counter() - began
        there = count
        await asyncio.sleep(3)
        cpu, at = sum(map(cpu_seconds, pids)), time.perf_counter()
        await asyncio.sleep(IDLE_S)
        used = (sum(map(cpu_seconds, pids)) - cpu) / (time.perf_counter() - at)
        memory = sum(map(private_bytes, pids))
        found.append(
            {"streams": count, "create_s": round(created, 1), "cores": round(used, 4), "memory_mb": round(memory / 1e6)}
        )
        say(f"{found[-1]}")
    await client.close()
    return found


async def elections(
    servers: NatsServers, say: Callable[[str], None], how: signal.Signals = signal.SIGKILL, kills: int = ELECTION_KILLS
) -> dict[str, Any]:
    """Each stream is published to all the time; a server gets a signal, and is killed and started again; how long
    each stream took nothing. Streams that the server did not lead show no gap."""
    client = await nats.connect(servers.urls.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    js = client.jetstream(timeout=30)
    names = [f"e{number}" for number in range(ELECTION_STREAMS)]
    for name in names:
        await js.add_stream(StreamConfig(name=name, subjects=[name], num_replicas=REPLICAS))
    last = dict.fromkeys(names, 0.0)
    worst = dict.fromkeys(names, 0.0)

    async def write(name: str) -> None:
        while True:
            with suppress(NatsError, JetStreamError, TimeoutError):
                await js.publish(name, b"x", timeout=ELECTION_TRY_S)
                now = time.perf_counter()
                worst[name] = max(worst[name], now - last[name])
                last[name] = now
            await asyncio.sleep(ELECTION_PACE_S)

    writers = [asyncio.create_task(write(name)) for name in names]
    gaps: list[float] = []
    for turn in range(kills):
        await asyncio.sleep(2)
        now = time.perf_counter()
        for name in names:
            last[name], worst[name] = now, 0.0
        server = servers.servers[turn % len(servers.servers)]
        server.kill(how)
        await asyncio.sleep(ELECTION_WATCH_S)
        found = [gap for gap in worst.values() if gap > SHORTEST_GAP_S]
        gaps += found
        say(f"kill {turn + 1}: {len(found)} of {len(names)} streams, {[round(gap, 2) for gap in sorted(found)]}")
        server.kill()
        server.start()
        await servers.wait_until_healthy()
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    await client.close()
    return {
        "kills": kills,
        "streams": len(names),
        "gap_s": spread(gaps) if gaps else {},
        "gaps_s": sorted(round(gap, 2) for gap in gaps),
    }


async def take(parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="heliograph-nats-") as folder:
        servers = NatsServers(Path(folder))
        await servers.start()
        try:
            await asyncio.sleep(2)
            if "publish" in parts:
                found["publish"] = await publishes(servers)
                say(f"{found['publish']}")
            if "small" in parts:
                found["small"] = await small_messages(servers)
                say(f"{found['small']}")
            if "elections" in parts:
                found["elections"] = await elections(servers, say)
                say(f"{found['elections']}")
            if "handover" in parts:
                # lame duck mode: the server gives its leaders away before it ends
                found["handover"] = await elections(servers, say, signal.SIGUSR2, HANDOVERS)
                say(f"{found['handover']}")
            if "idle" in parts:
                found["idle"] = await idle_streams(servers, say)
        finally:
            await servers.close()
    return found


PARTS = ("publish", "small", "elections", "handover", "idle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {PARTS}; default: all")
    options = parser.parse_args()
    found = asyncio.run(take(options.parts or PARTS, lambda text: print(text, file=sys.stderr, flush=True)))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
