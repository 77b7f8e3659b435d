"""What a node keeps on its disk of the fleet's journals, and tells a bucket that knows nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cluster.fleet_identity import FleetIdentity
from gateway.cluster.journal_past import Mark, Past, Pasts, build, past_key
from gateway.cluster.leases import Bucket, Entry, LocalLeases
from gateway.cluster.remembered_pasts import FILE, RememberedPasts, remembers
from gateway.model.errors import ConfigError

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"
FLEET = FleetIdentity("heliograph", "0" * 16)


def entry(partition: int, past: Past | None, revision: int = 1) -> Entry:
    return Entry(past_key(partition), b"" if past is None else build(past), revision)


async def known_of(bucket: Bucket) -> dict[int, Mark]:
    pasts = Pasts(LocalLeases(bucket))
    found = {partition: (await pasts.get(partition))[0] for partition in await pasts.known()}
    return {partition: Mark(past.created, past.place) for partition, past in found.items() if past is not None}


async def remember(folder: Path, bucket: str = OLD, fleet: FleetIdentity = FLEET) -> None:
    memory = RememberedPasts(folder, fleet, bucket)
    memory.hear(Entry("node.a", b"another kind", 1))
    memory.hear(entry(1, Past("s1", 5)))
    memory.hear(entry(2, Past("s2", 7)))
    memory.hear(entry(3, Past("s3", 9)))
    memory.hear(entry(1, Past("s1", 50)))  # it went on
    memory.hear(entry(2, Past("s2b", 8)))  # it was recovered
    memory.hear(entry(3, None))  # it was given up
    await memory.close()


async def test_a_bucket_that_knows_nothing_is_told_of_each_journal_and_how_far_it_came(tmp_path: Path) -> None:
    await remember(tmp_path)
    bucket = Bucket(NEW)
    await RememberedPasts(tmp_path, FLEET, NEW).tell(Pasts(LocalLeases(bucket)), 16)
    assert await known_of(bucket) == {1: Mark("s1", 50), 2: Mark("s2b", 8)}


async def test_a_fleet_that_was_begun_afresh_with_fewer_partitions_is_told_of_no_others(tmp_path: Path) -> None:
    await remember(tmp_path)
    bucket = Bucket(NEW)
    await RememberedPasts(tmp_path, FLEET, NEW).tell(Pasts(LocalLeases(bucket)), 2)
    assert await known_of(bucket) == {1: Mark("s1", 50)}


async def test_what_the_fleet_knows_is_not_changed(tmp_path: Path) -> None:
    await remember(tmp_path)
    bucket = Bucket(NEW)
    await Pasts(LocalLeases(bucket)).remember(2, Mark("newer", 3), "b")
    await RememberedPasts(tmp_path, FLEET, NEW).tell(Pasts(LocalLeases(bucket)), 16)
    assert await known_of(bucket) == {1: Mark("s1", 50), 2: Mark("newer", 3)}


async def test_nothing_is_told_where_the_records_are_the_truth(tmp_path: Path) -> None:
    """In the same bucket a journal without a record was given up by somebody."""
    await remember(tmp_path)
    there = Bucket(OLD)
    await RememberedPasts(tmp_path, FLEET, OLD).tell(Pasts(LocalLeases(there)), 16)
    assert await known_of(there) == {}


async def test_a_fleet_of_another_name_is_told_of_nothing_and_what_was_known_of_the_one_before_is_kept(
    tmp_path: Path,
) -> None:
    await remember(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    there = Bucket(NEW)
    other = FleetIdentity("another", FLEET.ident)
    memory = RememberedPasts(tmp_path, other, NEW)
    await memory.tell(Pasts(LocalLeases(there)), 16)
    assert await known_of(there) == {}
    memory.hear(entry(1, Past("t1", 5)))
    memory.hear(entry(2, Past("t2", 5)))
    await memory.close()
    assert (tmp_path / f"{FILE}.of-heliograph-{FLEET.ident}").read_bytes() == before
    await RememberedPasts(tmp_path, other, OLD).tell(Pasts(LocalLeases(there)), 16)
    assert await known_of(there) == {1: Mark("t1", 5), 2: Mark("t2", 5)}


async def test_a_fleet_of_the_same_name_with_other_keys_is_refused_until_somebody_gives_the_one_before_up(
    tmp_path: Path,
) -> None:
    """It was begun by a node that knew of nothing, and would seem whole."""
    await remember(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    other = FleetIdentity("heliograph", "f" * 16)
    with pytest.raises(ConfigError, match="knows of 2 partitions") as caught:
        RememberedPasts(tmp_path, other, NEW)
    assert caught.value.field == "store.path"
    assert (tmp_path / FILE).read_bytes() == before
    assert remembers(tmp_path, "heliograph")
    assert not remembers(tmp_path, "another")
    (tmp_path / FILE).unlink()
    RememberedPasts(tmp_path, other, NEW)
    assert not remembers(tmp_path, "heliograph")


async def test_a_fleet_that_never_had_a_partition_keeps_no_other_of_its_name_out(tmp_path: Path) -> None:
    memory = RememberedPasts(tmp_path, FLEET, OLD)
    memory.hear(entry(1, Past("s1", 5)))
    memory.hear(entry(1, None))
    await memory.close()
    assert (tmp_path / FILE).exists()
    RememberedPasts(tmp_path, FleetIdentity("heliograph", "f" * 16), NEW)


async def test_what_is_known_goes_along_into_the_next_bucket_though_nothing_was_heard_there(tmp_path: Path) -> None:
    await remember(tmp_path)
    memory = RememberedPasts(tmp_path, FLEET, NEW)
    await memory.tell(Pasts(LocalLeases(Bucket(NEW))), 16)
    memory.hear(entry(1, Past("s1", 60)))
    await memory.close()
    third = Bucket("2026-03-03T00:00:00Z")
    await RememberedPasts(tmp_path, FLEET, third.made).tell(Pasts(LocalLeases(third)), 16)
    assert await known_of(third) == {1: Mark("s1", 60), 2: Mark("s2b", 8)}


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'{"fleet": ["heliograph", "0"]}', b"\xff\xfe"])
async def test_a_file_that_can_not_be_read_is_none_and_is_written_anew(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / FILE).write_bytes(raw)
    bucket = Bucket(NEW)
    await RememberedPasts(tmp_path, FLEET, NEW).tell(Pasts(LocalLeases(bucket)), 16)
    assert await known_of(bucket) == {}
    await remember(tmp_path)
    await RememberedPasts(tmp_path, FLEET, NEW).tell(Pasts(LocalLeases(bucket)), 16)
    assert len(await known_of(bucket)) == 2
