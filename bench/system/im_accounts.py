"""D1: memory of an idle XMPP account through our connector, before a real server (prosody); the floor is a client of
the same library with its defaults, in the same run. Without TLS: what OpenSSL holds for a connection is nobody's
choice.

Each side is a process of its own, which connects ten accounts first, so that what all share is there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from bench.system.figures import Measured, Run
from bench.system.stage import BenchFailed, Process, open_files
from gateway.tour.networks.prosody import NEEDED, Prosody
from gateway.tour.operator.programs import missing

FULL, QUICK = 1_000, 200
#: of the floor, whose accounts are fifteen times as large
BARE = 100
#: connected before the first look
FIRST = 10
PASSWORD = "of-the-bench"  # a server that lives as long as the run
ANSWER_S = 600.0


async def take(run: Run) -> Measured:
    lacking = missing(NEEDED)
    if lacking:
        raise BenchFailed(f"{lacking} is not installed (on Debian: apt install {lacking})")
    n = run.size(FULL, QUICK)
    if open_files() < n + 200:
        raise BenchFailed(f"{n:,} accounts need as many open files; raise the limit (ulimit -n)")
    with tempfile.TemporaryDirectory(prefix="heliograph-im-") as name:
        folder = Path(name)
        server = Prosody(folder, {f"user{number}": PASSWORD for number in range(n + FIRST)}, is_hashed=True)
        await server.start()
        try:
            run.say(f"{n:,} accounts through the connector")
            ours = await _ask(folder, "connector", n, server)
            run.say(f"{BARE:,} accounts of the library's own client")
            bare = await _ask(folder, "bare", BARE, server)
        finally:
            await server.stop()
    value, floor = ours["bytes"] / n, bare["bytes"] / BARE
    cpu_ms = ours["cpu_s"] * 1_000 / n
    return Measured(
        value,
        "bytes",
        n,
        floor=floor,
        ratio=value / floor,
        note=f"a login takes {cpu_ms:.1f} ms of CPU, the floor's {bare['cpu_s'] * 1_000 / BARE:.1f} ms",
        more={"login_cpu_ms": cpu_ms},
    )


async def _ask(folder: Path, side: str, count: int, server: Prosody) -> dict[str, float]:
    process = Process(f"the accounts ({side})", folder)
    words = [side, str(count), str(server.port)]
    await process.start([sys.executable, "-m", "bench.system.im_account_process", *words], piped=True)
    try:
        stdout = process.child.stdout
        assert stdout is not None
        line = await asyncio.wait_for(stdout.readline(), ANSWER_S)
        if not line:
            raise BenchFailed(f"the accounts ended: {process.said()}")
        answer: dict[str, float] = json.loads(line)
        return answer
    finally:
        await process.stop()
