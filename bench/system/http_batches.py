"""A provider that sends batches over HTTP as fast as they are answered: a plain asyncio client in a process of its own.

As a program: python -m bench.system.http_batches PORT KEY TOKENS_FILE SECONDS [RATE]. Without a rate the bodies are
built before the clock runs; with one (pushes a second) small batches leave at that pace, each push with the moment it
was sent, as the swarm's own. Prints {"accepted", "refused", "seconds", "per_s", "batch_ms"}.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

BATCH = 5_000
CONNECTIONS = 2
#: bodies made beforehand, sent in turn
BODIES = 8
#: pause between two batches at a pace, on each connection
PACE_S = 0.02
TEXT = "x" * 100


def build_body(tokens: list[str], chance: random.Random, batch: int) -> bytes:
    lines = [
        json.dumps({"target": {"token": token}, "text": TEXT}, separators=(",", ":"))
        for token in chance.choices(tokens, k=batch)
    ]
    return ("\n".join(lines) + "\n").encode()


class Provider:
    """One connection that sends one batch after another."""

    def __init__(self, port: int, key: str, bodies: list[bytes]) -> None:
        self._port = port
        self._head = (
            f"POST /v1/push/batch HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
            "content-type: application/x-ndjson\r\ncontent-length: {size}\r\n\r\n"
        )
        self._bodies = bodies
        self.accepted = 0
        self.refused = 0
        self.batch_ms: list[float] = []

    async def run_paced(self, end: float, rate: float, tokens: list[str], chance: random.Random) -> None:
        """A batch of what became due since the last, each push with its moment (see load/fleet.pyx)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        began, offered = time.perf_counter(), 0
        while (now := time.perf_counter()) < end:
            due = int((now - began) * rate) - offered
            if due <= 0:
                await asyncio.sleep(PACE_S)
                continue
            stamp = f"t{time.monotonic_ns():016x}{TEXT[17:]}"
            lines = [
                f'{{"target":{{"token":"{token}"}},"text":"{stamp}"}}\n' for token in chance.choices(tokens, k=due)
            ]
            body = "".join(lines).encode()
            offered += due
            writer.write(self._head.replace("{size}", str(len(body))).encode() + body)
            accepted, refused = await _read_results(reader)
            self.accepted += accepted
            self.refused += refused
            self.batch_ms.append((time.perf_counter() - now) * 1000)
            await asyncio.sleep(PACE_S)
        writer.close()

    async def run(self, end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        turn = 0
        while time.perf_counter() < end:
            body = self._bodies[turn % len(self._bodies)]
            turn += 1
            began = time.perf_counter()
            writer.write(self._head.replace("{size}", str(len(body))).encode() + body)
            accepted, refused = await _read_results(reader)
            self.accepted += accepted
            self.refused += refused
            self.batch_ms.append((time.perf_counter() - began) * 1000)
        writer.close()


async def _read_results(reader: asyncio.StreamReader) -> tuple[int, int]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    if status != b"200":
        raise SystemExit(f"the gateway refused a batch: {head.decode('latin-1')}")
    parts: list[bytes] = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    results = b"".join(parts)
    refused = results.count(b'"error"')
    return results.count(b"\n") - refused, refused


async def main(port: int, key: str, tokens: list[str], seconds: float, rate: float = 0.0) -> dict[str, Any]:
    chance = random.Random(1)
    bodies = [build_body(tokens, chance, BATCH) for _ in range(0 if rate else BODIES)]
    providers = [Provider(port, key, bodies[number::CONNECTIONS]) for number in range(CONNECTIONS)]
    began = time.perf_counter()
    end = began + seconds
    await asyncio.gather(
        *(
            provider.run_paced(end, rate / CONNECTIONS, tokens, chance) if rate else provider.run(end)
            for provider in providers
        )
    )
    took = time.perf_counter() - began
    accepted = sum(provider.accepted for provider in providers)
    times = sorted(ms for provider in providers for ms in provider.batch_ms)
    return {
        "accepted": accepted,
        "refused": sum(provider.refused for provider in providers),
        "seconds": took,
        "per_s": accepted / took,
        "batch_ms": {"p50": times[len(times) // 2], "max": times[-1], "count": len(times)},
    }


if __name__ == "__main__":
    port, key, tokens_file, seconds, *rate = sys.argv[1:]
    tokens = Path(tokens_file).read_text().split()
    answer = uvloop.run(main(int(port), key, tokens, float(seconds), float(rate[0]) if rate else 0.0))
    print(json.dumps(answer))
