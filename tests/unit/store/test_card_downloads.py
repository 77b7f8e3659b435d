"""Downloads on the disk: the newest change counts, the end is written once with its receipt, what is over is swept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from card_rig import add_download, campaign, download, payload
from msgspec.structs import replace
from store_rig import APP, START_MS, Clock, disk_of, fail_commit, open_store, push, register, settle, with_app

from gateway.metrics import Metric, Metrics
from gateway.model.cards import CampaignState, Download, DownloadState, DownloadStep
from gateway.model.errors import StoreUnavailable
from gateway.model.outcome import State
from gateway.store import Store
from gateway.store.card_payloads import GRACE_MS, ROUND_MS
from gateway.store.card_rows import parse_download
from gateway.store.records import Db, pack_u64

DAY_MS = 86_400_000
ENDS = {
    DownloadState.DONE: State.ACKED,
    DownloadState.NOTICED: State.NOTICED,
    DownloadState.FAILED: State.FAILED,
    DownloadState.STOPPED: State.RECALLED,
    DownloadState.EXPIRED: State.EXPIRED,
}


def ended(made: Download, state: DownloadState = DownloadState.DONE) -> Download:
    return replace(made, state=state, steps=(*made.steps, DownloadStep(START_MS + 5, "executed", "3 commands")))


def sweep_all(store: Store) -> None:
    while store.sweep():
        pass


async def sweep(store: Store) -> None:
    """To the end; a slice is on its way to the disk when the next is asked for."""
    while store.sweep():
        await store.committer.flush()
    await store.committer.flush()


def entries(store: Store, *dbs: Db) -> list[int]:
    return [store._environment.entries(db) for db in dbs]


async def test_a_download_is_there_at_once_and_after_a_restart(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = download(store)
    written = store.card_downloads.add([made])
    assert store.card_downloads.read(made.number) == made
    await written
    assert store.card_downloads._added == {}
    await store.close()
    store = await open_store(tmp_path)
    assert store.card_downloads.read(made.number) == made
    assert store.card_downloads.payload(made.payload) == payload()
    assert list(store.card_downloads.open()) == [made]
    assert store.card_downloads.read(made.number + 1) is None
    assert store.card_downloads.reserve(1) > made.number
    await store.close()


async def test_of_several_changes_the_newest_is_written_alone(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = await add_download(store)
    disk = disk_of(store)
    changes = [store.card_downloads.change(replace(made, calls=calls)) for calls in range(1, 6)]
    newest = store.card_downloads.read(made.number)
    assert newest is not None
    assert newest.calls == 5
    for change in changes:
        await change
    assert len([row for row in disk.written if row[1] == Db.DOWNLOADS]) == 1
    assert list(store.card_downloads._changed.items()) == []
    await store.close()
    store = await open_store(tmp_path)
    again = store.card_downloads.read(made.number)
    assert again == replace(made, calls=5)
    await store.close()


async def test_a_change_whose_commit_failed_is_written_when_that_can_be_done_again(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = await add_download(store)
    disk = disk_of(store)
    lost = store.card_downloads.change(replace(made, calls=1))
    await fail_commit(store, disk)
    with pytest.raises(StoreUnavailable):
        await lost
    later = store.card_downloads.change(replace(made, calls=2))
    disk.error = None
    assert await store.committer.probe()
    await later
    await store.close()
    store = await open_store(tmp_path)
    assert store.card_downloads.read(made.number) == replace(made, calls=2)
    await store.close()


async def test_a_change_while_the_store_tries_whether_it_can_write_goes_with_the_next_commit(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = await add_download(store)
    disk = disk_of(store)
    await fail_commit(store, disk)
    disk.error = None
    trying = asyncio.ensure_future(store.committer.probe())
    await asyncio.sleep(0)  # what was there before is on its way
    changed = store.card_downloads.change(replace(made, calls=1))
    assert await trying
    async with asyncio.timeout(60):
        await changed
    await store.close()


async def test_one_that_could_not_be_written_never_was_also_where_it_changed_meanwhile(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = download(store)
    await store.committer.flush()
    disk = disk_of(store)
    written = store.card_downloads.add([made])
    changed = store.card_downloads.change(replace(made, calls=1))
    over = store.card_downloads.settle(ended(made))
    await fail_commit(store, disk)
    for future in (written, changed, over):
        with pytest.raises(StoreUnavailable):
            await future
    assert store.card_downloads.read(made.number) is None
    disk.error = None
    assert await store.committer.probe()
    await store.committer.flush()
    assert entries(store, Db.DOWNLOADS, Db.OPEN_DOWNLOADS, Db.RECEIPTS) == [0, 0, 0]
    await store.close()


@pytest.mark.parametrize("state", ENDS, ids=lambda state: state.name.lower())
async def test_its_end_is_one_line_of_the_receipts_feed_of_its_app(tmp_path: Path, state: DownloadState) -> None:
    store = await with_app(await with_app(await open_store(tmp_path)), "other")
    woken: list[int] = []
    store.receipts.subscribe(lambda: woken.append(1))
    made = await add_download(store)
    over = ended(made, state)
    await store.card_downloads.settle(over)
    assert woken
    (line,) = store.receipts.after(APP, 0, 10)
    outcome = line.outcome
    assert (outcome.seq, outcome.notification, outcome.app, outcome.state) == (
        made.number,
        made.number,
        APP,
        ENDS[state],
    )
    assert [(step.at_ms, step.what, step.channel, step.detail) for step in line.outcome.steps] == [
        (START_MS, "accepted", "card", ""),
        (START_MS + 5, "executed", "card", "3 commands"),
    ]
    assert line.outcome.at_ms == START_MS + 5
    assert store.receipts.after("other", 0, 10) == []
    assert store.card_downloads.read(made.number) == over
    assert entries(store, Db.OPEN_DOWNLOADS) == [0]
    assert store.receipts.lookup(APP, made.number) is None  # it is no push
    await store.close()


async def test_the_first_end_holds_and_has_one_line(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = await add_download(store)
    first = store.card_downloads.settle(ended(made))
    await store.card_downloads.settle(ended(made, DownloadState.STOPPED))
    await store.card_downloads.change(replace(made, calls=9))
    await first
    await store.card_downloads.change(replace(made, calls=9))
    assert store.card_downloads.read(made.number) == ended(made)
    assert len(store.receipts.after(APP, 0, 10)) == 1
    with pytest.raises(ValueError, match="not over"):
        store.card_downloads.settle(made)
    await store.close()


async def test_an_end_that_is_told_again_is_durable_no_sooner_than_it_is(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = await add_download(store)
    disk = disk_of(store)
    lost = store.card_downloads.settle(ended(made))
    await fail_commit(store, disk)
    with pytest.raises(StoreUnavailable):
        await lost
    again = store.card_downloads.settle(ended(made, DownloadState.STOPPED))
    assert not again.done()
    disk.error = None
    assert await store.committer.probe()
    await again
    assert parse_download(store._environment.get(Db.DOWNLOADS, pack_u64(made.number))) == ended(made)
    assert len(store.receipts.after(APP, 0, 10)) == 1
    await store.close()


async def test_a_change_on_its_way_does_not_come_over_the_end(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = await add_download(store)
    disk = disk_of(store)
    change = store.card_downloads.change(replace(made, state=DownloadState.ACTIVE))
    over = store.card_downloads.settle(ended(made))
    await fail_commit(store, disk)
    for future in (change, over):
        with pytest.raises(StoreUnavailable):
            await future
    assert store.card_downloads.read(made.number) == ended(made)  # it is over all the same
    assert store.receipts.after(APP, 0, 10) == []  # but not told before it is durable
    disk.error = None
    assert await store.committer.probe()
    await store.committer.flush()
    assert [line.outcome.seq for line in store.receipts.after(APP, 0, 10)] == [made.number]
    await store.close()
    store = await open_store(tmp_path)
    assert store.card_downloads.read(made.number) == ended(made)
    assert list(store.card_downloads.open()) == []
    await store.close()


async def test_a_start_reads_what_is_open_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await with_app(await open_store(tmp_path))
    kept = campaign(store, 1)
    await store.card_campaigns.put(kept)
    made = [await add_download(store) for _ in range(5)]
    held = await add_download(store, number=kept.first, state=DownloadState.HELD, campaign=kept.number)
    for each in made[:3]:
        await store.card_downloads.settle(ended(each))
    await store.card_downloads.change(replace(made[3], state=DownloadState.ACTIVE))
    await store.close()
    decoded: list[bytes] = []

    def parse(raw: bytes) -> Download:
        decoded.append(raw)
        return parse_download(raw)

    monkeypatch.setattr("gateway.store.card_downloads.parse_download", parse)
    store = await open_store(tmp_path)
    assert decoded == []
    assert [each.number for each in store.card_downloads.open()] == [made[3].number, made[4].number]
    assert len(decoded) == 2
    released = replace(held, state=DownloadState.WAITING)
    await store.card_downloads.change(released)
    assert held.number in [each.number for each in store.card_downloads.open()]
    await store.close()


async def test_downloads_and_pushes_share_numbers_and_the_feed(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "phone")
    seq, commit = push(store, number)
    made = await add_download(store)
    await commit
    settle(store, seq)
    await store.card_downloads.settle(ended(made))
    lines = store.receipts.after(APP, 0, 10)
    assert [line.outcome.seq for line in lines] == [seq, made.number]
    assert [{step.channel for step in line.outcome.steps} for line in lines] == [{"edge"}, {"card"}]
    assert store.receipts.after(APP, lines[0].cursor, 10) == lines[1:]
    assert store.receipts.last_cursor(APP) == lines[1].cursor
    assert len({seq, made.number}) == 2
    assert store.card_downloads.read(seq) is None
    await store.close()


async def test_many_ends_at_once_come_in_few_rows_and_none_is_missing(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    digest = store.card_downloads.put_payload(payload())
    first = store.card_downloads.reserve(2_500)
    made = [download(store, first + n, payload=digest) for n in range(2_500)]
    await store.card_downloads.add(made)
    ends = [store.card_downloads.settle(ended(each)) for each in made]
    for end in ends:
        await end
    assert [line.outcome.seq for line in store.receipts.after(APP, 0, 5_000)] == [each.number for each in made]
    assert entries(store, Db.RECEIPTS, Db.OPEN_DOWNLOADS, Db.OUTCOMES) == [3, 0, 0]
    await store.close()


async def test_what_is_over_goes_when_its_time_is_over(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, history_days=2))
    made = [await add_download(store) for _ in range(3)]
    for each in made[:2]:
        await store.card_downloads.settle(ended(each))
    clock.now_ms += DAY_MS
    await sweep(store)
    assert entries(store, Db.DOWNLOADS, Db.RECEIPTS) == [3, 2]
    clock.now_ms += DAY_MS + 2_000
    await sweep(store)
    assert entries(store, Db.DOWNLOADS, Db.RECEIPTS) == [1, 0]
    assert store.card_downloads.read(made[2].number) == made[2]
    await store.close()


async def test_participants_stay_as_long_as_their_campaign(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock, history_days=2))
    kept = campaign(store, 2_500)
    await store.card_campaigns.put(kept)
    made = [
        download(store, kept.first + n, campaign=kept.number, payload=kept.payload, state=DownloadState.HELD)
        for n in range(2_500)
    ]
    await store.card_downloads.add(made)
    for each in made:
        store.card_downloads.settle(ended(each))
    await store.committer.flush()
    clock.now_ms += 3 * DAY_MS
    await sweep(store)
    assert entries(store, Db.DOWNLOADS, Db.RECEIPTS, Db.CAMPAIGNS) == [2_500, 0, 1]
    await store.card_campaigns.put(replace(kept, state=CampaignState.DONE, ended_ms=clock.now_ms))
    await sweep(store)
    assert entries(store, Db.DOWNLOADS, Db.CAMPAIGNS) == [2_500, 1]
    clock.now_ms += 2 * DAY_MS + 2_000
    await sweep(store)
    assert entries(store, Db.DOWNLOADS, Db.CAMPAIGNS) == [0, 0]
    await store.close()


# --- payloads ----------------------------------------------------------------------------------------------------


async def test_a_payload_is_kept_once_whoever_gets_it(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    digests = {store.card_downloads.put_payload(payload()) for _ in range(3)}
    await store.committer.flush()
    digests.add(store.card_downloads.put_payload(payload()))
    assert len(digests) == 1
    assert store.card_downloads.put_payload(payload("other")) not in digests
    await store.committer.flush()
    assert entries(store, Db.PAYLOADS) == [2]
    assert store.card_downloads.payload(bytes(32)) is None
    await store.close()


async def test_a_download_whose_payload_was_not_written_is_refused(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    await store.committer.flush()
    disk = disk_of(store)
    made = download(store)
    await fail_commit(store, disk)
    disk.error = None
    assert await store.committer.probe()
    with pytest.raises(StoreUnavailable):
        store.card_downloads.add([made])
    assert store.card_downloads.read(made.number) is None
    store.card_downloads.put_payload(payload())
    await store.card_downloads.add([made])
    await store.close()


async def test_a_payload_goes_when_nothing_needs_it_any_more(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    downloads = store.card_downloads
    over, waits = await add_download(store), await add_download(store, payload=downloads.put_payload(payload("waits")))
    kept = campaign(store, payload=downloads.put_payload(payload("campaign")))
    await store.card_campaigns.put(kept)
    downloads.put_payload(payload("nobody came"))
    await downloads.settle(ended(over))
    await sweep(store)
    assert entries(store, Db.PAYLOADS) == [4]  # perhaps somebody is about to need it
    clock.now_ms += GRACE_MS + ROUND_MS
    await sweep(store)
    assert entries(store, Db.PAYLOADS) == [2]
    assert downloads.payload(waits.payload) == payload("waits")
    assert downloads.payload(kept.payload) == payload("campaign")
    assert downloads.payload(over.payload) is None
    await downloads.settle(ended(waits))
    await store.card_campaigns.put(replace(kept, state=CampaignState.STOPPED))
    clock.now_ms += GRACE_MS + ROUND_MS
    await sweep(store)
    assert entries(store, Db.PAYLOADS) == [0]
    await store.close()


async def test_after_a_restart_what_is_needed_stays_and_the_rest_goes_at_once(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    waits = await add_download(store)
    store.card_downloads.put_payload(payload("killed before its download came"))
    await store.close()
    store = await open_store(tmp_path)
    await sweep(store)
    assert entries(store, Db.PAYLOADS) == [1]
    assert store.card_downloads.payload(waits.payload) == payload()
    await store.close()


async def test_a_payload_that_is_put_while_it_goes_is_there(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    store.card_downloads.put_payload(payload())
    await store.committer.flush()
    clock.now_ms += GRACE_MS + ROUND_MS
    sweep_all(store)  # its removal is not written yet
    made = download(store)
    await store.card_downloads.add([made])
    assert entries(store, Db.PAYLOADS) == [1]
    assert store._environment.get(Db.OPEN_DOWNLOADS, pack_u64(made.number)) == made.payload
    assert store.card_downloads.payload(made.payload) == payload()
    await store.close()


async def test_a_round_in_slices_sees_what_came_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.store.card_payloads.SLICE", 2)
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    downloads = store.card_downloads
    for n in range(5):
        await add_download(store, payload=downloads.put_payload(payload(str(n))))
    early = downloads.put_payload(payload("early"))
    number = downloads.reserve(1)
    await store.committer.flush()
    clock.now_ms += GRACE_MS + ROUND_MS
    assert store._payloads.sweep(clock.now_ms)
    await downloads.add([download(store, number, payload=early)])
    while store._payloads.sweep(clock.now_ms):
        pass
    await store.committer.flush()
    assert entries(store, Db.PAYLOADS) == [6]
    await store.close()


async def test_an_end_without_a_step_gets_one(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    made = await add_download(store, steps=())
    await store.card_downloads.settle(replace(made, state=DownloadState.EXPIRED))
    (line,) = store.receipts.after(APP, 0, 10)
    assert [(step.what, step.channel) for step in line.outcome.steps] == [("expired", "card")]
    await store.close()


@pytest.mark.parametrize("room", [True, False])
async def test_a_stop_tries_once_more_to_write_what_changed_and_counts_what_it_could_not(
    tmp_path: Path, *, room: bool
) -> None:
    metrics = Metrics(process=False)
    store = await with_app(await open_store(tmp_path, metrics=metrics))
    made = await add_download(store)
    disk = disk_of(store)
    await fail_commit(store, disk)
    over = store.card_downloads.settle(ended(made))
    if room:
        disk.error = None
    await store.close()
    assert metrics.value(Metric.STORE_ROWS_DROPPED) == (0 if room else 1)
    assert room == (over.done() and over.exception() is None)
    store = await open_store(tmp_path)
    assert store.card_downloads.read(made.number) == (ended(made) if room else made)
    assert len(store.receipts.after(APP, 0, 10)) == room
    await store.close()
