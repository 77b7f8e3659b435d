"""A node that keeps pushes, or takes them in, until it is killed: `python spool_child.py keep|drain FOLDER`.

keep: says the title of each push on stdout once it is answered. drain: says the key and title of each push that it
gives to the fleet, and takes the answer (its sequence) from stdin.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from spool_scene import APP, open_spool, push

from gateway.fleet.spool import Spool
from gateway.fleet.spool_record import Kept, parse_request
from gateway.metrics import Metrics


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def keep(spool: Spool) -> None:
    async def one(number: int) -> None:
        await spool.keep(APP, "k", push(f"{number}", token=f"t{number % 5}"))
        print(number, flush=True)

    number = 0
    while True:
        await asyncio.gather(*(one(number + more) for more in range(10)))
        number += 10


async def drain(spool: Spool) -> None:
    alone = asyncio.Lock()  # a text stream is for one thread

    async def take_in(kept: Kept) -> int:
        async with alone:
            print(kept.key, parse_request(kept.request).title, flush=True)
            return int(await asyncio.to_thread(sys.stdin.readline))

    spool.start(take_in, lambda: True)
    while spool.waiting:
        await asyncio.sleep(0.001)
    print("done", flush=True)


async def main(work: str, folder: str) -> None:
    spool = open_spool(Path(folder), Metrics(), now_ms)
    print("open", flush=True)
    await (keep(spool) if work == "keep" else drain(spool))
    await spool.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
