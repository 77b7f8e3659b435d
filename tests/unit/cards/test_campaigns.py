"""Campaigns from making to end: releases, canaries, pause, stop, expiry, kills; over records in RAM."""

import asyncio
import itertools
import random

import pytest
from campaign_rig import APP, Scene

from gateway.metrics import Metric
from gateway.model.cards import CampaignState, DownloadState
from gateway.model.errors import BadRequest, Conflict, StoreUnavailable, TooManyRequests, UnknownCampaign

DONE, NOTICED, FAILED, STOPPED, EXPIRED = (
    int(state)
    for state in (
        DownloadState.DONE,
        DownloadState.NOTICED,
        DownloadState.FAILED,
        DownloadState.STOPPED,
        DownloadState.EXPIRED,
    )
)


async def test_a_query_takes_the_cards_that_fit_and_each_gets_its_download_once() -> None:
    async with Scene() as scene:
        scene.records.add_cards(700, "batch-7")
        scene.records.add_card("other", "batch-8")
        number = await scene.create(query="tag:batch-7")
        campaign = await scene.until_state(number, CampaignState.DONE)
        assert campaign.participants == 700
        assert campaign.results == {DONE: 700} == scene.truth(number)
        assert set(scene.engine.started.values()) == {1}
        cards = {row.card for row in scene.records.of_campaign(number, -1, 10_000)}
        assert len(cards) == 700
        assert campaign.ended_ms == scene.now


async def test_a_list_takes_each_card_once_and_tells_the_lines_that_can_not_be() -> None:
    async with Scene() as scene:
        cards = scene.records.add_cards(3)
        listed = scene.campaigns.new_list()
        listed.feed(b"# who\ncard_" + cards[0].hex().encode() + b"\n\ncard_" + bytes(16).hex().encode() + b"\n0049")
        listed.feed(b"151\ncard_" + cards[0].hex().encode() + b'\n"card_' + cards[1].hex().encode() + b'"\r\n')
        listed.feed(b'{"card": "card_' + cards[2].hex().encode() + b'"}')
        listed.end()
        assert (len(listed), listed.duplicates, listed.bad_count) == (3, 1, 2)
        assert listed.bad == [(4, "no such card"), (5, "not a card id")]
        campaign, written = scene.campaigns.create(scene.wanted(), listed)
        await written
        assert (await scene.until_state(campaign.number, CampaignState.DONE)).participants == 3


async def test_the_list_may_come_later_and_only_once() -> None:
    async with Scene() as scene:
        cards = scene.records.add_cards(5)
        number = await scene.create()
        assert scene.campaign(number).state == CampaignState.GATHERING
        listed = scene.campaigns.new_list()
        listed.feed(b"".join(b"card_%s\n" % card.hex().encode() for card in cards))
        scene.campaigns.add_list(APP, number, listed)
        with pytest.raises(Conflict):
            scene.campaigns.add_list(APP, number, listed)
        await scene.campaigns.gathered(number)
        assert (await scene.until_state(number, CampaignState.DONE)).results == {DONE: 5}
        with pytest.raises(Conflict):
            scene.campaigns.add_list(APP, number, listed)


async def test_a_list_of_nobody_is_refused_and_a_query_of_nobody_is_over_at_once() -> None:
    async with Scene() as scene:
        with pytest.raises(BadRequest, match="no card of the list"):
            await scene.create([b"\x01" * 16])
        number = await scene.create(query="tag:nobody")
        assert (await scene.until_state(number, CampaignState.DONE)).why == "no card fits"


async def test_one_that_does_not_begin_waits_for_a_word() -> None:
    async with Scene() as scene:
        scene.records.add_cards(10)
        number = await scene.create(query="all", begins=False)
        assert (await scene.until_state(number, CampaignState.PAUSED)).participants == 10
        assert not scene.engine.started
        await scene.campaigns.resume(APP, number)
        assert (await scene.until_state(number, CampaignState.DONE)).results == {DONE: 10}


