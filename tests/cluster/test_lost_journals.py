"""A partition whose journal is gone, made anew or shorter, on real NATS servers: nobody goes on with less than it had,
until somebody says from which copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from journal_rig import JournalFleet, JournalNode, until
from store_rig import config, push, register, with_app
from structlog.testing import capture_logs
from test_adoption import accept_some, check_some

from gateway.cluster import follower as follower_module
from gateway.cluster import recovery, recovery_survey
from gateway.cluster.fleet_records import FLEET, Beat, Fleet, Holding, build, partition_key
from gateway.cluster.jetstream import JetStream
from gateway.cluster.journal_past import JournalLacking, Pasts
from gateway.cluster.journal_stream import journal_config
from gateway.cluster.recovery import NotRecovered, Recovered
from gateway.cluster.recovery_survey import Survey
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Config
from gateway.model.cluster import first_seq
from gateway.model.errors import ConfigError, LogFenced, LogUnavailable

P = 3


@pytest_asyncio.fixture
async def fleet(
    tmp_path: Path, fleet_settings: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[JournalFleet]:
    monkeypatch.setattr(follower_module, "LOOK_S", 0.5)  # these servers know what they have
    monkeypatch.setattr(recovery_survey, "HOLD_S", 0.5)
    fleet = JournalFleet(tmp_path, fleet_settings)
    node = await fleet.node("first")
    await node.leases.create(FLEET, build(Fleet(1, 16, 3)))
    yield fleet
    await fleet.close()


def stream_of(node: JournalNode) -> str:
    return f"{node.settings.name}_J_{P}"


async def remove(node: JournalNode) -> None:
    await JetStream(node.link).api(f"STREAM.DELETE.{stream_of(node)}")


async def make_anew(node: JournalNode) -> None:
    """As a program did that knew nothing of what was there."""
    await remove(node)
    await JetStream(node.link).ensure(journal_config(node.settings, P), 5.0)


def settings_of(node: JournalNode) -> Config:
    whole = Config()
    whole.cluster, whole.store = node.settings, config(node.folder)
    return whole


def work_in(fleet: JournalFleet) -> Path:
    work = fleet.folder / "work"
    work.mkdir(exist_ok=True)
    return work


async def look(fleet: JournalFleet, node: JournalNode) -> Survey:
    return await recovery.look(settings_of(node), P, work_in(fleet))


async def recover(fleet: JournalFleet, node: JournalNode, source: str = recovery.FURTHEST) -> Recovered:
    return await recovery.recover(settings_of(node), P, source, work_in(fleet))


async def snapshot_of(node: JournalNode, place: int) -> None:
    """Until a node that refused has brought its copy into NATS."""
    async with asyncio.timeout(60):
        while True:
            found = await node.stores._snapshots.find(P)
            if found is not None and found.place == place:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("hurt", [remove, make_anew])
async def test_a_journal_that_is_gone_or_made_anew_is_not_gone_on_with_by_anybody(
    fleet: JournalFleet, hurt: Callable[[JournalNode], object]
) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    await accept_some(store)
    await store.close()
    await hurt(first)  # type: ignore[misc]
    with capture_logs() as logs:
        for epoch in (2, 4):
            with pytest.raises(JournalLacking):
                await first.adopt(P, epoch)
        with pytest.raises(JournalLacking):
            await second.adopt(P, 6)  # which has nothing of its own that could tell it
    said = [line for line in logs if line["event"] == "partition_refused"]
    assert len(said) == 2  # each node once
    assert "heliograph cluster recover 3" in said[0]["remedy"]
    # what the node has is where it was, and nothing was written to the stream
    assert (first.folder / "partitions" / str(P) / "data.mdb").exists()
    state = await JetStream(first.link).state(stream_of(first))
    assert state is None or state.last == 0


async def test_a_journal_that_is_shorter_than_the_fleet_knows_is_not_gone_on_with(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    await accept_some(store)
    state = await JetStream(first.link).state(stream_of(first))
    assert state is not None
    await store.close()
    await Pasts(first.leases).note(P, state.created, state.last + 7)
    with pytest.raises(JournalLacking, match=f"had {state.last + 7}"):
        await second.adopt(P, 2)


async def test_a_stream_that_comes_back_is_gone_on_with_by_itself(
    fleet: JournalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that start know less for a moment."""
    first = await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    await store.close()
    state, asked = JetStream.state, []

    async def nothing_yet(self: JetStream, stream: str, subjects: str = "") -> object:
        if stream == stream_of(first) and len(asked) < 2:
            asked.append(stream)
            return None
        return await state(self, stream, subjects)

    monkeypatch.setattr(follower_module, "LOOK_S", 5.0)
    monkeypatch.setattr(JetStream, "state", nothing_yet)
    again = await first.adopt(P, 2)
    assert len(asked) == 2
    check_some(again, *some)
    await again.close()


