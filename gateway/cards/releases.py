"""One campaign carried through: gathers, counts what is there, releases participants in order, and ends it (E6, E7).

What is true stands in each participant's own row; `Campaign.released` and `results` are only hints that save looking.
So whatever a kill cut off, the next start counts the rows and goes on: a participant is released after the row that
says so is durable, never before, and one that was released is never released again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from gateway.cards.campaign_policy import Do, Order, Pace, Rate, Step, count_canaries, decide
from gateway.cards.card_query import parse_query
from gateway.cards.insisting import insist, insist_all
from gateway.cards.participants import CHUNK, Gatherer, TooMany
from gateway.cards.tally import Tally
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import (
    Campaign,
    CampaignRecords,
    CampaignState,
    Download,
    DownloadRecords,
    Downloads,
    DownloadState,
    DownloadStep,
)
from gateway.model.errors import QueueFull, StoreUnavailable

log = structlog.get_logger("gateway.cards")

#: hints are written so often
_SAVE_S = 1.0
#: the longest sleep: clocks may be set
_MOST_S = 60.0
#: chunks of participants between two hints of how many there are
_GROWN_CHUNKS = 16
#: of those under way, looked at in one go when there is no room
_LOOKED_AT = 256
#: rows counted between two turns of the loop
_COUNTED_AT_A_TIME = 500
#: stops asked of the engine at once
_STOPS = 1_000

NO_CARD = "no card fits"
TOO_MANY = "more cards than one campaign takes"
CUT_OFF = "the gateway ended while its list was being written; make it anew"
NO_LIST = "no list of cards came"
EXPIRED = "expired"


class Halted(Exception):
    """Somebody stopped it while it was gathering."""


class Room:
    """How many more the engine takes, of all campaigns together. Who found none is woken in turn."""

    def __init__(self, engine: Downloads, config: Ota) -> None:
        self._engine = engine
        self._at_once = config.at_once
        self._waiting = config.waiting
        self._hungry: deque[asyncio.Event] = deque()
        #: releases that are under way, of all campaigns
        self.under_way: Callable[[], int] = lambda: 0

    def free(self) -> int:
        busy = max(self._engine.active, self.under_way())
        return min(self._at_once - busy, self._waiting - self._engine.waiting)

    def wait(self, wake: asyncio.Event) -> None:
        if wake not in self._hungry:
            self._hungry.append(wake)

    def tell(self) -> None:
        if self._hungry:
            self._hungry.popleft().set()


class Run:
    """A campaign that is not over, in RAM."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        #: of a campaign that waits for it: handles of 16 bytes each
        self.handles: bytearray | None = None
        #: its participants are there, and it is not GATHERING any more
        self.gathered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tally: Tally | None = None
        #: every row was counted
        self.is_counted = False
        self.order = Order(0, campaign.number)
        now_s = time.monotonic()
        self.pace = Pace(campaign.per_s, now_s)
        self.rate = Rate(now_s)
        self.saved_s = now_s
        self.grown_chunks = 0
        #: one word at a time
        self.words = asyncio.Lock()
        self.asked: dict[str, object] = {}

    def change(self, **changes: object) -> None:
        self.campaign = msgspec.structs.replace(self.campaign, **changes)

    def to_keep(self) -> Campaign:
        """As it is written down: what was asked for, and is in force once it is durable, is in it."""
        campaign = self.snapshot()
        if self.asked and not campaign.state.is_final:
            return msgspec.structs.replace(campaign, **self.asked)
        return campaign

    def snapshot(self) -> Campaign:
        """With the counts as they are now."""
        if self.tally is None or not self.is_counted:
            return self.campaign
        standing = self.tally.standing
        return msgspec.structs.replace(
            self.campaign,
            results=dict(self.tally.results),
            causes=dict(self.tally.causes),
            canaries_over=standing.canaries_over,
            canaries_good=standing.canaries_good,
        )

    def on_over(self, download: Download) -> None:
        if self.tally is None:
            return  # its row is counted when the rows are
        index = download.number - self.campaign.first
        if 0 <= index < self.tally.participants and self.tally.end(index, download):
            self.rate.add(time.monotonic())
        self.wake.set()


