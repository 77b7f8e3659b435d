"""Messages a second that a bare client appends to JetStream: streams of three replicas that sync every write, one
message of each on its way at a time. The floor of K2; run as a process of its own, so that it has a core like a node.

    python -m bench.system.nats_appends URLS STREAMS BYTES SECONDS     # JSON on stdout
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

REPLICAS = 3
TIMEOUT_S = 30.0
#: names of its streams, which it removes again
PREFIX = "BENCH_"


async def append(urls: list[str], streams: int, size: int, seconds: float) -> dict[str, Any]:
    """As many connections as there are servers, each with its part of the streams."""
    import nats
    from nats.js.api import StreamConfig

    clients = [await nats.connect(url, connect_timeout=10) for url in urls]
    contexts = [client.jetstream(timeout=TIMEOUT_S) for client in clients]
    names = [f"{PREFIX}{number}" for number in range(streams)]
    body = bytes(size)
    took: list[float] = []
    sent = [0] * streams
    try:
        for name in names:
            await contexts[0].add_stream(StreamConfig(name=name, subjects=[name], num_replicas=REPLICAS))
        began = time.perf_counter()
        end = began + seconds

        async def write(number: int) -> None:
            js = contexts[number % len(contexts)]
            last = 0
            while (now := time.perf_counter()) < end:
                # the fence that a commit has too, so that the servers do the same for both
                headers = {"Nats-Expected-Last-Sequence": str(last)}
                last = (await js.publish(names[number], body, headers=headers)).seq
                took.append(time.perf_counter() - now)
                sent[number] += 1

        await asyncio.gather(*map(write, range(streams)))
        lasted = time.perf_counter() - began
    finally:
        for name in names:
            await contexts[0].delete_stream(name)
        for client in clients:
            await client.close()
    took.sort()
    return {
        "messages": sum(sent),
        "messages_per_s": sum(sent) / lasted,
        "bytes_per_s": sum(sent) * size / lasted,
        "p50_ms": took[len(took) // 2] * 1e3,
        "p99_ms": took[int(len(took) * 0.99)] * 1e3,
    }


def main() -> None:
    urls, streams, size, seconds = sys.argv[1:]
    json.dump(asyncio.run(append(urls.split(","), int(streams), int(size), float(seconds))), sys.stdout)


if __name__ == "__main__":
    main()