async def test_a_node_that_refuses_brings_the_furthest_copy_into_nats_and_the_partition_goes_on_from_it(
    fleet: JournalFleet,
) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    place = (await fleet.commits(P))[-1].place
    await store.close()
    end = (await fleet.commits(P))[-1].place
    assert end >= place
    await remove(first)
    with pytest.raises(JournalLacking):
        await first.adopt(P, 2)
    await snapshot_of(first, end)
    survey = await look(fleet, second)
    assert "gone" in survey.reason
    assert (survey.had, survey.owner) == (end, "")
    assert [(copy.where, copy.place, copy.in_nats) for copy in survey.copies] == [
        ("snapshot", end, True),
        ("folder of n2", end, False),
    ]
    done = await recover(fleet, second)
    assert (done.source, done.place, done.had) == ("snapshot", end, end)
    # from a machine that never had it, and then on the one that had
    other = await second.adopt(P, 4)
    check_some(other, *some)
    seq, written = push(other, some[0])
    await written
    assert seq - some[1] > 1 << 31  # no number that may have been given out
    await other.close()
    again = await first.adopt(P, 5)
    assert again.journal.pending_of(some[0]) == [some[1], seq]
    await again.close()
    with pytest.raises(NotRecovered, match="whole"):
        await recover(fleet, second)


