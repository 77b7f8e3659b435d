"""P1: user-space bytes of the gateway for an idle, logged-in device with one registration, index included.

    .venv/bin/python -m bench.idle_memory --devices 56000

Reads the private memory of an empty gateway; has all devices register once; restarts the gateway on that store, so that
it holds what a running one does; has all devices come back over real TCP (HELLO and REGISTER, then silence), and reads
its memory again. Kernel memory of the sockets is not in it (/proc/net/sockstat has it). Prints one JSON object; exit
code 1 where the target is missed. Few devices read higher, for what is taken in blocks is spread over them: 263 bytes
at 14,000 where 28,000 and 56,000 read 228.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import signal
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from gateway.tour.stage import APP, Stage
from load.fleet import Holders

#: for commits and answers under way
SETTLE_S = 3.0
TARGET_BYTES = 256


def private_bytes(pid: int) -> int:
    """Anonymous memory of the process, bytes: heap, slabs and stacks, not files mapped (the store's pages)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    return int(fields["Anonymous"].split()[0]) * 1024


async def measure(count: int) -> dict[str, Any]:
    holders = Holders()
    # Each reactor has a descriptor table of its own; the kernel spreads connections over them not quite evenly.
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reactors = math.ceil(count * 1.1 / limit)
    async with Stage(f"edge.reactors={reactors}") as stage:
        empty = private_bytes(stage.pid)
        try:
            await holders.start(APP, stage.device_port, count)
            first_s = await _timed(holders.tell("connect"))
            await holders.tell("drop")
            await stage.stop_gateway(signal.SIGTERM)
            await stage.start_gateway()
            again_s = await _timed(holders.tell("connect"))
            await asyncio.sleep(SETTLE_S)
            full = private_bytes(stage.pid)
        finally:
            await holders.close()
        await stage.stop_gateway(signal.SIGTERM)
    each = (full - empty) / count
    return {
        "P1": {
            "value": round(each, 1),
            "unit": "bytes a device",
            "devices": count,
            "process_bytes": {"empty": empty, "full": full},
            "reactors": reactors,
            "target": TARGET_BYTES,
            "ok": each <= TARGET_BYTES,
            "first_logins_per_s": round(count / first_s),
            "logins_per_s": round(count / again_s),
        }
    }


async def _timed(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=28_000)
    result = asyncio.run(measure(parser.parse_args().devices))
    print(json.dumps(result))
    sys.exit(0 if result["P1"]["ok"] else 1)


if __name__ == "__main__":
    main()
