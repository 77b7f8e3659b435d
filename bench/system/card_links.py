"""O1: PDUs a second that the CAT_TP server takes and answers, over the smallest program that does; O2: bytes of a link
that is open and idle. The cards are load/cards.pyx, the same for all servers, each server a process of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.system.cattp_servers import CattpServer, identifications
from bench.system.figures import Measured, Run
from bench.system.stage import BenchFailed
from gateway._load.cards import Cards

FULL, QUICK = 100_000, 20_000
#: what Python holds in the same time
PEER_LINKS = 10_000
ROUNDS, SECONDS, QUICK_SECONDS = 3, 4, 1
SETTLE_S = 0.3
SDU_BYTES = 32
#: PDUs of the cards on their way, all together
AT_ONCE, OPENING = 512, 256
SOCKETS = 16
OPEN_S = 120.0
LOOPBACK = 0x7F000001


async def take(run: Run) -> Measured:
    return await (memory(run) if run.only == "O2" else speed(run))


@contextmanager
def fleet(server: CattpServer, links: int) -> Iterator[Cards]:
    cards = Cards(LOOPBACK, server.port, identifications(links), sockets=SOCKETS)
    thread = threading.Thread(target=cards.run, daemon=True)
    thread.start()
    try:
        yield cards
    finally:
        cards.stop()
        thread.join()


async def open_all(cards: Cards, links: int) -> float:
    """All links; how many a second."""
    began = time.monotonic()
    cards.open(links, OPENING)
    while not cards.is_calm:
        if time.monotonic() - began > OPEN_S:
            break
        await asyncio.sleep(0.01)
    counts = cards.counts()
    if counts["open"] < links:
        raise BenchFailed(f"only {counts['open']:,} of {links:,} links opened; RSTs by reason: {cards.reasons()}")
    return links / (time.monotonic() - began)


@dataclass(slots=True)
class Speed:
    """Of one server in one round."""

    per_s: float
    per_cpu_s: float
    p99_ms: float
    opened_per_s: float


async def measure(kind: str, links: int, seconds: float, sdu_bytes: int = SDU_BYTES) -> Speed:
    async with CattpServer(kind, links) as server:
        with fleet(server, links) as cards:
            opened_per_s = await open_all(cards, links)
            cards.ping(links, AT_ONCE, sdu_bytes)
            await asyncio.sleep(SETTLE_S)
            cards.reset()
            before, cpu, began = cards.counts(), server.cpu_seconds(), time.monotonic()
            await asyncio.sleep(seconds)
            after, cpu, took = cards.counts(), server.cpu_seconds() - cpu, time.monotonic() - began
            p99_ms = cards.answer_ms()["p99"]
            cards.ping(0, AT_ONCE, sdu_bytes)
    if after["ended"] or after["given_up"] or after["malformed"]:
        raise BenchFailed(f"links of the {kind} server ended under load: {after}")
    pairs = after["pairs"] - before["pairs"]
    return Speed(pairs / took, pairs / max(cpu, 1e-9), p99_ms, opened_per_s)


async def speed(run: Run) -> Measured:
    links, seconds = run.size(FULL, QUICK), run.size(SECONDS, QUICK_SECONDS)
    ours: list[Speed] = []
    floors: list[Speed] = []
    # in turn, so that what else the machine does meets both
    for number in range(ROUNDS):
        run.say(f"{links:,} links, round {number + 1}: the floor, then the gateway's server")
        floors.append(await measure("floor", links, seconds))
        ours.append(await measure("gateway", links, seconds))
    run.say("NULs, which no SDU comes out of; then Python's links")
    nuls = await measure("gateway", links, seconds, 0)
    peer = await measure("python", PEER_LINKS, seconds)
    ratio = statistics.median(one.per_s / floor.per_s for one, floor in zip(ours, floors, strict=True))
    cpu_ratio = statistics.median(one.per_cpu_s / floor.per_cpu_s for one, floor in zip(ours, floors, strict=True))
    per_cpu_s, floor_per_cpu_s = (statistics.median(one.per_cpu_s for one in taken) for taken in (ours, floors))
    opened_per_s = statistics.median(one.opened_per_s for one in ours)
    p99_ms = statistics.median(one.p99_ms for one in ours)
    return Measured(
        value=statistics.median(one.per_s for one in ours),
        unit="/s",
        n=links,
        floor=statistics.median(floor.per_s for floor in floors),
        peer=peer.per_s,
        ratio=ratio,
        note=f"{SDU_BYTES} bytes up, an acknowledgement down; p99 {p99_ms:.1f} ms with {AT_ONCE} on their way;"
        f" a second of CPU answers {per_cpu_s:,.0f}, the floor's {floor_per_cpu_s:,.0f}; NULs {nuls.per_s:,.0f}/s;"
        f" {opened_per_s:,.0f} links opened a second; peer: the link in Python on uvloop, {PEER_LINKS:,} links",
        more={
            "cpu_ratio": cpu_ratio,
            "per_cpu_s": per_cpu_s,
            "floor_per_cpu_s": floor_per_cpu_s,
            "nuls_per_s": nuls.per_s,
            "opened_per_s": opened_per_s,
            "p99_ms": p99_ms,
        },
    )


async def memory(run: Run) -> Measured:
    # no fewer in a short run: tables are as large as the settings want them
    links = FULL
    async with CattpServer("gateway", links) as server:
        empty, said = server.private_bytes(), (await server.counts())["bytes"]
        with fleet(server, links) as cards:
            run.say(f"{links:,} links")
            await open_all(cards, links)
            await asyncio.sleep(SETTLE_S)
            counts = await server.counts()
            full = server.private_bytes()
            if counts["links"] != links:
                raise BenchFailed(f"the server has {counts['links']:,} links of {links:,}")
    a_link, grown = counts["bytes"] / links, (full - empty) / links
    return Measured(
        value=a_link,
        unit="bytes",
        n=links,
        note=f"all that its links, tables and expected identifications take, as it says; {said / links:.0f} of it while"
        f" a card is only expected; from there to an open link the process grew by {grown:.0f} bytes",
        more={"grown_bytes_a_link": grown, "bytes_an_expected_one": said / links},
    )
