"""Appends to a partition's journal on real NATS servers, with answers and requests lost between: each is there once or
not at all, and its owner knows which."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from faulty_link import FaultyLink
from journal_rig import JournalFleet, PlainLink, until

from gateway.cluster.jetstream import JetStream
from gateway.cluster.journal_stream import JournalLost, JournalStream
from gateway.config.cluster_section import Cluster
from gateway.fleet.patience import start_patiently
from gateway.model.errors import LogFenced, LogUnavailable

P = 5


class Scene:
    def __init__(self, fleet: JournalFleet, settings: Cluster) -> None:
        self.fleet = fleet
        self.settings = settings
        self._links: list[PlainLink] = []

    async def owner(self, epoch: int) -> tuple[JournalStream, FaultyLink]:
        link = await PlainLink().connect(self.settings.url)
        self._links.append(link)
        faulty = FaultyLink(link)
        journal = JournalStream(faulty, self.settings, P)  # type: ignore[arg-type]

        async def take_over() -> None:
            await journal.open(epoch)

        await start_patiently(take_over)  # what was just made is not known to each server at once
        return journal, faulty

    async def rows(self) -> list[bytes]:
        """What a reader makes of the stream."""
        return [commit.rows for commit in await self.fleet.commits(P) if commit.rows]

    async def js(self) -> JetStream:
        link = await PlainLink().connect(self.settings.url)
        self._links.append(link)
        return JetStream(link)

    async def close(self) -> None:
        for link in self._links:
            await link.close()


@pytest_asyncio.fixture
async def scene(
    tmp_path: Path, fleet_settings: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    monkeypatch.setattr("gateway.cluster.journal_stream.PAUSE_S", 0.01)
    settings = fleet_settings(journal_bytes=1 << 24, message_bytes=65_536, stall_s=0.2)
    scene = Scene(JournalFleet(tmp_path, fleet_settings), settings)
    yield scene
    await scene.close()


async def test_places_rise_and_rows_come_back(scene: Scene) -> None:
    journal, _ = await scene.owner(1)
    places = [await journal.append(b"%d" % n) for n in range(5)]
    assert places == [2, 3, 4, 5, 6]
    assert await scene.rows() == [b"%d" % n for n in range(5)]


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "late", "nobody"])
async def test_what_is_lost_on_the_way_is_there_once(scene: Scene, fault: str) -> None:
    journal, faulty = await scene.owner(1)
    faulty.nats.faults = [fault]
    assert await journal.append(b"one") == 2
    faulty.nats.faults = [fault, fault]
    assert await journal.append(b"two") == 3
    await faulty.nats.settle()
    assert await journal.append(b"three") == 4
    assert await scene.rows() == [b"one", b"two", b"three"]


async def test_a_commit_whose_answer_was_lost_before_another_took_over_counts(scene: Scene) -> None:
    journal, faulty = await scene.owner(1)
    faulty.nats.faults = ["answer lost"]
    append = journal.append(b"mine")
    while (await scene.rows()) != [b"mine"]:
        await asyncio.sleep(0)
    await scene.owner(2)
    assert await append == 2
    with pytest.raises(LogFenced):
        await journal.append(b"no more")
    with pytest.raises(LogFenced):
        await journal.append(b"never")
    assert await scene.rows() == [b"mine"]


async def test_a_commit_that_was_lost_and_overtaken_is_refused(scene: Scene) -> None:
    journal, faulty = await scene.owner(1)
    await journal.append(b"before")
    faulty.nats.faults = ["late"] * 1_000  # each try arrives, and behind the other owner
    append = journal.append(b"mine")
    other, _ = await scene.owner(2)
    results = await asyncio.gather(append, return_exceptions=True)
    await other.append(b"theirs")
    await faulty.nats.settle()
    rows = await scene.rows()
    if isinstance(results[0], LogFenced):
        assert rows == [b"before", b"theirs"]
    else:
        assert rows == [b"before", b"mine", b"theirs"]


async def test_of_two_owners_of_one_epoch_the_later_has_it(scene: Scene) -> None:
    first, _ = await scene.owner(1)
    second, _ = await scene.owner(1)
    with pytest.raises(LogFenced):
        await first.append(b"first")
    await second.append(b"second")
    assert await scene.rows() == [b"second"]


async def test_a_newer_owner_is_not_pushed_aside(scene: Scene) -> None:
    journal, _ = await scene.owner(4)
    with pytest.raises(LogFenced):
        await scene.owner(3)
    await journal.append(b"still mine")


async def test_a_commit_in_doubt_stalls_and_is_settled_when_it_is_known(scene: Scene) -> None:
    journal, faulty = await scene.owner(1)
    assert not journal.stalled
    faulty.nats.faults = ["request lost"] * 100_000
    append = journal.append(b"mine")
    await until(lambda: journal.stalled)
    assert not append.done()
    faulty.nats.faults = []
    assert await append == 2
    assert not journal.stalled


async def test_a_commit_that_nobody_takes_is_certainly_not_written(scene: Scene) -> None:
    journal, faulty = await scene.owner(1)
    faulty.nats.faults = ["nobody"] * 100_000
    with pytest.raises(LogUnavailable):
        await journal.append(b"mine")
    faulty.nats.faults = []
    assert await journal.append(b"later") == 2
    assert await scene.rows() == [b"later"]


async def test_without_a_connection_nothing_is_written(scene: Scene) -> None:
    journal, _ = await scene.owner(1)
    await scene._links[0].close()
    with pytest.raises(LogUnavailable):
        await journal.append(b"mine")
    assert await scene.rows() == []


async def test_parts_of_a_commit_that_was_given_up_never_count(scene: Scene) -> None:
    journal, faulty = await scene.owner(1)
    faulty.nats.faults = ["", ""] + ["nobody"] * 100_000
    with pytest.raises(LogUnavailable):
        await journal.append(b"a" * 200_000)
    faulty.nats.faults = []
    await journal.append(b"b" * 150_000)
    faulty.nats.faults = ["", "", "answer lost"] + ["request lost"] * 100_000
    late = journal.append(b"c" * 300_000)
    await until(lambda: journal.stalled)
    other, _ = await scene.owner(2)
    with pytest.raises(LogFenced):
        await late
    await other.append(b"d" * 70_000)
    assert [bytes({row[0]}) + b"%d" % len(row) for row in await scene.rows()] == [b"b150000", b"d70000"]


async def test_a_closed_journal_leaves_nobody_waiting(scene: Scene) -> None:
    journal, faulty = await scene.owner(1)
    faulty.nats.faults = ["request lost"] * 100_000
    append = journal.append(b"mine")
    await asyncio.sleep(0)
    await journal.close()
    with pytest.raises(asyncio.CancelledError):
        await append


async def test_a_stream_that_lost_what_it_acknowledged_is_no_place_to_go_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cluster.journal_stream.LOST_S", 0.1)
    journal, _ = await scene.owner(1)
    await journal.append(b"one")
    js = await scene.js()
    await js.api(f"STREAM.DELETE.{journal.stream}")
    with pytest.raises((LogFenced, LogUnavailable)):
        await journal.append(b"two")
    first, _ = await scene.owner(1)
    for n in range(3):
        await first.append(b"%d" % n)
    await js.api(f"STREAM.DELETE.{journal.stream}")
    await js.ensure({**(await _config(scene)), "name": journal.stream})
    with pytest.raises((LogFenced, JournalLost)):
        await first.append(b"more")


async def test_an_owner_whose_stream_was_removed_refuses_each_commit_in_time_and_then_gives_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say for ever that NATS takes nothing now; who adopts the partition next knows what to say."""
    monkeypatch.setattr("gateway.cluster.journal_stream.LOST_S", 0.5)
    journal, _ = await scene.owner(1)
    await journal.append(b"one")
    await (await scene.js()).api(f"STREAM.DELETE.{journal.stream}")
    loop = asyncio.get_running_loop()
    began, refused = loop.time(), 0

    async def appends_until_it_ends() -> None:
        nonlocal refused
        while True:
            asked = loop.time()
            try:
                await journal.append(b"more")
            except LogUnavailable:
                refused += 1
                assert loop.time() - asked < 5

    with pytest.raises(JournalLost, match="is gone"):
        await appends_until_it_ends()
    assert refused
    assert loop.time() - began > 0.5