async def test_no_more_are_under_way_than_its_share_and_than_the_engine_takes() -> None:
    async with Scene(at_once=20) as scene:
        scene.records.add_cards(200)
        scene.engine.is_held = True
        small = await scene.create(query="all", at_once=7)
        await scene.until(lambda: scene.campaigns.read(APP, small).under_way == 7)
        large = await scene.create(query="all")
        await scene.until(lambda: scene.campaigns.read(APP, large).under_way == 13)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(scene.engine.started) == 20
        scene.engine.is_held = False
        await scene.until_state(small, CampaignState.DONE)
        await scene.until_state(large, CampaignState.DONE)
        assert scene.engine.most <= 20


async def test_who_waits_for_another_try_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cards.campaign_policy.LOOK_S", 0.001)
    async with Scene() as scene:
        scene.records.add_cards(100)
        away = itertools.count()
        scene.engine.result = lambda _: (
            (DownloadState.WAITING, "no_link") if next(away) < 30 else (DownloadState.DONE, "")
        )
        number = await scene.create(query="all", at_once=10)
        await scene.until(lambda: scene.campaign(number).results == {DONE: 70})
        progress = scene.campaigns.read(APP, number)
        assert (progress.held, progress.out) == (0, 30)
        assert progress.campaign.state == CampaignState.RUNNING


async def test_who_looks_sees_who_waits_for_another_try() -> None:
    """Also where nothing waits for their places, so that the campaign itself does not look."""
    async with Scene() as scene:
        scene.records.add_cards(10)
        scene.engine.result = lambda _: (DownloadState.WAITING, "no_link")
        number = await scene.create(query="all")
        await scene.until(lambda: len(scene.engine.retrying) == 10)
        progress = scene.campaigns.read(APP, number)
        assert (progress.out, progress.under_way) == (10, 0)


async def test_nothing_is_released_while_too_many_wait() -> None:
    async with Scene(waiting=5) as scene:
        scene.records.add_cards(50)
        scene.engine.result = lambda _: (DownloadState.WAITING, "no_link")
        number = await scene.create(query="all")
        await scene.until(lambda: scene.engine.waiting >= 5)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(scene.engine.started) <= 10
        assert scene.metrics.value(Metric.OTA_CAMPAIGN_WAITS, "engine") > 0
        assert scene.campaign(number).state == CampaignState.RUNNING


async def test_canaries_go_first_and_the_rest_follows_where_they_did_well() -> None:
    async with Scene() as scene:
        scene.records.add_cards(100)
        scene.engine.is_held = True
        number = await scene.create(query="all", canary_share=0.07, canary_success=0.8)
        await scene.until(lambda: scene.campaigns.read(APP, number).under_way == 7)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(scene.engine.started) == 7
        results = iter([DownloadState.FAILED] + [DownloadState.NOTICED] * 99)
        scene.engine.result = lambda _: (next(results), "card")
        scene.engine.is_held = False
        campaign = await scene.until_state(number, CampaignState.DONE)
        assert campaign.results == {FAILED: 1, NOTICED: 99}
        assert campaign.causes == {"card": 100}


async def test_it_stops_at_canaries_that_failed_and_goes_on_at_a_word() -> None:
    async with Scene() as scene:
        scene.records.add_cards(100)
        count = itertools.count()
        scene.engine.result = lambda _: (DownloadState.FAILED, "card") if next(count) < 3 else (DownloadState.DONE, "")
        number = await scene.create(query="all", canary_share=0.1, canary_success=0.8)
        campaign = await scene.until_state(number, CampaignState.CANARY_FAILED)
        assert campaign.why == "7 of 10 canaries ended well"
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(scene.engine.started) == 10
        scene = await scene.kill()
    async with scene:
        assert scene.campaign(number).state == CampaignState.CANARY_FAILED
        await scene.campaigns.resume(APP, number)
        assert (await scene.until_state(number, CampaignState.DONE)).results == {DONE: 97, FAILED: 3}


