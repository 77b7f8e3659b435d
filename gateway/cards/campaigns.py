"""Campaigns: one payload for many cards, under a rate, canaries first; paused, resumed and stopped at any time, and
what a kill cut off goes on (E6, E7).

Must never hold an object for a participant that was not released, nor show one app another's campaign.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from gateway.cards.campaign_policy import count_canaries
from gateway.cards.card_lists import CardList
from gateway.cards.card_query import parse_query
from gateway.cards.participants import Gatherer
from gateway.cards.releases import Carrier, Floors, Room, Run
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import (
    Campaign,
    CampaignRecords,
    CampaignState,
    CardRecords,
    Download,
    DownloadRecords,
    Downloads,
    Payload,
)
from gateway.model.errors import (
    BadRequest,
    Conflict,
    PayloadTooLarge,
    QueueFull,
    StoreUnavailable,
    TooManyRequests,
    UnknownCampaign,
)

log = structlog.get_logger("gateway.cards")

#: what failed unexpectedly is tried again after so long
_AGAIN_S = 5.0
#: kept for cards that come while a query is gathered, beside as many as there are
_SPARE_NUMBERS = 10_000
_OVER = "This campaign is over."


class Wanted(NamedTuple):
    """A campaign as it is asked for."""

    app: str
    name: str
    payload: Payload
    expires_ms: int
    #: who takes part; None: a list of cards follows
    query: str | None = None
    tar: bytes = b""
    notice: str = ""
    per_s: float = 0.0
    at_once: int = 0
    canary_share: float = 0.0
    canary_success: float = 0.95
    begins: bool = True


class Progress(NamedTuple):
    """A campaign and how far it is."""

    campaign: Campaign
    #: participants not released yet
    held: int
    #: released and not over; of those, the ones that do not wait for another try
    out: int
    under_way: int
    canaries: int
    #: participants that were over, a second, lately
    per_s: float
    #: 0: nothing can be said
    left_s: float
    #: after a start, until every row was counted, the counts are those written down last
    is_counted: bool


class Campaigns:
    """Control thread only. `on_over` is to be told of every download that is over."""

    def __init__(
        self,
        cards: CardRecords,
        downloads: DownloadRecords,
        campaigns: CampaignRecords,
        engine: Downloads,
        config: Ota,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._cards = cards
        self._downloads = downloads
        self._campaigns = campaigns
        self._config = config
        self._metrics = metrics
        self._now_ms = now_ms
        self._runs: dict[int, Run] = {}
        self._is_closed = False
        self._room = Room(engine, config)
        self._room.under_way = lambda: sum(run.tally.under_way for run in self._runs.values() if run.tally)
        gatherer = Gatherer(cards, downloads, metrics, config.campaign_cards, now_ms)
        self._carrier = Carrier(
            Floors(
                campaigns=campaigns,
                downloads=downloads,
                engine=engine,
                gatherer=gatherer,
                room=self._room,
                metrics=metrics,
                now_ms=now_ms,
            )
        )

    # --- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Those that are not over go on; counting what is there takes its time behind this."""
        for campaign in self._campaigns.all():
            if not campaign.state.is_final and campaign.number not in self._runs:
                self._begin(Run(campaign))

    async def close(self) -> None:
        """Nothing more is released. What is under way belongs to the engine."""
        self._is_closed = True
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, run: Run) -> None:
        self._runs[run.campaign.number] = run
        run.task = asyncio.create_task(self._carry(run), name="campaign")

    async def _carry(self, run: Run) -> None:
        while True:
            try:
                await self._carrier.carry(run)
                break
            except Exception as exc:
                # type and place alone: the text might quote what was to be sent
                self._metrics.count(Metric.OTA_CAMPAIGNS, label="broken")
                log.exception("campaign_broken", kind=type(exc).__name__, consequence="tried again", exc_info=False)
                await asyncio.sleep(_AGAIN_S)
        del self._runs[run.campaign.number]

    def on_over(self, download: Download) -> None:
        run = self._runs.get(download.campaign)
        if run is not None:
            run.on_over(download)
        self._room.tell()

    # --- making one -----------------------------------------------------------------------------------------

    def create(self, wanted: Wanted, cards: CardList | None = None) -> tuple[Campaign, asyncio.Future[None]]:
        """The future: it is durable, and so are the participants of a list. GatewayError where it is refused."""
        if wanted.query is not None:
            parse_query(wanted.query)
        if len(self._runs) >= self._config.campaigns:
            raise TooManyRequests(f"{len(self._runs)} campaigns are not over yet; stop one, or wait", after_ms=60_000)
        number = self._downloads.reserve(1)
        campaign = Campaign(
            number=number,
            app=wanted.app,
            name=wanted.name,
            state=CampaignState.GATHERING,
            payload=self._downloads.put_payload(wanted.payload),
            tar=wanted.tar,
            notice=wanted.notice,
            created_ms=self._now_ms(),
            expires_ms=wanted.expires_ms,
            per_s=wanted.per_s,
            at_once=wanted.at_once,
            canary_share=wanted.canary_share,
            canary_success=wanted.canary_success,
            query=wanted.query or "",
            begins=wanted.begins,
        )
        run = Run(campaign)
        if wanted.query is not None:
            # those that do not fit leave a gap; cards may be brought in while it gathers, and come before others in it
            most = min(2 * self._cards.count() + _SPARE_NUMBERS, self._config.campaign_cards)
            run.change(first=self._downloads.reserve(most), reserved=most)
        elif cards is not None:
            self._give(run, cards)
        written = self._campaigns.put(run.campaign)
        self._runs[number] = run
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.add_done_callback(lambda future: self._on_created(run, future, accepted))
        return run.campaign, accepted

    def _on_created(self, run: Run, written: asyncio.Future[None], accepted: asyncio.Future[None]) -> None:
        error = None if written.cancelled() else written.exception()
        if written.cancelled() or error is not None:
            del self._runs[run.campaign.number]
            _settle(accepted, error or StoreUnavailable())
            return
        if run.handles is None:
            _settle(accepted)
        else:
            run.gathered.add_done_callback(lambda _: _settle(accepted))
        self._metrics.count(Metric.OTA_CAMPAIGNS, label="created")
        if not self._is_closed:
            self._begin(run)

    def new_list(self) -> CardList:
        """To be filled and given to `create` or `add_list`."""
        return CardList(lambda card: self._cards.read(card) is not None, self._config.campaign_cards)

    def _give(self, run: Run, cards: CardList) -> None:
        if cards.is_too_long:
            raise PayloadTooLarge(f"a campaign has at most {self._config.campaign_cards} cards")
        if not cards.handles:
            first = f"; line {cards.bad[0].line}: {cards.bad[0].why}" if cards.bad else ""
            raise BadRequest(f"no card of the list can take part{first}", field="cards")
        count = len(cards)
        run.change(first=self._downloads.reserve(count), reserved=count)
        run.handles = cards.handles

    def add_list(self, app: str, number: int, cards: CardList) -> None:
        """For a campaign that waits for it. Wait for `gathered`."""
        run = self._run(app, number)
        if run.campaign.state != CampaignState.GATHERING or run.campaign.query or run.campaign.reserved:
            raise Conflict("This campaign has its participants already.")
        self._give(run, cards)
        run.wake.set()

    async def gathered(self, number: int) -> None:
        """Its participants are durable, or it was stopped."""
        run = self._runs.get(number)
        if run is not None:
            await asyncio.shield(run.gathered)

    # --- looking --------------------------------------------------------------------------------------------

    def read(self, app: str, number: int) -> Progress:
        """UnknownCampaign also where it is another app's."""
        run = self._runs.get(number)
        campaign = run.snapshot() if run is not None else self._campaigns.read(number)
        if campaign is None or campaign.app != app:
            raise UnknownCampaign
        if run is not None and run.tally is not None:
            # nobody looks at them while nothing waits for their places
            self._carrier.look(run, run.tally)
        return self._progress(campaign, run)

    def all(self, app: str) -> list[Progress]:
        """Newest first."""
        found = []
        for campaign in self._campaigns.all(app):
            run = self._runs.get(campaign.number)
            found.append(self._progress(campaign if run is None else run.snapshot(), run))
        return found

    def _progress(self, campaign: Campaign, run: Run | None) -> Progress:
        canaries = count_canaries(campaign)
        if run is None or run.tally is None:
            over = sum(campaign.results.values())
            held = 0 if campaign.state.is_final else campaign.participants - over
            is_counted = campaign.state.is_final
            return Progress(campaign, held, 0, 0, canaries, 0.0, 0.0, is_counted)
        tally = run.tally
        per_s = run.rate.per_s(time.monotonic())
        left = tally.participants - tally.over
        left_s = left / per_s if per_s > 0 else 0.0
        if campaign.per_s > 0:
            left_s = max(left_s, tally.held / campaign.per_s)
        return Progress(
            campaign,
            tally.held,
            len(tally.out),
            tally.under_way,
            canaries,
            per_s,
            # of what only waits for another try, a rate says nothing
            left_s if campaign.state == CampaignState.RUNNING and (tally.held or tally.under_way) else 0.0,
            run.is_counted,
        )

    def participants(self, app: str, number: int, after: int, limit: int) -> list[Download]:
        """Behind a place in the campaign (-1: from the first)."""
        campaign = self.read(app, number).campaign
        if not campaign.participants:
            return []
        behind = campaign.first + after
        return self._downloads.of_campaign(number, behind, limit)

    # --- a word from its app --------------------------------------------------------------------------------

    async def pause(self, app: str, number: int) -> Progress:
        """What runs ends, nothing further is released. Conflict where it is over."""
        run = self._run(app, number)
        async with run.words:
            if self._check(run).state == CampaignState.GATHERING:
                await self._set(run, begins=False)
            if self._check(run).state == CampaignState.RUNNING:  # it may have begun meanwhile
                await self._set(run, state=CampaignState.PAUSED, why="asked")
        return self.read(app, number)

    async def resume(self, app: str, number: int) -> Progress:
        """After a canary failure: it goes on in spite of it."""
        run = self._run(app, number)
        async with run.words:
            if self._check(run).state == CampaignState.GATHERING:
                await self._set(run, begins=True)
            if self._check(run).state == CampaignState.PAUSED:
                await self._set(run, state=CampaignState.RUNNING, why="")
            elif run.campaign.state == CampaignState.CANARY_FAILED:
                await self._set(run, state=CampaignState.RUNNING, why="", waived=True)
                self._metrics.count(Metric.OTA_CAMPAIGNS, label="resumed")
        return self.read(app, number)

    async def stop(self, app: str, number: int) -> Progress:
        """What waits is STOPPED, what runs is cut off after its command. Durable when it returns that it will be so."""
        run = self._run(app, number)
        async with run.words:
            if run.campaign.state != CampaignState.STOPPING:
                await self._set(run, state=CampaignState.STOPPING, why="asked")
        return self.read(app, number)

    def _run(self, app: str, number: int) -> Run:
        run = self._runs.get(number)
        if run is None or run.campaign.app != app:
            if not self.read(app, number).campaign.state.is_final:
                raise QueueFull("The gateway has just started and takes its campaigns up; come back.")
            raise Conflict(_OVER)
        if run.campaign.state.is_final:  # being written down
            raise Conflict(_OVER)
        return run

    def _check(self, run: Run) -> Campaign:
        """Conflict where it can not be paused or resumed any more."""
        if run.campaign.state == CampaignState.STOPPING:
            raise Conflict("This campaign is being stopped.")
        if run.campaign.state.is_final:
            raise Conflict(_OVER)
        return run.campaign

    async def _set(self, run: Run, **changes: object) -> None:
        """In force once it is durable, and only then. Conflict where it was over before that."""
        run.asked = changes
        try:
            await self._campaigns.put(run.to_keep())
        except Exception:
            run.asked = {}
            self._carrier.hint(run)  # the store may write what it could not, as soon as it can
            raise
        run.asked = {}
        if run.campaign.state.is_final:
            raise Conflict(_OVER)
        run.change(**changes)
        run.wake.set()


def _settle(future: asyncio.Future[None], error: BaseException | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # who asked may have gone
