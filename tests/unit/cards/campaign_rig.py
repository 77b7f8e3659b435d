"""Records of cards, downloads and campaigns in RAM, which a crash takes back to what was committed, and an engine that
finishes downloads in a seeded random order."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from gateway.cards.campaigns import Campaigns, Wanted
from gateway.config.ota_section import Ota
from gateway.metrics import Metrics
from gateway.model.cards import (
    Ability,
    Campaign,
    CampaignState,
    Capability,
    CardRecord,
    Download,
    DownloadState,
    Payload,
    build_card_id,
)
from gateway.model.errors import StoreUnavailable

APP = "chat"
PAYLOAD = Payload((b"\x80\xc2\x00\x00\x01\x01",))


class Committed:
    """Writes are seen at once and durable in the order of their submission, a turn of the loop later."""

    def __init__(self) -> None:
        self.durable: dict[Any, Any] = {}
        self.seen: dict[Any, Any] = {}
        self.pending: list[tuple[dict[Any, Any], asyncio.Future[None]]] = []
        self.is_full = False
        self.commits = 0

    def write(self, rows: dict[Any, Any]) -> asyncio.Future[None]:
        if self.is_full:
            raise StoreUnavailable
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.seen.update(rows)
        if not self.pending:
            loop.call_soon(loop.call_soon, self.commit)
        self.pending.append((rows, future))
        return future

    def commit(self) -> None:
        pending, self.pending = self.pending, []
        self.commits += 1
        for rows, future in pending:
            self.durable.update(rows)
            if not future.cancelled():
                future.set_result(None)

    def crash(self) -> None:
        self.pending.clear()
        self.seen = dict(self.durable)


class Records:
    """All three kinds of records on one log of commits."""

    def __init__(self) -> None:
        self.log = Committed()
        self.next = 1_000
        self.cards: dict[bytes, CardRecord] = {}
        self.abilities: dict[bytes, Capability] = {}
        self.payloads: dict[bytes, Payload] = {}
        self.receipts: Counter[int] = Counter()
        self.order: list[bytes] = []

    def add_card(self, name: str, *tags: str, ability: Ability = Ability.UNKNOWN, until_ms: int = 0) -> bytes:
        handle = hashlib.sha256(name.encode()).digest()[:16]
        self.cards[handle] = CardRecord(
            iccid=name, imsi="", msisdn="", key_sets=(), push_keys=1, data_keys=1, push_tar=b"", tar=b"", tags=tags
        )
        self.abilities[handle] = Capability(ability, until_ms=until_ms)
        self.order = sorted(self.cards)
        return handle

    def add_cards(self, count: int, *tags: str) -> list[bytes]:
        for at in range(count):
            handle = hashlib.sha256(b"%d" % at).digest()[:16]
            self.cards[handle] = CardRecord(
                iccid=str(at),
                imsi="",
                msisdn="",
                key_sets=(),
                push_keys=1,
                data_keys=1,
                push_tar=b"",
                tar=b"",
                tags=tags,
            )
        self.order = sorted(self.cards)
        return self.order

    # cards
    def read_card(self, card: bytes) -> CardRecord | None:
        return self.cards.get(card)

    def capability(self, card: bytes) -> Capability:
        return self.abilities.get(card, Capability())

    def count(self) -> int:
        return len(self.cards)

    def walk(self, after: bytes, limit: int) -> list[tuple[bytes, CardRecord]]:
        import bisect

        at = bisect.bisect_right(self.order, after) if after else 0
        return [(card, self.cards[card]) for card in self.order[at : at + limit]]

    # downloads
    def reserve(self, count: int) -> int:
        if self.log.is_full:
            raise StoreUnavailable
        first, self.next = self.next, self.next + count
        return first

    def put_payload(self, payload: Payload) -> bytes:
        digest = hashlib.sha256(b"".join(payload.commands)).digest()
        self.payloads[digest] = payload
        return digest

    def payload(self, digest: bytes) -> Payload | None:
        return self.payloads.get(digest)

    def add(self, downloads: Sequence[Download]) -> asyncio.Future[None]:
        assert all(download.number not in self.log.seen for download in downloads), "a number is given twice"
        return self.log.write({download.number: download for download in downloads})

    def change(self, download: Download) -> asyncio.Future[None]:
        assert not self.log.seen[download.number].state.is_final, "what is over is over"
        return self.log.write({download.number: download})

    def settle(self, download: Download) -> asyncio.Future[None]:
        assert download.state.is_final
        future = self.change(download)
        self.receipts[download.number] += 1
        return future

    def read(self, number: int) -> Download | None:
        found = self.log.seen.get(number)
        return found if isinstance(found, Download) else None

    def open(self) -> Iterable[Download]:
        return [
            row
            for row in self.log.seen.values()
            if isinstance(row, Download) and row.state in (DownloadState.WAITING, DownloadState.ACTIVE)
        ]

    def of_campaign(self, campaign: int, after: int, limit: int) -> list[Download]:
        owner = self.log.seen[-campaign]
        last = owner.first + owner.participants
        found: list[Download] = []
        for number in range(max(after + 1, owner.first), last):
            row = self.read(number)
            if row is not None:
                found.append(row)
                if len(found) == limit:
                    break
        return found


class CampaignView:
    def __init__(self, records: Records) -> None:
        self._log = records.log

    def put(self, campaign: Campaign) -> asyncio.Future[None]:
        return self._log.write({-campaign.number: campaign})

    def read(self, number: int) -> Campaign | None:
        found = self._log.seen.get(-number)
        return found if isinstance(found, Campaign) else None

    def all(self, app: str = "") -> list[Campaign]:
        found = [row for row in self._log.seen.values() if isinstance(row, Campaign) and app in ("", row.app)]
        return sorted(found, key=lambda each: -each.number)


class CardView:
    def __init__(self, records: Records) -> None:
        self._records = records

    def read(self, card: bytes) -> CardRecord | None:
        return self._records.read_card(card)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)


class Engine:
    """Carries out what is started, at most `at_once`, a random one at each turn; `result` says how each ends."""

    def __init__(self, records: Records, seed: int, at_once: int = 50) -> None:
        self.records = records
        self.random = random.Random(seed)
        self.at_once = at_once
        self.on_over: Callable[[Download], None] = lambda _: None
        self.result: Callable[[Download], tuple[DownloadState, str]] = lambda _: (DownloadState.DONE, "")
        self.queue: list[int] = []
        self.running: list[int] = []
        self.started: Counter[int] = Counter()
        self.order: list[int] = []
        self.retrying: set[int] = set()
        self.is_held = False
        self.most = 0
        self.task: asyncio.Task[None] | None = None

    @property
    def active(self) -> int:
        return len(self.running)

    @property
    def waiting(self) -> int:
        return len(self.queue) + len(self.retrying)

    def start(self, download: Download) -> None:
        row = self.records.log.durable[download.number]
        assert row.state == DownloadState.WAITING, "it is started before it is durable"
        self.started[download.number] += 1
        self.order.append(download.number)
        self.queue.append(download.number)

    def resume(self) -> None:
        """As at a start."""
        self.queue += [row.number for row in self.records.open()]

    async def stop(self, number: int) -> Download | None:
        if number not in self.queue and number not in self.running and number not in self.retrying:
            return None
        for place in (self.queue, self.running):
            if number in place:
                place.remove(number)
        self.retrying.discard(number)
        return await self.finish(number, DownloadState.STOPPED, "stopped")

    async def finish(self, number: int, state: DownloadState, cause: str) -> Download:
        row = self.records.read(number)
        assert row is not None
        over = msgspec.structs.replace(row, state=state, cause=cause)
        await self.records.settle(over)
        self.on_over(over)
        return over

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            if self.is_held:
                continue
            while self.queue and len(self.running) < self.at_once:
                number = self.queue.pop(self.random.randrange(len(self.queue)))
                row = self.records.read(number)
                assert row is not None
                self.running.append(number)
                await self.records.change(msgspec.structs.replace(row, state=DownloadState.ACTIVE))
            self.most = max(self.most, len(self.running))
            if self.running:
                number = self.running.pop(self.random.randrange(len(self.running)))
                row = self.records.read(number)
                assert row is not None
                if row.state.is_final:
                    continue
                state, cause = self.result(row)
                if state == DownloadState.WAITING:  # another try, some day
                    self.retrying.add(number)
                    await self.records.change(
                        msgspec.structs.replace(row, state=state, cause=cause, due_ms=1 << 50, calls=1)
                    )
                    continue
                await self.finish(number, state, cause)


class Scene:
    """Campaigns over records and an engine of the rig."""

    def __init__(
        self, records: Records | None = None, *, seed: int = 1, engine_at_once: int = 50, **settings: Any
    ) -> None:
        self.records = records or Records()
        self.engine = Engine(self.records, seed, engine_at_once)
        self.config = Ota(**settings)
        self.metrics = Metrics(process=False)
        self.now = 1_000_000
        self.views = CampaignView(self.records)
        cards: Any = CardView(self.records)
        downloads: Any = self.records
        self.campaigns = Campaigns(
            cards, downloads, self.views, self.engine, self.config, self.metrics, lambda: self.now
        )
        self.engine.on_over = self.campaigns.on_over

    async def __aenter__(self) -> Scene:
        self.engine.resume()
        self.campaigns.start()
        self.engine.task = asyncio.create_task(self.engine.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.campaigns.close()
        assert self.engine.task is not None
        self.engine.task.cancel()
        results = await asyncio.gather(self.engine.task, return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                raise error

    async def kill(self, **settings: Any) -> Scene:
        """Everything but what is durable is gone."""
        self.records.log.crash()
        await self.__aexit__()
        self.records.log.crash()
        return Scene(self.records, **settings)

    def wanted(self, **fields: Any) -> Wanted:
        base: dict[str, Any] = {"app": APP, "name": "n", "payload": PAYLOAD, "expires_ms": self.now + 86_400_000}
        return Wanted(**(base | fields))

    async def create(self, cards: Iterable[bytes] | None = None, **fields: Any) -> int:
        listed = None
        if cards is not None:
            listed = self.campaigns.new_list()
            for card in cards:
                listed.add(build_card_id(card))
            listed.end()
        campaign, accepted = self.campaigns.create(self.wanted(**fields), listed)
        await accepted
        return campaign.number

    def campaign(self, number: int) -> Campaign:
        return self.campaigns.read(APP, number).campaign

    async def until(self, is_so: Callable[[], bool], turns: int = 200_000) -> None:
        for _ in range(turns):
            if is_so():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not come about")

    async def until_state(self, number: int, state: CampaignState) -> Campaign:
        await self.until(lambda: self.campaign(number).state == state)
        return self.campaign(number)

    def truth(self, number: int) -> dict[int, int]:
        """Results as the rows say, all there are of it."""
        rows = [row for row in self.records.log.seen.values() if isinstance(row, Download) and row.campaign == number]
        return dict(Counter(int(row.state) for row in rows))