@dataclass(slots=True, kw_only=True)
class Floors:
    """What a campaign works with."""

    campaigns: CampaignRecords
    downloads: DownloadRecords
    engine: Downloads
    gatherer: Gatherer
    room: Room
    metrics: Metrics
    now_ms: Callable[[], int]


class Carrier:
    def __init__(self, floors: Floors) -> None:
        self._floors = floors
        self._downloads = floors.downloads
        self._metrics = floors.metrics

    async def carry(self, run: Run) -> None:
        """Returns when the campaign is over and that is durable. May be called again after it failed."""
        if run.campaign.state in (CampaignState.GATHERING, CampaignState.STOPPING):
            count = self._floors.gatherer.count_written(run.campaign)
            if count != run.campaign.participants:
                run.change(participants=count)
                await self._put(run)
        if run.campaign.state == CampaignState.GATHERING:
            await self._gather(run)
        if not run.gathered.done():
            run.gathered.set_result(None)
        await self._count(run)
        while await self._step(run):
            self._save(run)

    # --- gathering ------------------------------------------------------------------------------------------

    async def _gather(self, run: Run) -> None:
        why = ""
        try:
            if run.campaign.query:
                query = parse_query(run.campaign.query)
                await self._floors.gatherer.from_query(run.campaign, query, lambda count: self._grow(run, count))
                why = "" if run.campaign.participants else NO_CARD
            elif run.campaign.participants or (run.campaign.reserved and run.handles is None):
                await self._halt(run, CUT_OFF)
                return
            else:
                await self._take_list(run)
        except TooMany:
            await self._halt(run, TOO_MANY)
            return
        except Halted:
            await self._put(run)  # how many there are: its rows are found by that
            return
        if run.campaign.state != CampaignState.GATHERING:
            return
        state = CampaignState.RUNNING if run.campaign.begins else CampaignState.PAUSED
        run.change(state=state, why=why if run.campaign.begins or why else "not begun yet")
        await self._put(run)

    async def _take_list(self, run: Run) -> None:
        while run.handles is None:
            run.wake.clear()
            if run.campaign.state != CampaignState.GATHERING:
                raise Halted
            if self._floors.now_ms() >= run.campaign.expires_ms:
                await self._halt(run, NO_LIST)
                raise Halted
            await self._wait(run, 0.0)
        handles = run.handles
        await self._put(run)  # its numbers
        await self._floors.gatherer.from_list(run.campaign, handles, lambda count: self._grow(run, count))
        run.handles = None

    def _grow(self, run: Run, count: int) -> None:
        run.change(participants=count)
        if run.campaign.state != CampaignState.GATHERING:
            raise Halted
        run.grown_chunks += 1
        if run.grown_chunks % _GROWN_CHUNKS == 1:
            self.hint(run)

    async def _halt(self, run: Run, why: str) -> None:
        run.change(state=CampaignState.STOPPING, why=why)
        await self._put(run)

    # --- counting -------------------------------------------------------------------------------------------

    async def _count(self, run: Run) -> None:
        campaign = run.campaign
        run.order = Order(campaign.participants, campaign.number)
        tally = run.tally = Tally(campaign.participants, run.order, count_canaries(campaign))
        behind = campaign.first - 1
        expected = 0
        while expected < campaign.participants:
            rows = self._downloads.of_campaign(campaign.number, behind, _COUNTED_AT_A_TIME)
            if not rows:
                break
            now_ms = self._floors.now_ms()
            for row in rows:
                index = row.number - campaign.first
                if index >= campaign.participants:
                    break
                while expected < index:
                    tally.miss(expected)
                    expected += 1
                tally.see(index, row, now_ms)
                expected = index + 1
            behind = rows[-1].number
            await asyncio.sleep(0)
        while expected < campaign.participants:
            tally.miss(expected)
            expected += 1
        if tally.missed:
            log.error("campaign_rows_missing", missing=tally.missed, participants=campaign.participants)
        run.is_counted = True

    # --- releasing ------------------------------------------------------------------------------------------

    async def _step(self, run: Run) -> bool:
        """False: it is over."""
        tally = run.tally
        assert tally is not None
        run.wake.clear()
        now_s = time.monotonic()
        step = decide(
            run.campaign,
            tally.standing,
            room=self._floors.room.free(),
            pace=run.pace,
            now_ms=self._floors.now_ms(),
            now_s=now_s,
        )
        match step.do:
            case Do.RELEASE:
                await self._release(run, tally, step.releases)
            case Do.WAIT:
                await self._wait_for(run, tally, step)
            case Do.FAIL_CANARY:
                await self._fail_canary(run, tally)
            case Do.EXPIRE:
                await self._settle_held(run, tally, DownloadState.EXPIRED, EXPIRED)
            case Do.STOP:
                await self._stop(run, tally)
            case Do.END:
                await self._end(run)
                return False
        return True

    async def _release(self, run: Run, tally: Tally, count: int) -> None:
        campaign, now_ms = run.campaign, self._floors.now_ms()
        released: list[Download] = []
        end = min(campaign.released + count, campaign.participants)
        for place in range(campaign.released, end):
            index = run.order.at(place)
            row = self._downloads.read(campaign.first + index)
            if row is None:
                tally.miss(index)
            elif row.state != DownloadState.HELD:  # before a kill, or stopped by itself
                tally.see(index, row, now_ms)
            else:
                steps = (*row.steps, DownloadStep(now_ms, "released"))
                released.append(msgspec.structs.replace(row, state=DownloadState.WAITING, due_ms=now_ms, steps=steps))
                tally.release(index)
        run.pace.take(len(released))
        await insist_all(self._downloads.change, released, self._metrics)
        run.change(released=end)
        self._metrics.count(Metric.OTA_CAMPAIGN_RELEASED, len(released))
        for row in released:
            now = self._downloads.read(row.number)
            if now is not None and now.state.is_final:  # stopped by itself meanwhile
                tally.end(row.number - campaign.first, now)
            else:
                self._floors.engine.start(row)

    async def _wait_for(self, run: Run, tally: Tally, step: Step) -> None:
        self._metrics.count(Metric.OTA_CAMPAIGN_WAITS, label=step.why)
        if step.why in ("at_once", "engine"):
            if self.look(run, tally):
                await asyncio.sleep(0)
                return
            if step.why == "engine":
                self._floors.room.wait(run.wake)
        await self._wait(run, step.wait_s)

    def look(self, run: Run, tally: Tally) -> bool:
        """Who waits for another try holds no place; True where that made room."""
        before, now_ms = tally.under_way, self._floors.now_ms()
        for index in tally.oldest(_LOOKED_AT):
            row = self._downloads.read(run.campaign.first + index)
            if row is not None:
                tally.look(index, row, now_ms)
        return tally.under_way < before

    async def _fail_canary(self, run: Run, tally: Tally) -> None:
        standing = tally.standing
        why = f"{standing.canaries_good} of {standing.canaries} canaries ended well"
        run.change(state=CampaignState.CANARY_FAILED, why=why)
        self._metrics.count(Metric.OTA_CAMPAIGNS, label="canary_failed")
        log.warning("campaign_canary_failed", good=standing.canaries_good, canaries=standing.canaries)
        await self._put(run)

    # --- ending ---------------------------------------------------------------------------------------------

    async def _settle_held(self, run: Run, tally: Tally, state: DownloadState, cause: str) -> None:
        """All that were not released, some hundred a commit."""
        campaign = run.campaign
        for start in range(campaign.released, campaign.participants, CHUNK):
            end, now_ms = min(start + CHUNK, campaign.participants), self._floors.now_ms()
            settled: list[Download] = []
            for place in range(start, end):
                index = run.order.at(place)
                row = self._downloads.read(campaign.first + index)
                if row is None:
                    tally.miss(index)
                elif row.state != DownloadState.HELD:
                    tally.see(index, row, now_ms)
                else:
                    steps = (*row.steps, DownloadStep(now_ms, state.name.lower(), "not released"))
                    settled.append(msgspec.structs.replace(row, state=state, cause=cause, steps=steps))
            await insist_all(self._downloads.settle, settled, self._metrics)
            for row in settled:
                tally.end(row.number - campaign.first, row)
            run.change(released=end)
            self._save(run)

    async def _stop(self, run: Run, tally: Tally) -> None:
        cause = "stopped"
        await self._put(run)
        if (
            run.campaign.state != CampaignState.STOPPING
        ):  # it could not be made durable for who asked, and was taken back
            return
        await self._settle_held(run, tally, DownloadState.STOPPED, cause)
        first = run.campaign.first
        out = list(tally.out)
        for start in range(0, len(out), _STOPS):
            numbers = [first + index for index in out[start : start + _STOPS] if index in tally.out]
            ended = await asyncio.gather(*(self._stop_one(number) for number in numbers))
            for number, download in zip(numbers, ended, strict=True):
                if isinstance(download, StoreUnavailable):
                    continue  # its end is told once it is written
                if download is not None and download.state.is_final:
                    tally.end(number - first, download)
                elif download is None:
                    await self._stop_unknown(number, number - first, tally, cause)
        if tally.out:
            await self._wait(run, 1.0)

    async def _stop_one(self, number: int) -> Download | StoreUnavailable | None:
        try:
            return await self._floors.engine.stop(number)
        except StoreUnavailable as error:
            return error

    async def _stop_unknown(self, number: int, index: int, tally: Tally, cause: str) -> None:
        """The engine does not have it."""
        row = self._downloads.read(number)
        if row is None:
            tally.miss(index)
            return
        if not row.state.is_final:
            steps = (*row.steps, DownloadStep(self._floors.now_ms(), "stopped"))
            row = msgspec.structs.replace(row, state=DownloadState.STOPPED, cause=cause, steps=steps)
            await insist_all(self._downloads.settle, [row], self._metrics)
        tally.end(index, row)

    async def _end(self, run: Run) -> None:
        campaign = run.campaign
        is_stopped = campaign.state == CampaignState.STOPPING
        now_ms = self._floors.now_ms()
        why = campaign.why if is_stopped or not campaign.participants else ""
        if not why and run.tally is not None and run.tally.causes.get(EXPIRED):
            why = EXPIRED
        state = CampaignState.STOPPED if is_stopped else CampaignState.DONE
        run.campaign = run.snapshot()
        run.change(state=state, ended_ms=now_ms, why=why)
        await self._put(run)
        self._metrics.count(Metric.OTA_CAMPAIGNS, label=state.name.lower())
        log.info("campaign_over", state=state.name.lower(), participants=campaign.participants)

    # --- its own row ----------------------------------------------------------------------------------------

    async def _put(self, run: Run) -> None:
        await insist(lambda: self._floors.campaigns.put(run.to_keep()), self._metrics)

    def _save(self, run: Run) -> None:
        now_s = time.monotonic()
        if now_s - run.saved_s >= _SAVE_S:
            run.saved_s = now_s
            self.hint(run)

    def hint(self, run: Run) -> None:
        """Nothing is lost where it is not written."""
        try:
            self._floors.campaigns.put(run.to_keep()).add_done_callback(_retrieve)
        except (StoreUnavailable, QueueFull):
            self._metrics.count(Metric.OTA_CAMPAIGN_WAITS, label="store")

    async def _wait(self, run: Run, wait_s: float) -> None:
        """Until it is woken, at most so long (0: no matter), and not past its expiry."""
        left_s = (run.campaign.expires_ms - self._floors.now_ms()) / 1_000
        most_s = min(wait_s or _MOST_S, _MOST_S, left_s if left_s > 0 else _MOST_S)
        try:
            async with asyncio.timeout(most_s):
                await run.wake.wait()
        except TimeoutError:
            pass


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
