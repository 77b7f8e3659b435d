"""O3: a campaign for many cards behind a network that loses 5 % of its datagrams, from its creation until every card
has executed every command, once and in order; the whole gateway with its store, an SMSC, secured packets, PUSH, CAT_TP.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

from bench.system.card_fleet import CardFleet
from bench.system.figures import Measured, Run
from bench.system.light_cards import DATA_KEYS, PUSH_KEYS, TAR, iccid, key, msisdn
from bench.system.stage import BenchFailed, Stage, cpu_seconds, private_bytes

FULL, QUICK = 100_000, 1_000
LOSS, SEED = 0.05, 11
#: an update of 2 kB: sixteen files of 120 bytes
COMMANDS = [bytes((0x00, 0xD6, number, 0x00, 120)) + bytes((number,)) * 120 for number in range(16)]
#: cards in one request
IMPORTED = 2_000
#: at most so long, and so long without any progress
MOST_S, STILL_S = 3_000.0, 150.0
LOOK_S, SAY_S = 0.5, 5.0
SETTINGS = (
    "ota.port=0",
    "ota.smsc_rate=0",
    "paging.smsc_rate=0",
    "paging.smsc_window=1000",
)


async def take(run: Run) -> Measured:
    return await measure(run.size(FULL, QUICK), run)


async def measure(n: int, run: Run, *, loss: float = LOSS) -> Measured:
    async with CardFleet(n, loss=loss, seed=SEED, commands=COMMANDS) as fleet:
        smsc = f"paging.smscs=smpp://pushgw@127.0.0.1:{fleet.port}?password_file={fleet.password_file}"
        async with Stage(smsc, *SETTINGS) as stage:
            run.say(f"{n:,} cards are imported")
            began = time.monotonic()
            await _import(stage, n)
            import_s = time.monotonic() - began
            empty, cpu, cards_cpu = private_bytes(stage.pid), cpu_seconds(stage.pid), fleet.cpu_seconds()
            began = time.monotonic()
            campaign = await _create(stage)
            seconds, most = await _watch(stage, fleet, run, campaign, n, began)
            gateway_cpu, cards_cpu = cpu_seconds(stage.pid) - cpu, fleet.cpu_seconds() - cards_cpu
            counts, told = await fleet.counts(), await _ask(stage, f"/v1/campaigns/{campaign}")
    incomplete = n - counts["complete"]
    return Measured(
        value=seconds,
        unit="s",
        n=n,
        note=f"{n / seconds:.0f} cards a second, {len(COMMANDS)} commands each ({sum(map(len, COMMANDS)):,} bytes);"
        f" CPU of the gateway {gateway_cpu / n * 1e3:.2f} ms a card, of cards and SMSC {cards_cpu / n * 1e3:.2f};"
        f" {counts.get('datagrams_lost', 0):,} datagrams lost, {counts.get('smsc_submitted', 0):,} messages;"
        f" {import_s:.0f} s to import them; {(most - empty) / 1e6:.0f} MB more at most",
        more={
            "incomplete": incomplete,
            "wrong": counts.get("wrong", 0),
            "results": told.get("results", {}),
            "gateway_cpu_ms_a_card": gateway_cpu / n * 1e3,
            "cards_cpu_ms_a_card": cards_cpu / n * 1e3,
            "import_s": import_s,
            "grown_bytes": most - empty,
            "cards": counts,
        },
    )


def describe(number: int) -> dict[str, Any]:
    """A card as an import takes it."""
    sets = [
        {
            "number": number_,
            "algorithm": "aes",
            "kic": key(number, f"kic{number_}").hex(),
            "kid": key(number, f"kid{number_}").hex(),
        }
        for number_ in (PUSH_KEYS, DATA_KEYS)
    ]
    return {
        "iccid": iccid(number),
        "msisdn": "+" + msisdn(number),
        "key_sets": sets,
        "push_keys": PUSH_KEYS,
        "data_keys": DATA_KEYS,
        "tar": TAR.hex(),
    }


def requests(n: int) -> Iterator[bytes]:
    for first in range(0, n, IMPORTED):
        lines = (json.dumps(describe(number)) for number in range(first, min(first + IMPORTED, n)))
        yield "\n".join(lines).encode()


async def _import(stage: Stage, n: int) -> None:
    admin = (stage.store / "admin.key").read_text().strip()
    headers = {"authorization": f"Bearer {admin}", "content-type": "application/x-ndjson"}
    imported = 0
    async with httpx.AsyncClient(base_url=stage.url, timeout=120, trust_env=False, headers=headers) as http:
        for body in requests(n):
            answer = await http.post("/v1/cards", content=body)
            if answer.status_code not in (200, 201, 207):
                raise BenchFailed(f"cards could not be imported: {answer.status_code} {answer.text[:300]}")
            imported += answer.json()["imported"]
    if imported != n:
        raise BenchFailed(f"{imported:,} of {n:,} cards were imported")


async def _create(stage: Stage) -> str:
    body = {"name": "bench", "commands": [command.hex() for command in COMMANDS], "query": "all"}
    answer = await stage.call("POST", "/v1/campaigns", json=body)
    if answer.status_code not in (200, 201, 202):
        raise BenchFailed(f"the campaign could not be created: {answer.status_code} {answer.text[:300]}")
    return str(answer.json()["id"])


async def _ask(stage: Stage, path: str) -> dict[str, Any]:
    answer = await stage.call("GET", path)
    if answer.status_code != 200:
        raise BenchFailed(f"{path} answers {answer.status_code} {answer.text[:300]}")
    told: dict[str, Any] = answer.json()
    return told


async def _watch(stage: Stage, fleet: CardFleet, run: Run, campaign: str, n: int, began: float) -> tuple[float, int]:
    """(seconds until it was over, most private memory)."""
    most, last, moved, said = 0, -1, time.monotonic(), 0.0
    while True:
        stage.check()
        told, counts = await _ask(stage, f"/v1/campaigns/{campaign}"), await fleet.counts()
        now = time.monotonic()
        most = max(most, private_bytes(stage.pid))
        if told["state"] not in ("gathering", "running"):
            if told["state"] != "done":
                raise BenchFailed(f"the campaign ended as {told['state']}: {told.get('results')}")
            return now - began, most
        if counts["complete"] > last:
            last, moved = counts["complete"], now
        if now - moved > STILL_S or now - began > MOST_S:
            raise BenchFailed(
                f"{counts['complete']:,} of {n:,} cards after {now - began:.0f} s, and no more come: {counts}; {told}"
            )
        if now - said >= SAY_S:
            said = now
            run.say(f"{counts['complete']:,} cards complete, {counts['in_channels']:,} in channels")
        await asyncio.sleep(LOOK_S)