async def test_paused_what_runs_ends_and_nothing_further_is_released() -> None:
    async with Scene() as scene:
        scene.records.add_cards(300)
        number = await scene.create(query="all", at_once=5)
        await scene.until(lambda: scene.campaign(number).results.get(DONE, 0) > 20)
        await scene.campaigns.pause(APP, number)
        await scene.until(lambda: scene.campaigns.read(APP, number).out == 0)
        progress = scene.campaigns.read(APP, number)
        assert progress.campaign.state == CampaignState.PAUSED
        assert progress.held + progress.campaign.results[DONE] == 300
        assert progress.held > 0
        started = len(scene.engine.started)
        scene = await scene.kill()
    async with scene:
        for _ in range(100):
            await asyncio.sleep(0)
        assert scene.campaign(number).state == CampaignState.PAUSED
        assert not scene.engine.started
        await scene.campaigns.resume(APP, number)
        await scene.until_state(number, CampaignState.DONE)
        assert len(scene.engine.started) + started == 300


async def test_stopped_what_waits_is_stopped_and_what_runs_is_cut_off() -> None:
    async with Scene() as scene:
        scene.records.add_cards(600)
        ended = itertools.count()
        scene.engine.result = lambda _: (
            (DownloadState.WAITING, "no_link") if next(ended) % 3 == 0 else (DownloadState.DONE, "")
        )
        number = await scene.create(query="all", at_once=20)
        await scene.until(lambda: scene.campaign(number).results.get(DONE, 0) > 50)
        await scene.campaigns.stop(APP, number)
        campaign = await scene.until_state(number, CampaignState.STOPPED)
        assert campaign.results == scene.truth(number)
        assert campaign.results[DONE] + campaign.results[STOPPED] == 600
        assert set(scene.records.receipts.values()) == {1}
        for word in (scene.campaigns.pause, scene.campaigns.resume, scene.campaigns.stop):
            with pytest.raises(Conflict):
                await word(APP, number)


async def test_a_stop_whose_ends_the_store_does_not_take_at_once_comes_to_its_end() -> None:
    async with Scene() as scene:
        scene.records.add_cards(100)
        scene.engine.result = lambda _: (DownloadState.WAITING, "no_link")
        number = await scene.create(query="all", at_once=40)
        await scene.until(lambda: len(scene.engine.retrying) > 30)
        stop, refused = scene.engine.stop, itertools.count()

        async def stop_later(number: int):
            if next(refused) < 20:
                raise StoreUnavailable
            return await stop(number)

        scene.engine.stop = stop_later
        await scene.campaigns.stop(APP, number)
        async with asyncio.timeout(60):
            while scene.campaign(number).state != CampaignState.STOPPED:
                await asyncio.sleep(0.01)
        assert scene.campaign(number).results == scene.truth(number) == {STOPPED: 100}


async def test_a_campaign_whose_time_is_over_expires_what_was_not_released() -> None:
    async with Scene() as scene:
        scene.records.add_cards(50)
        number = await scene.create(query="all", begins=False)
        await scene.until_state(number, CampaignState.PAUSED)
        scene.now += 86_400_000
        scene.campaigns._runs[number].wake.set()  # its timer
        campaign = await scene.until_state(number, CampaignState.DONE)
        assert (campaign.results, campaign.why) == ({EXPIRED: 50}, "expired")


async def test_another_app_sees_nothing_and_moves_nothing() -> None:
    async with Scene() as scene:
        scene.records.add_cards(5)
        number = await scene.create(query="all", begins=False)
        assert scene.campaigns.all("other") == []
        for call in (scene.campaigns.pause, scene.campaigns.resume, scene.campaigns.stop):
            with pytest.raises(UnknownCampaign):
                await call("other", number)
        with pytest.raises(UnknownCampaign):
            scene.campaigns.read("other", number)
        with pytest.raises(UnknownCampaign):
            scene.campaigns.participants("other", number, -1, 10)


