"""Campaigns on the disk: there again after a restart, their participants in order."""

from __future__ import annotations

from pathlib import Path

import pytest
from card_rig import campaign, download
from msgspec.structs import replace
from store_rig import APP, Clock, disk_of, fail_commit, open_store, with_app

from gateway.model.cards import CampaignState, DownloadState
from gateway.model.errors import StoreUnavailable
from gateway.store.records import Db


async def test_a_campaign_and_its_last_change_are_there_after_a_restart(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    kept = campaign(store, 3)
    written = store.card_campaigns.put(kept)
    assert store.card_campaigns.read(kept.number) == kept
    await written
    changes = [store.card_campaigns.put(replace(kept, released=n, results={16: n})) for n in range(4)]
    for change in changes:
        await change
    assert store.card_campaigns.all() == [replace(kept, released=3, results={16: 3})]
    await store.close()
    store = await open_store(tmp_path)
    assert store.card_campaigns.read(kept.number) == replace(kept, released=3, results={16: 3})
    assert store.card_campaigns.read(kept.number + 1) is None
    assert store.card_downloads.reserve(1) > kept.first + 2
    await store.close()


async def test_they_are_listed_newest_first_and_by_app(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = [campaign(store, app=app) for app in (APP, "other", APP)]
    for each in made[:2]:
        await store.card_campaigns.put(each)
    last = store.card_campaigns.put(made[2])  # not durable yet
    assert store.card_campaigns.all() == made[::-1]
    assert store.card_campaigns.all(APP) == [made[2], made[0]]
    await last
    await store.close()


async def test_one_that_could_not_be_written_never_was_and_a_change_that_could_not_is_later(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    old, new = campaign(store), campaign(store)
    await store.card_campaigns.put(old)
    disk = disk_of(store)
    written = store.card_campaigns.put(new)
    futures = [
        written,
        store.card_campaigns.put(replace(new, released=1)),
        store.card_campaigns.put(replace(old, why="x")),
    ]
    await fail_commit(store, disk)
    for future in futures:
        with pytest.raises(StoreUnavailable):
            await future
    assert store.card_campaigns.read(new.number) is None
    with pytest.raises(StoreUnavailable):
        store.card_campaigns.put(new)
    disk.error = None
    assert await store.committer.probe()
    await store.committer.flush()
    assert store._environment.entries(Db.CAMPAIGNS) == 1
    await store.close()
    store = await open_store(tmp_path)
    assert store.card_campaigns.all() == [replace(old, why="x")]
    await store.close()


async def test_participants_come_in_pages_and_only_its_own(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    kept = campaign(store, 10)
    await store.card_campaigns.put(kept)
    made = [
        download(store, kept.first + n, campaign=kept.number, payload=kept.payload, state=DownloadState.HELD)
        for n in range(10)
    ]
    await store.card_downloads.add(made[:6])
    adding = store.card_downloads.add(made[6:])
    alone = download(store, payload=kept.payload)
    await_alone = store.card_downloads.add([alone])
    changing = store.card_downloads.change(replace(made[2], state=DownloadState.WAITING))
    made[2] = replace(made[2], state=DownloadState.WAITING)
    for _ in range(2):  # before and after all is durable
        found = []
        after = 0
        while page := store.card_downloads.of_campaign(kept.number, after, 3):
            assert len(page) <= 3
            found += page
            after = page[-1].number
        assert found == made
        for future in (adding, await_alone, changing):
            await future
    assert store.card_downloads.of_campaign(alone.number, 0, 10) == []
    await store.close()


async def test_participants_of_one_that_is_still_gathered_are_found_among_others(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    kept = campaign(store, 4, state=CampaignState.GATHERING)
    kept = replace(kept, participants=0)
    await store.card_campaigns.put(kept)
    mine = [download(store, kept.first + n, campaign=kept.number, payload=kept.payload) for n in range(3)]
    await store.card_downloads.add(mine)
    await store.card_downloads.add([download(store, payload=kept.payload)])
    assert store.card_downloads.of_campaign(kept.number, 0, 10) == mine
    await store.close()


async def test_what_a_kill_left_of_one_beyond_its_count_goes_with_it_and_others_stay(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, history_days=1))
    kept = campaign(store, 8)
    other = campaign(store, 1)
    await store.card_campaigns.put(replace(kept, participants=4))
    await store.card_campaigns.put(other)
    rows = [
        download(store, kept.first + n, campaign=kept.number, payload=kept.payload, state=DownloadState.HELD)
        for n in range(6)
    ]
    rows.append(download(store, other.first, campaign=other.number, state=DownloadState.HELD))
    await store.card_downloads.add(rows)
    await store.card_campaigns.put(replace(kept, state=CampaignState.STOPPED, ended_ms=clock.now_ms))
    clock.now_ms += 2 * 86_400_000
    while store.sweep():
        await store.committer.flush()
    await store.committer.flush()
    assert [store.card_downloads.read(row.number) is None for row in rows] == [True] * 6 + [False]
    assert store.card_campaigns.all() == [other]
    await store.close()


async def test_one_that_is_over_stays_while_a_participant_is_open(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, history_days=1))
    kept = campaign(store, 1)
    await store.card_campaigns.put(replace(kept, state=CampaignState.DONE, ended_ms=clock.now_ms))
    out = download(store, kept.first, campaign=kept.number, payload=kept.payload)
    await store.card_downloads.add([out])
    clock.now_ms += 2 * 86_400_000
    assert not store.card_campaigns.sweep(clock.now_ms)
    assert store.card_campaigns.read(kept.number) is not None
    assert store.card_downloads.read(out.number) == out
    await store.close()
