"""Campaigns over a real store whose disk fails: nothing that was refused is in force, nobody is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from campaign_rig import Engine
from card_rig import payload, put_cards
from store_rig import APP, START_MS, Disk, disk_of, fail_commit, open_store, with_app

from gateway.cards.campaigns import Campaigns, Wanted
from gateway.cards.insisting import insist_all
from gateway.config.ota_section import Ota
from gateway.metrics import Metrics
from gateway.model.cards import Campaign, CampaignState, Download, DownloadState
from gateway.model.errors import StoreUnavailable
from gateway.store import Store


class Kept:
    """The store's downloads, for an engine that does not give up."""

    def __init__(self, store: Store) -> None:
        self._downloads = store.card_downloads
        self.read = self._downloads.read
        self._metrics = Metrics(process=False)

    async def change(self, row: Download) -> None:
        await insist_all(self._downloads.change, [row], self._metrics, 0.001)

    settle = change


class StoreEngine(Engine):
    def start(self, download: Download) -> None:
        self.started[download.number] += 1
        self.queue.append(download.number)


class Scene:
    def __init__(self, store: Store) -> None:
        self.store = store
        kept: Any = Kept(store)
        self.engine = StoreEngine(kept, 1)
        self.disk: Disk = disk_of(store)
        self.campaigns = Campaigns(
            store.cards,
            store.card_downloads,
            store.card_campaigns,
            self.engine,
            Ota(),
            Metrics(process=False),
            lambda: START_MS,
        )
        self.engine.on_over = self.campaigns.on_over

    def campaign(self, number: int) -> Campaign:
        return self.campaigns.read(APP, number).campaign

    async def create(self, **fields: Any) -> int:
        wanted = Wanted(APP, "n", payload(), START_MS + 86_400_000, query="all", **fields)
        made, accepted = self.campaigns.create(wanted)
        await accepted
        return made.number

    async def until(self, number: int, state: CampaignState) -> Campaign:
        while self.campaign(number).state != state:
            await asyncio.sleep(0.001)
        return self.campaign(number)

    async def mend(self) -> None:
        self.disk.error = None
        while not await self.store.committer.probe():
            pass  # one was under way that began before

    def check(self, number: int, participants: int) -> None:
        """Counts, rows and receipts say the same."""
        campaign = self.campaign(number)
        rows = self.store.card_downloads.of_campaign(number, campaign.first - 1, 10_000)
        assert campaign.results == dict(Counter(int(row.state) for row in rows))
        assert sum(campaign.results.values()) == len(rows) == participants
        lines = Counter(each.outcome.notification for each in self.store.receipts.after(APP, 0, 10_000))
        assert lines == Counter(row.number for row in rows)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr("gateway.cards.insisting.insist.__defaults__", (0.001,))
    monkeypatch.setattr("gateway.cards.insisting.insist_all.__defaults__", (0.001,))
    # a disk that fails is looked at again, as in life: what is asked for meanwhile is answered then
    store = await with_app(await open_store(tmp_path, probe_s=0.01))
    await put_cards(store, 1_000)
    scene = Scene(store)
    task = asyncio.create_task(scene.engine.run())
    yield scene
    assert not task.done()
    task.cancel()
    await scene.campaigns.close()
    await store.close()


async def test_a_full_disk_holds_a_campaign_up_and_loses_nobody(scene: Scene) -> None:
    number = await scene.create(at_once=40)
    await scene.until(number, CampaignState.RUNNING)
    while sum(scene.campaign(number).results.values()) < 200:
        await asyncio.sleep(0.001)
    await fail_commit(scene.store, scene.disk)
    with pytest.raises(StoreUnavailable):
        await scene.campaigns.create(Wanted(APP, "n", payload("other"), START_MS + 1_000, query="all"))[1]
    for _ in range(20):
        await asyncio.sleep(0.001)
    await scene.mend()
    await scene.until(number, CampaignState.DONE)
    scene.check(number, 1_000)
    assert scene.campaign(number).results == {int(DownloadState.DONE): 1_000}


@pytest.mark.parametrize("word", ["resume", "stop"])
async def test_a_word_that_was_answered_503_is_not_in_force_afterwards(scene: Scene, word: str, tmp_path: Path) -> None:
    number = await scene.create(begins=False)
    await scene.until(number, CampaignState.PAUSED)
    scene.disk.error = OSError("full")
    with pytest.raises(StoreUnavailable):
        await getattr(scene.campaigns, word)(APP, number)
    await scene.mend()
    await scene.store.committer.flush()
    assert scene.campaign(number).state == CampaignState.PAUSED
    assert scene.store.card_campaigns.read(number) is not None
    assert scene.store.card_campaigns.read(number).state == CampaignState.PAUSED  # type: ignore[union-attr]
    assert not scene.engine.started
    await scene.campaigns.stop(APP, number)
    await scene.until(number, CampaignState.STOPPED)
    scene.check(number, 1_000)


async def test_a_disk_that_fails_while_it_gathers_leaves_no_hole(scene: Scene) -> None:
    number = await scene.create(begins=False)
    while scene.campaign(number).participants < 256:
        await asyncio.sleep(0)
    await fail_commit(scene.store, scene.disk)
    for _ in range(20):
        await asyncio.sleep(0.001)
    await scene.mend()
    assert (await scene.until(number, CampaignState.PAUSED)).participants == 1_000
    rows = scene.store.card_downloads.of_campaign(number, -1, 10_000)
    assert len({row.card for row in rows}) == 1_000
    await scene.campaigns.resume(APP, number)
    await scene.until(number, CampaignState.DONE)
    scene.check(number, 1_000)