async def test_too_many_open_campaigns_are_refused() -> None:
    async with Scene(campaigns=2) as scene:
        scene.records.add_cards(5)
        first = await scene.create(query="all", begins=False)
        await scene.create(query="all", begins=False)
        with pytest.raises(TooManyRequests):
            await scene.create(query="all")
        await scene.campaigns.stop(APP, first)
        await scene.until_state(first, CampaignState.STOPPED)
        await scene.until(lambda: len(scene.campaigns._runs) == 1)
        await scene.create(query="all")


async def test_a_query_that_finds_more_than_a_campaign_takes_ends_stopped() -> None:
    async with Scene(campaign_cards=300) as scene:
        scene.records.add_cards(400)
        number = await scene.create(query="all")
        campaign = await scene.until_state(number, CampaignState.STOPPED)
        assert campaign.why == "more cards than one campaign takes"
        assert not scene.engine.started
        assert campaign.results == scene.truth(number)


async def test_cards_that_come_while_a_query_is_gathered_end_no_campaign() -> None:
    async with Scene() as scene:
        there = list(scene.records.add_cards(300))
        number = await scene.create(query="all")
        scene.records.add_cards(600)
        campaign = await scene.until_state(number, CampaignState.DONE)
        assert campaign.results == {DONE: campaign.participants} == scene.truth(number)
        taking_part = {row.card for row in scene.records.of_campaign(number, 0, 1_000)}
        assert taking_part >= set(there)


async def test_a_word_that_can_not_be_made_durable_is_taken_back() -> None:
    async with Scene() as scene:
        scene.records.add_cards(5)
        number = await scene.create(query="all", begins=False)
        await scene.until_state(number, CampaignState.PAUSED)
        for word in (scene.campaigns.resume, scene.campaigns.stop):
            scene.records.log.is_full = True
            with pytest.raises(StoreUnavailable):
                await word(APP, number)
            assert scene.campaign(number).state == CampaignState.PAUSED
            scene.records.log.is_full = False
        for _ in range(50):
            await asyncio.sleep(0)
        assert scene.truth(number) == {int(DownloadState.HELD): 5}


async def test_a_full_store_holds_releases_up_and_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cards.insisting.insist.__defaults__", (0.0,))
    monkeypatch.setattr("gateway.cards.insisting.insist_all.__defaults__", (0.0,))
    async with Scene() as scene:
        scene.records.add_cards(200)
        number = await scene.create(query="all", at_once=10)
        await scene.until(lambda: scene.campaign(number).results.get(DONE, 0) > 30)
        scene.engine.is_held = True
        await scene.until(lambda: not scene.records.log.pending)
        scene.records.log.is_full = True
        for _ in range(100):
            await asyncio.sleep(0)
        scene.records.log.is_full = False
        scene.engine.is_held = False
        campaign = await scene.until_state(number, CampaignState.DONE)
        assert campaign.results == {DONE: 200} == scene.truth(number)


async def test_one_participant_that_is_stopped_by_itself_is_counted_and_never_released() -> None:
    async with Scene() as scene:
        scene.records.add_cards(20)
        number = await scene.create(query="all", begins=False)
        campaign = await scene.until_state(number, CampaignState.PAUSED)
        await scene.until(lambda: scene.campaigns.read(APP, number).is_counted)
        await scene.engine.finish(campaign.first + 3, DownloadState.STOPPED, "stopped")
        assert scene.campaign(number).results == {STOPPED: 1}
        await scene.campaigns.resume(APP, number)
        assert (await scene.until_state(number, CampaignState.DONE)).results == {DONE: 19, STOPPED: 1}
        assert campaign.first + 3 not in scene.engine.started