async def test_a_standby_of_before_begins_anew_after_a_recovery_and_keeps_what_it_had(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    second.stores.follow(P)
    store = await first.adopt(P, 1)
    await accept_some(store)
    await store.close()
    end = (await fleet.commits(P))[-1].place
    await until(lambda: second.stores.applied(P) == end)
    await make_anew(first)
    await recover(fleet, first, recovery.EMPTY)
    other = await with_app(await (await fleet.node()).adopt(P, 4), "anew")
    number = register(other, "two", app="anew")
    seq, written = push(other, number, app="anew")
    await written
    assert seq > first_seq(P) + 1_000_000_000_000  # whatever was given out before
    await other.close()
    place = (await fleet.commits(P))[-1].place
    await until(lambda: second.stores.applied(P) == place)
    last = await second.adopt(P, 5)
    assert last.directory.app_names() == ["anew"]
    assert last.journal.pending_of(number) == [seq]
    assert (second.folder / "partitions" / f"{P}.lost" / "data.mdb").exists()
    await last.close()


async def test_a_recovery_from_a_folder_of_a_machine_that_is_no_node_any_more(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    await store.close()
    end = (await fleet.commits(P))[-1].place
    await remove(first)
    with pytest.raises(JournalLacking):
        await second.adopt(P, 2)
    with pytest.raises(NotRecovered, match="no copy"):
        await recover(fleet, second)
    done = await recover(fleet, second, str(first.folder / "partitions" / str(P)))
    assert done.place == done.had == end
    other = await second.adopt(P, 4)
    check_some(other, *some)
    await other.close()


async def test_a_copy_that_can_not_be_the_partitions_changes_nothing(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    for partition in (P, P + 1):
        store = await first.adopt(partition, 1)
        await accept_some(store)
        await store.close()
    await remove(first)
    with pytest.raises(JournalLacking):
        await second.adopt(P, 2)
    before = await Pasts(first.leases).get(P)
    for source in ("/nowhere", str(tmp_folder(fleet)), recovery_survey.STREAM, recovery_survey.SNAPSHOT):
        with pytest.raises(NotRecovered, match="nothing was changed"):
            await recover(fleet, second, source)
    assert await Pasts(first.leases).get(P) == before
    with pytest.raises(NotRecovered, match=f"folder of partition {P + 1}"):
        await recover(fleet, second, str(first.folder / "partitions" / str(P + 1)))


def tmp_folder(fleet: JournalFleet) -> Path:
    folder = fleet.folder / "nothing"
    folder.mkdir(exist_ok=True)
    return folder


async def test_what_a_stream_that_was_made_anew_has_can_be_gone_on_with_too(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    await store.close()
    await make_anew(first)
    pasts = Pasts(first.leases)
    past, revision = await pasts.get(P)
    assert past is not None
    await pasts.remove(P, revision)  # an older program, which keeps no such records, took it over
    other = await second.adopt(P, 2)
    some = await accept_some(other)
    await other.close()
    _, revision = await pasts.get(P)
    await pasts.change(P, past, revision)
    with pytest.raises(JournalLacking, match="made anew"):
        await second.adopt(P, 4)
    survey = await look(fleet, second)
    assert [(copy.where, copy.is_other) for copy in survey.copies if copy.in_nats] == [("stream", True)]
    done = await recover(fleet, second, "stream")
    assert done.source == "stream"
    again = await first.adopt(P, 6)
    check_some(again, *some)
    await again.close()


async def test_a_recovery_that_ends_in_the_middle_keeps_nodes_out_and_is_begun_again(
    fleet: JournalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    await store.close()
    end = (await fleet.commits(P))[-1].place
    await remove(first)
    with pytest.raises(JournalLacking):
        await first.adopt(P, 2)
    await snapshot_of(first, end)
    change, calls = Pasts.change, 0

    for dies_at in (2, 3):
        calls = 0

        async def dies(self: Pasts, *words: object, dies_at: int = dies_at) -> int:
            nonlocal calls
            calls += 1
            if calls == dies_at:
                raise ConfigError("killed here")
            return await change(self, *words)  # type: ignore[arg-type]

        with monkeypatch.context() as killed:
            killed.setattr(Pasts, "change", dies)
            with pytest.raises(ConfigError, match="killed here"):
                await recover(fleet, second)
        with pytest.raises(JournalLacking, match="recovery is under way"):
            await second.adopt(P, 4)
        assert (await look(fleet, second)).reason
    await recover(fleet, second)
    other = await second.adopt(P, 6)
    check_some(other, *some)
    await other.close()


async def test_two_who_recover_at_once_do_not_both_go_on(fleet: JournalFleet) -> None:
    first = await fleet.node()
    store = await first.adopt(P, 1)
    await store.close()
    await remove(first)
    with pytest.raises(JournalLacking):
        await first.adopt(P, 2)
    config = settings_of(first)
    works = [fleet.folder / "one", fleet.folder / "other"]
    for work in works:
        work.mkdir()
    said = await asyncio.gather(
        *(recovery.recover(config, P, recovery.EMPTY, work) for work in works), return_exceptions=True
    )
    done = [each for each in said if isinstance(each, Recovered)]
    assert len(done) == 1, said
    assert isinstance(next(each for each in said if each not in done), ConfigError)
    again = await first.adopt(P, 4)
    await again.close()


async def test_a_partition_that_a_living_node_serves_or_tries_is_not_recovered(
    fleet: JournalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await fleet.node()
    store = await first.adopt(P, 1)
    await accept_some(store)
    await remove(first)  # below a living owner
    leases = first.leases
    beat = Beat(7, "gw7", "", "", 1)
    revision = await leases.create("node.gw7", build(beat))
    await leases.create(partition_key(P), build(Holding(7, 1, ready=True)))

    async def beats() -> None:
        nonlocal revision
        while True:
            revision = await leases.update("node.gw7", build(beat), revision)
            await asyncio.sleep(0.05)

    beating = asyncio.create_task(beats())
    with pytest.raises(NotRecovered, match="gw7"):
        await recover(fleet, first, recovery.EMPTY)
    # it was opened between the look and the first step
    monkeypatch.setattr(recovery, "require", lambda survey: None)
    before = await Pasts(leases).get(P)
    with pytest.raises(NotRecovered, match="serves it; nothing was changed"):
        await recover(fleet, first, recovery.EMPTY)
    assert (await Pasts(leases).get(P))[0] == before[0]
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    # it is dead: its record is renewed no more
    assert (await recover(fleet, first, recovery.EMPTY)).place == 0
    await store.close()


async def test_an_owner_that_adopts_while_a_recovery_begins_does_not_come_through(
    fleet: JournalFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await fleet.node()
    store = await first.adopt(P, 1)
    await accept_some(store)
    await store.close()
    pasts, note = Pasts(first.leases), Pasts.note

    async def late(self: Pasts, partition: int, created: str, place: int) -> None:
        past, revision = await pasts.get(P)
        assert past is not None
        await pasts.change(P, type(past)(past.created, past.place, "another"), revision)
        await note(self, partition, created, place)

    monkeypatch.setattr(Pasts, "note", late)
    with pytest.raises(LogUnavailable, match="recovered"):
        await first.adopt(P, 2)


async def test_an_owner_of_before_can_not_write_to_the_journal_that_was_made(fleet: JournalFleet) -> None:
    first, second = await fleet.node(), await fleet.node()
    store = await first.adopt(P, 1)
    some = await accept_some(store)
    await make_anew(first)  # the first one never closed, and does not know
    await recover(fleet, second, recovery.EMPTY)
    refused = push(store, some[0])[1]
    with pytest.raises(LogFenced):
        await refused
    await until(lambda: first.ends.said != [])
    other = await second.adopt(P, 4)
    assert other.directory.app_names() == []
    await other.close()
    await store.close()
