"""A program to be killed: campaigns over a real store, with an engine that ends downloads at random. Prints JSON lines.

python chaos_campaign.py FOLDER SEED COMMIT_MS CARDS
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from gateway.cards.campaigns import Campaigns, Wanted
from gateway.config.ota_section import Ota
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.cards import CampaignState, CardRecord, Download, DownloadState, KeySet, Payload
from gateway.model.registration import App
from gateway.store import Store

APP = "shop"
TAR = b"\xb0\x00\x11"
ENDS = (DownloadState.DONE, DownloadState.DONE, DownloadState.NOTICED, DownloadState.FAILED)


def card(at: int) -> CardRecord:
    keys = KeySet(1, 1, bytes(16), bytes(16))
    digits = f"8944{at:015d}"
    return CardRecord(digits, "", f"+4477{at:08d}", (keys,), 1, 1, TAR, TAR, tags=(f"batch-{at % 4}",))


class Engine:
    """At most forty at once, each for some milliseconds."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self._store = store
        self._chance = chance
        self._queue: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_over: Callable[[Download], None] = lambda _: None

    @property
    def active(self) -> int:
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def start(self, download: Download) -> None:
        self._queue.append(download.number)
        self._pump()

    def _pump(self) -> None:
        while self._queue and len(self._tasks) < 40:
            task = asyncio.create_task(self._carry(self._queue.pop(self._chance.randrange(len(self._queue)))))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, number: int) -> None:
        downloads = self._store.card_downloads
        row = downloads.read(number)
        assert row is not None
        if row.state.is_final:
            return
        downloads.change(msgspec.structs.replace(row, state=DownloadState.ACTIVE))
        await asyncio.sleep(self._chance.uniform(0.0, 0.02))
        over = msgspec.structs.replace(row, state=self._chance.choice(ENDS), cause="card")
        await downloads.settle(over)
        self.on_over(over)
        asyncio.get_running_loop().call_soon(self._pump)

    async def stop(self, number: int) -> Download | None:
        row = self._store.card_downloads.read(number)
        if row is None or number not in self._queue:
            return row
        self._queue.remove(number)
        over = msgspec.structs.replace(row, state=DownloadState.STOPPED, cause="stopped")
        await self._store.card_downloads.settle(over)
        self.on_over(over)
        return over


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


async def serve(folder: str, seed: int, commit_ms: float, cards: int, word: str) -> None:
    chance = random.Random(seed)
    store = await Store.open(StoreConfig(path=folder, max_bytes=1 << 30, commit_ms=commit_ms), Metrics(process=False))
    engine = Engine(store, chance)
    campaigns = Campaigns(
        store.cards,
        store.card_downloads,
        store.card_campaigns,
        engine,
        Ota(),
        Metrics(process=False),
        lambda: time.time_ns() // 1_000_000,
    )
    engine.on_over = campaigns.on_over
    for row in list(store.card_downloads.open()):
        engine.start(row)
    campaigns.start()
    kept = store.card_campaigns.all(APP)
    if not kept:
        await store.directory.put_app(App(name=APP))
        if store.cards.count() < cards:
            await store.cards.put([card(at) for at in range(cards)])
        wanted = Wanted(
            app=APP,
            name="n",
            payload=Payload((b"\x00\xa4\x00\x04\x02\x3f\x00",)),
            expires_ms=time.time_ns() // 1_000_000 + 86_400_000,
            query="not tag:batch-3",
            canary_share=0.02,
            canary_success=0.1,
        )
        made, accepted = campaigns.create(wanted)
        await accepted
        number = made.number
    else:
        number = kept[0].number
    say(ready=number, state=campaigns.read(APP, number).campaign.state.name)
    if chance.random() < 0.3:
        await asyncio.sleep(chance.uniform(0, 0.2))
        if campaigns.read(APP, number).campaign.state in (CampaignState.RUNNING, CampaignState.GATHERING):
            await campaigns.pause(APP, number)
            say(paused=True)
            await asyncio.sleep(chance.uniform(0, 0.1))
    progress = campaigns.read(APP, number)
    if word == "stop" and not progress.campaign.state.is_final:
        await campaigns.stop(APP, number)
        say(stopping=True)
    elif progress.campaign.state not in (CampaignState.DONE, CampaignState.STOPPED, CampaignState.STOPPING):
        await campaigns.resume(APP, number)
    while not (progress := campaigns.read(APP, number)).campaign.state.is_final:
        await asyncio.sleep(0.02)
        say(over=sum(progress.campaign.results.values()), counted=progress.is_counted, held=progress.held)
    campaign = progress.campaign
    states: Counter[int] = Counter()
    numbers: set[int] = set()
    members: set[bytes] = set()
    behind = campaign.first - 1
    while rows := store.card_downloads.of_campaign(number, behind, 1_000):
        states.update(int(row.state) for row in rows)
        members.update(row.card for row in rows)
        numbers.update(row.number for row in rows)
        behind = rows[-1].number
    lines: Counter[int] = Counter()
    cursor = 0
    while receipts := store.receipts.after(APP, cursor, 1_000):
        lines.update(receipt.outcome.notification for receipt in receipts)
        cursor = receipts[-1].cursor
    say(
        state=campaign.state.name,
        participants=campaign.participants,
        results={str(state): count for state, count in campaign.results.items()},
        truth={str(state): count for state, count in states.items()},
        cards=len(members),
        receipts=[len(lines), max(lines.values(), default=0), set(lines) == numbers],
    )
    await campaigns.close()
    await store.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