@pytest.mark.parametrize("seed", range(25))
async def test_kills_at_any_moment_lose_nobody_and_count_nobody_twice(seed: int) -> None:
    chance = random.Random(seed)
    scene = Scene(seed=seed)
    scene.records.add_cards(700)
    results = [DownloadState.DONE, DownloadState.NOTICED, DownloadState.FAILED]
    number = -1
    for _ in range(8):
        scene.engine.result = lambda _: (chance.choice(results), "card")
        async with scene:
            if number < 0:
                number = await scene.create(query="all", canary_share=0.05, canary_success=0.3)
            for _ in range(chance.randrange(400)):
                await asyncio.sleep(0)
            word = chance.choice((None, None, scene.campaigns.pause, scene.campaigns.resume))
            if word is not None:
                await word(APP, number)
            for _ in range(chance.randrange(10)):
                await asyncio.sleep(0)
            scene = await scene.kill(seed=seed)
    scene.engine.result = lambda _: (chance.choice(results), "card")
    async with scene:
        await scene.campaigns.resume(APP, number)
        if chance.random() < 0.4:
            await scene.campaigns.stop(APP, number)
            campaign = await scene.until_state(number, CampaignState.STOPPED)
        else:
            campaign = await scene.until_state(number, CampaignState.DONE)
    assert campaign.participants == 700
    assert sum(campaign.results.values()) == 700
    assert campaign.results == scene.truth(number)


@pytest.mark.parametrize("turns", [0, 3, 5, 8, 13, 21, 34, 60])
async def test_a_list_cut_off_by_a_kill_ends_stopped_and_says_so(turns: int) -> None:
    scene = Scene()
    cards = scene.records.add_cards(2_000)
    async with scene:
        number = await scene.create()
        listed = scene.campaigns.new_list()
        for card in cards:
            listed.feed(b"card_%s\n" % card.hex().encode())
        scene.campaigns.add_list(APP, number, listed)
        for _ in range(turns):
            await asyncio.sleep(0)
        scene = await scene.kill()
    async with scene:
        campaign = scene.campaign(number)
        if not campaign.reserved:  # nothing of the list is there: it may come again
            scene.campaigns.add_list(APP, number, listed)
            assert (await scene.until_state(number, CampaignState.DONE)).participants == 2_000
            return
        if campaign.state == CampaignState.RUNNING:  # all of it is there
            assert campaign.participants == 2_000
            return
        campaign = await scene.until_state(number, CampaignState.STOPPED)
        assert "list" in campaign.why
        assert campaign.results == ({STOPPED: campaign.participants} if campaign.participants else {})
        assert campaign.results == scene.truth(number)
        assert not scene.engine.started


@pytest.mark.parametrize("turns", [1, 4, 9, 30])
async def test_one_that_is_stopped_while_it_gathers_stops_those_it_has(turns: int) -> None:
    async with Scene() as scene:
        scene.records.add_cards(5_000)
        number = await scene.create(query="all")
        for _ in range(turns):
            await asyncio.sleep(0)
        await scene.campaigns.stop(APP, number)
        campaign = await scene.until_state(number, CampaignState.STOPPED)
        assert campaign.results == scene.truth(number)
        assert sum(campaign.results.values()) == campaign.participants < 5_000
        assert not scene.engine.started


@pytest.mark.parametrize("turns", range(1, 16))
async def test_a_kill_after_a_stop_while_it_gathers_leaves_no_participant_behind(turns: int) -> None:
    scene = Scene()
    scene.records.add_cards(5_000)
    async with scene:
        number = await scene.create(query="all")
        for _ in range(8):
            await asyncio.sleep(0)
        stopping = asyncio.ensure_future(scene.campaigns.stop(APP, number))
        for _ in range(turns):
            await asyncio.sleep(0)
        is_stopped = stopping.done()
        scene = await scene.kill()
        stopping.cancel()
    async with scene:
        if scene.campaign(number).state == CampaignState.STOPPING:
            campaign = await scene.until_state(number, CampaignState.STOPPED)
            assert campaign.results == scene.truth(number)
            assert sum(campaign.results.values()) == campaign.participants
        else:
            assert not is_stopped or scene.campaign(number).state == CampaignState.STOPPED