async def test_an_owner_that_can_not_reach_nats_gives_nothing_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cluster.journal_stream.LOST_S", 0.0)
    journal, faulty = await scene.owner(1)
    await faulty.nats.close()
    for _ in range(3):
        with pytest.raises(LogUnavailable):
            await journal.append(b"more")


async def _config(scene: Scene) -> dict[str, object]:
    from gateway.cluster.journal_stream import journal_config

    return journal_config(scene.settings, P)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_lost_every_answer_is_true(scene: Scene, seed: int) -> None:
    luck = random.Random(seed)
    expected: list[bytes] = []
    journal, faulty = await scene.owner(1)
    epoch = 1
    for n in range(30):
        faulty.nats.luck = luck
        rows = b"%d" % n * luck.choice([1, 1, 1, 40_000])
        append = journal.append(rows)
        takes_over = luck.random() < 0.2
        if takes_over:
            for _ in range(luck.randrange(30)):
                await asyncio.sleep(0)
            epoch += 1
            fresh = await scene.owner(epoch)
        try:
            await append
            expected.append(rows)
        except (LogFenced, LogUnavailable):
            pass
        faulty.nats.luck = None
        if takes_over:
            await faulty.nats.settle()
            journal, faulty = fresh
    await faulty.nats.settle()
    assert await scene.rows() == expected
