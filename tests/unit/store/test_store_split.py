"""A gateway's store split into partitions: what was accepted is there once, under the ids its devices and providers
know, and what a fleet can not have is refused."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import msgspec
import pytest
from batch_rig import Links, ack, append, to
from memory_log import MemoryJournal, MemoryLog
from store_rig import (
    APP,
    START_MS,
    Clock,
    broadcast,
    config,
    notification,
    open_store,
    push,
    register,
    settle,
    with_app,
)

from gateway.metrics import Metrics
from gateway.model.cluster import broadcast_seq, first_bits, home_of, learn_strays, partition_of, partition_of_seq
from gateway.model.errors import ConfigError
from gateway.model.notification import Target
from gateway.model.outcome import Outcome, State, Step
from gateway.model.registration import build_token
from gateway.store import Store
from gateway.store.environment import Environment, StoreInUse
from gateway.store.keys import ServerKeys
from gateway.store.moved import MOVED_FILE, mark_moved
from gateway.store.partition import Partition
from gateway.store.records import PUT, Db, pack_u64
from gateway.store.split import StoreSplit

PARTITIONS = 4


class Parts:
    """The stores of all partitions that a split has made."""

    def __init__(self, split: StoreSplit, stores: list[Store]) -> None:
        self.split = split
        self.stores = stores

    def of(self, device: str, account: str = "") -> tuple[Store, int]:
        """Where a device finds its registration, as a node looks for it."""
        found = [
            (store, number) for store in self.stores if (number := store.directory.known(device, APP, account)[2]) >= 0
        ]
        assert len(found) == 1
        return found[0]

    def pending(self, device: str) -> list[int]:
        store, number = self.of(device)
        return store.journal.pending_of(number)

    def texts(self, device: str) -> list[str]:
        store, number = self.of(device)
        found = []
        for seq in store.journal.pending_of(number):
            delivery = store.journal.get(seq)
            assert delivery is not None
            message = store.journal.notification(delivery.notification)
            assert message is not None
            found.append(message.content.text)
        return found

    def lookups(self, seq: int) -> list[object]:
        return [found for store in self.stores if (found := store.receipts.lookup(APP, seq)) is not None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr("gateway.store.split.time.time_ns", lambda: START_MS * 1_000_000)
    monkeypatch.setattr("gateway.model.cluster._strays", {})
    return Clock()


async def split_of(tmp_path: Path, clock: Clock, partitions: int = PARTITIONS) -> Parts:
    split = StoreSplit(config(tmp_path / "fleet"), tmp_path / "alone")
    work = tmp_path / "work"
    work.mkdir()
    targets = split.run(work, partitions, lambda _: None)
    keys = ServerKeys.load(tmp_path / "alone", may_create=False)
    for target in targets:
        target.close()
    split.close()
    stores = [
        await Store.open(
            config(target.folder),
            Metrics(process=False),
            clock=clock,
            probe_s=3_600.0,
            tick_s=3_600.0,
            partition=Partition(target.partition, MemoryLog(MemoryJournal()), keys),
        )
        for target in targets
    ]
    return Parts(split, stores)


async def close(parts: Parts) -> None:
    for store in parts.stores:
        await store.close()


async def test_what_is_pending_is_there_once_for_each_device_under_the_sequence_it_had(
    tmp_path: Path, clock: Clock
) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    devices = {f"phone-{at}": register(store, f"phone-{at}", alias=f"user-{at % 3}", tags=["all"]) for at in range(40)}
    singles = {}
    for device, number in devices.items():
        singles[device], commit = push(store, number, text=f"to {device}")
    await commit
    done = list(devices)[:10]
    settle(store, *(singles[device] for device in done))
    await store.journal.committed()
    tokens = {device: store.directory.registration(number).token for device, number in devices.items()}  # type: ignore[union-attr]
    await store.close()
    parts = await split_of(tmp_path, clock)
    for device in devices:
        assert parts.pending(device) == ([] if device in done else [singles[device]])
        assert parts.texts(device) == ([] if device in done else [f"to {device}"])
        there, number = parts.of(device)
        assert there.directory.registration(number).token == tokens[device]  # type: ignore[union-attr]
        assert parts.stores.index(there) == partition_of(tokens[device], PARTITIONS)
    assert sum(len(each.directory.by_tag(APP, "all")) for each in parts.stores) == 40
    assert sum(len(each.directory.by_alias(APP, "user-1")) for each in parts.stores) == 13
    assert parts.split.carried.pending == 30
    assert parts.split.carried.settled == parts.split.carried.receipts == 10
    await close(parts)


async def test_new_sequences_and_numbers_are_above_those_that_were_brought(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    numbers = [register(store, f"phone-{at}") for at in range(20)]
    _, commit = push(store, *numbers)
    await commit
    await store.close()
    parts = await split_of(tmp_path, clock)
    for at, each in enumerate(parts.stores):
        given = {s for n in range(1, 30) for s in each.journal.pending_of(n)}
        fresh = each.journal.reserve(1)
        assert partition_of_seq(fresh) == at
        assert fresh > max(given, default=0)
        there = {n for part in each.directory.everybody() for n in part}
        assert register(each, "new") not in there
    await close(parts)


async def test_a_push_to_many_goes_on_in_each_partition_and_is_known_as_before(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    numbers = {f"phone-{at}": register(store, f"phone-{at}") for at in range(30)}
    seq, commit = push(store, *numbers.values(), target=Target(tag="all"), text="to many")
    over, commit = push(store, *numbers.values(), target=Target(tag="all"), text="over")
    await commit
    settle(store, *range(seq + 1, seq + 11))
    settle(store, *range(over + 1, over + 31))
    await store.journal.committed()
    await store.close()
    parts = await split_of(tmp_path, clock)
    settled = list(numbers)[:10]
    for device in numbers:
        assert parts.texts(device) == ([] if device in settled else ["to many"])
    for known, pending in ((seq, 20), (over, 0)):
        records = [found for each in parts.stores if (found := each.receipts.lookup(APP, known)) is not None]
        assert sum(record.figures.get("targeted", 0) for record in records) == 30
        assert sum(record.figures.get("pending", 0) for record in records) == pending
        assert sum(record.figures.get("acked", 0) for record in records) == 30 - pending
        assert sum(len(record.deliveries) for record in records) == 30
        assert {record.notification.push_seq for record in records} == {known}
        pages = [each.receipts.lookup(APP, known, offset=at, limit=1) for each in parts.stores for at in range(30)]
        assert sorted(delivery.seq for page in pages if page for delivery in page.deliveries) == list(
            range(known + 1, known + 31)
        )
        # its home can tell of it and take it back, whoever has deliveries
        assert parts.stores[home_of(APP, PARTITIONS)].receipts.lookup(APP, known) is not None
    feed = [receipt for each in parts.stores for receipt in each.receipts.after(APP, 0, 1_000)]
    assert len(feed) == 40
    assert {receipt.push or receipt.outcome.notification for receipt in feed} == {seq, over}
    assert len({receipt.cursor for receipt in feed}) == 40
    await close(parts)


async def test_the_order_of_pushes_to_a_device_stays_whatever_they_were_sent_by(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    links = Links(store)
    numbers = {f"phone-{at}": register(store, f"phone-{at}") for at in range(9)}
    tokens = [build_token(store.directory.registration(number).token) for number in numbers.values()]  # type: ignore[union-attr]
    await store.journal.committed()
    chance = random.Random(7)
    for at in range(40):
        kind = chance.choice(("one", "many", "batch"))
        some = chance.sample(range(9), chance.randint(2, 9))
        if kind == "one":
            await push(store, list(numbers.values())[some[0]], text=f"{at}")[1]
        elif kind == "many":
            await push(store, *(list(numbers.values())[each] for each in some), text=f"{at}", target=Target(tag="x"))[1]
        else:
            await append(store, links, *(to(tokens[each], f"{at}") for each in some)).done
    waiting = {
        device: [
            (seq, store.journal.notification(store.journal.get(seq).notification).content.text)  # type: ignore[union-attr]
            for seq in store.journal.pending_of(number)
        ]
        for device, number in numbers.items()
    }
    links.close()
    await store.close()
    parts = await split_of(tmp_path, clock)
    for device, expected in waiting.items():
        assert len(expected) > 10
        assert list(zip(parts.pending(device), parts.texts(device), strict=True)) == expected
    await close(parts)


async def test_deliveries_of_a_batch_that_are_pending_keep_their_sequences(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    links = Links(store)
    devices = [f"phone-{at}" for at in range(12)]
    tokens = [build_token(store.directory.registration(register(store, device)).token) for device in devices]  # type: ignore[union-attr]
    await store.journal.committed()
    accepted = append(store, links, *(to(token, f"text {at}") for at, token in enumerate(tokens)))
    await accepted.done
    settle(store, *(accepted.first + at for at in range(5)), state=State.RECALLED)
    await store.journal.committed()
    ended = append(store, links, *(to(token, f"gone {at}") for at, token in enumerate(tokens)))
    await ended.done
    settle(store, *(ended.first + at for at in range(12)), state=State.RECALLED)
    await store.journal.committed()
    links.close()
    await store.close()
    parts = await split_of(tmp_path, clock)
    for at, device in enumerate(devices):
        assert parts.pending(device) == ([] if at < 5 else [accepted.first + at])
        assert parts.texts(device) == ([] if at < 5 else [f"text {at}"])
        assert len(parts.lookups(accepted.first + at)) == 1
        assert len(parts.lookups(ended.first + at)) == 1
    assert parts.split.carried.receipts == 17
    await close(parts)


async def test_acks_of_a_batch_are_settled_once_and_a_line_that_was_added_stays(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    links = Links(store)
    numbers = [register(store, f"phone-{at}") for at in range(4)]
    tokens = [build_token(store.directory.registration(number).token) for number in numbers]  # type: ignore[union-attr]
    await store.journal.committed()
    for number in numbers[:3]:
        links.connect(number)
    accepted = append(store, links, *(to(token) for token in tokens))
    await accepted.done
    for at in range(3):
        assert ack(store, accepted.first + at, numbers[at])
    await store.journal.committed()
    store.journal.amend(accepted.first, Step(START_MS + 9, "shown", "edge"), numbers[0])
    await store.journal.committed()
    links.close()
    await store.close()
    parts = await split_of(tmp_path, clock)
    steps = {}
    for at in range(3):
        assert parts.pending(f"phone-{at}") == []
        there, _ = parts.of(f"phone-{at}")
        outcome = there._history.outcome(accepted.first + at)
        assert outcome is not None
        assert outcome.state == State.ACKED
        steps[at] = [step.what for step in outcome.steps]
    assert steps == {0: ["sent", "acked", "shown"], 1: ["sent", "acked"], 2: ["sent", "acked"]}
    assert parts.pending("phone-3") == [accepted.first + 3]
    assert parts.split.carried.receipts == parts.split.carried.settled == 3
    await close(parts)


async def test_a_token_of_a_triple_that_had_another_before_stays_good_for_device_and_provider(
    tmp_path: Path, clock: Clock
) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    tokens = {}
    for at in range(24):
        number = register(store, f"phone-{at}")
        await store.directory.revoke(number)
        number = register(store, f"phone-{at}")
        tokens[f"phone-{at}"] = store.directory.registration(number).token  # type: ignore[union-attr]
        _, commit = push(store, number, text=f"to phone-{at}")
        await commit
    await store.close()
    parts = await split_of(tmp_path, clock)
    assert parts.split.strays
    strays = {token for token, slot in parts.split.strays.items() if first_bits(token) != slot}
    assert strays == set(parts.split.strays)
    learn_strays(parts.split.strays)
    for device, token in tokens.items():
        there, number = parts.of(device)
        first = there.directory._tokens.build(device, APP, "", 0)
        assert parts.stores.index(there) == partition_of(first, PARTITIONS) == partition_of(token, PARTITIONS)
        assert there.directory.known(device, APP, "")[0] == token
        assert there.directory.find(build_token(token), APP) == number
        assert parts.texts(device) == [f"to {device}"]
    # the next one of such a triple is one of the fleet's
    there, number = parts.of("phone-0")
    await there.directory.revoke(number)
    fresh = there.directory.registration(register(there, "phone-0"))
    assert fresh is not None
    assert fresh.token not in tokens.values()
    assert parts.stores.index(there) == partition_of(fresh.token, PARTITIONS)
    await close(parts)


async def test_what_waits_for_its_time_waits_where_it_belongs_with_its_sequence(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    number = register(store, "phone")
    token = build_token(store.directory.registration(number).token)  # type: ignore[union-attr]
    one, all_ = store.journal.reserve(2), 0
    all_ = one + 1
    await store.schedules.add(notification(one, target=Target(token=token)), START_MS + 5_000)
    await store.schedules.add(notification(all_, target=Target(tag="all")), START_MS + 6_000)
    await store.close()
    parts = await split_of(tmp_path, clock)
    there, _ = parts.of("phone")
    assert there.schedules.due_ms(one) == START_MS + 5_000
    assert parts.stores[home_of(APP, PARTITIONS)].schedules.due_ms(all_) == START_MS + 6_000
    assert len(parts.lookups(one)) == len(parts.lookups(all_)) == 1
    assert parts.split.carried.scheduled == 2
    await close(parts)


async def test_what_ended_before_its_time_is_told_of_where_its_token_is(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    number = register(store, "phone")
    token = build_token(store.directory.registration(number).token)  # type: ignore[union-attr]
    seq = store.journal.reserve(1)
    await store.schedules.add(notification(seq, target=Target(token=token)), START_MS + 5_000)
    store.schedules.end(seq, State.RECALLED, START_MS)
    await store.close()
    parts = await split_of(tmp_path, clock)
    there, number = parts.of("phone")
    record = there.receipts.lookup(APP, seq)
    assert record is not None
    assert (record.state, record.figures) == (State.RECALLED, {"recalled": 1})
    assert [(one.push, one.outcome.registration) for one in there.receipts.after(APP, 0, 10)] == [(seq, number)]
    await close(parts)


async def test_a_released_push_is_known_by_the_sequence_it_was_kept_with(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    numbers = [register(store, f"phone-{at}") for at in range(8)]
    first = store.journal.reserve(2)
    for kept in (first, first + 1):
        await store.schedules.add(notification(kept), START_MS)
    single, _ = push(store, numbers[0])
    store.schedules.released(first, single)
    many, commit = push(store, *numbers, target=Target(tag="all"))
    store.schedules.released(first + 1, many)
    await commit
    await store.journal.committed()
    await store.close()
    parts = await split_of(tmp_path, clock)
    assert len(parts.lookups(first)) == 1
    records = [found for each in parts.stores if (found := each.receipts.lookup(APP, first + 1)) is not None]
    assert sum(record.figures.get("targeted", 0) for record in records) == 8
    assert parts.pending("phone-0")[0] == single
    await close(parts)


async def test_who_has_seen_a_broadcast_is_not_shown_it_again_and_who_has_not_is(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    numbers = {f"phone-{at}": register(store, f"phone-{at}") for at in range(20)}
    over, _ = broadcast(store, ttl_s=-5)
    one, _ = broadcast(store)
    two, commit = broadcast(store)
    await commit
    seen_one, seen_both, seen_two = (list(numbers)[at : at + 5] for at in (0, 5, 10))
    store.broadcasts.acked(one, [numbers[device] for device in seen_one + seen_both], START_MS)
    store.broadcasts.acked(two, [numbers[device] for device in seen_two + seen_both], START_MS)
    store.broadcasts.count(one, "targeted", list(numbers.values()))
    store.broadcasts.count(one, "acked", [numbers[device] for device in seen_one + seen_both])
    store.broadcasts.counted(one)
    await store.journal.committed()
    store.write_behind()
    await store.journal.committed()
    await store.close()
    split = StoreSplit(config(tmp_path / "fleet"), tmp_path / "alone")
    assert split.live == [one, two]
    split.close()
    parts = await split_of(tmp_path, clock)
    told = [notification(broadcast_seq(at), target=Target(everyone=True)) for at in (1, 2)]
    for each in parts.stores:
        each.broadcasts.begin(told, (), START_MS)
    first, second = broadcast_seq(1), broadcast_seq(2)
    for device in numbers:
        there, number = parts.of(device)
        missing = [first, second]
        if device in seen_one + seen_both:
            missing.remove(first)
        if device in seen_two + seen_both:
            missing.remove(second)
        assert there.broadcasts.waiting(number) == missing
    figures = [each.broadcasts.figures(first) for each in parts.stores]
    assert sum(each.get("targeted", 0) for each in figures) == 20
    assert sum(each.get("acked", 0) for each in figures) == 10
    assert not any(each.broadcasts.recount(first) for each in parts.stores)
    assert [record.state for record in parts.lookups(over)] == [State.EXPIRED]  # type: ignore[attr-defined]
    await close(parts)


async def test_a_single_delivery_that_grew_out_of_a_broadcast_counts_for_it_in_the_fleet(
    tmp_path: Path, clock: Clock
) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    number = register(store, "phone")
    seq, _ = broadcast(store)
    own = store.journal.reserve(1)
    await store.journal.append(msgspec.structs.replace(notification(own), broadcast=seq, push=seq), [number])
    await store.close()
    parts = await split_of(tmp_path, clock)
    there, number = parts.of("phone")
    there.broadcasts.begin([notification(broadcast_seq(1), target=Target(everyone=True))], (), START_MS)
    there.journal.settle([Outcome(own, own, number, APP, State.ACKED, START_MS, [Step(START_MS, "acked", "edge")])])
    await there.committer.flush()
    assert there.broadcasts.figures(broadcast_seq(1))["acked"] == 1
    assert [receipt.push for receipt in there.receipts.after(APP, 0, 10)] == [seq]
    await close(parts)


async def test_keys_of_repeated_pushes_are_where_the_repeat_is_asked(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    number = register(store, "phone")
    token = build_token(store.directory.registration(number).token)  # type: ignore[union-attr]
    body = hashlib.sha256(b"body").digest()
    single, _ = push(store, number, target=Target(token=token))
    await store.receipts.remember(APP, "one", body, single, START_MS // 1_000 + 60)
    many, _ = push(store, number, target=Target(alias="user"))
    await store.receipts.remember(APP, "many", body, many, START_MS // 1_000 + 60)
    await store.close()
    parts = await split_of(tmp_path, clock)
    there, _ = parts.of("phone")
    assert there.receipts.recall_idempotent(APP, "one") == (single, body)
    home = parts.stores[home_of(APP, PARTITIONS)]
    assert home.receipts.recall_idempotent(APP, "many") == (many, body)
    await close(parts)


async def test_the_feeds_go_on_behind_the_cursor_their_readers_have(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    numbers = [register(store, f"phone-{at}") for at in range(20)]
    seqs = [push(store, number)[0] for number in numbers]
    await store.journal.committed()
    settle(store, *seqs[:10])
    settle(store, *seqs[10:])
    await store.directory.revoke(numbers[3])
    await store.journal.committed()
    dead = store.deaths.after(APP, 0, 10)
    assert dead
    cursors = {receipt.outcome.seq: receipt.cursor for receipt in store.receipts.after(APP, 0, 100)}
    store.receipts.save_cursor(f"receipts:{APP}", 7)
    await store.journal.committed()
    await store.close()
    clock.now_ms -= 60_000
    parts = await split_of(tmp_path, clock)
    found = {r.outcome.seq: r.cursor for each in parts.stores for r in each.receipts.after(APP, 7, 100)}
    assert found == {seq: cursor for seq, cursor in cursors.items() if cursor > 7}
    assert [d for each in parts.stores for d in each.deaths.after(APP, 0, 10)] == dead
    assert {each.receipts.saved_cursor(f"receipts:{APP}") for each in parts.stores} == {7}
    for each in parts.stores:
        each.receipts.watermark()  # the mark is written
        await each.journal.committed()
        assert each.receipts.watermark() >= max(cursors.values())
        settled = each.receipts.feed_packed(1, pack_u64(1))[1]
        assert settled > max(cursors.values()), "even where the clock of this node is behind"
    await close(parts)


async def test_hours_of_the_last_connection_and_histories_come_along(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    links = Links(store)
    numbers = {f"phone-{at}": register(store, f"phone-{at}") for at in range(6)}
    await store.journal.committed()
    links.connect(numbers["phone-2"])
    seq, commit = push(store, numbers["phone-1"])
    await commit
    store.journal.set_state(seq, State.NOTIFIED, 2)
    store.journal.step(seq, Step(START_MS, "notifier_failed", "apns"))
    store.journal.step(seq, Step(START_MS, "notified", "webhook"))
    store.write_behind()
    await store.journal.committed()
    links.close()
    await store.close()
    parts = await split_of(tmp_path, clock)
    there, number = parts.of("phone-2")
    assert there.directory.seen_ago_s(number) == 0
    there, number = parts.of("phone-1")
    delivery = there.journal.get(seq)
    assert delivery is not None
    assert delivery.hop == 1  # who failed may be asked again
    assert [step.what for step in there._history.steps_of(seq)] == ["notifier_failed", "notified"]
    await close(parts)


async def test_a_delivery_whose_registration_is_gone_is_kept_to_be_told_of(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    number = register(store, "phone")
    token = build_token(store.directory.registration(number).token)  # type: ignore[union-attr]
    seq, commit = push(store, number, target=Target(token=token))
    await commit
    await store.directory.revoke(number)
    await store.close()
    parts = await split_of(tmp_path, clock)
    holders = [each for each in parts.stores if each.journal.get(seq) is not None]
    assert len(holders) == 1
    delivery = holders[0].journal.get(seq)
    assert delivery is not None
    assert not holders[0].directory.registry.has(delivery.registration)
    assert register(holders[0], "another") != delivery.registration
    await close(parts)


async def test_a_store_that_is_in_use_is_refused(tmp_path: Path, clock: Clock) -> None:
    store = await open_store(tmp_path / "alone", clock)
    with pytest.raises(StoreInUse):
        StoreSplit(config(tmp_path / "fleet"), tmp_path / "alone")
    await store.close()


async def test_what_a_fleet_can_not_have_is_named(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    await store.close()
    environment = Environment.open(config(tmp_path / "alone"))
    environment.apply([[(0, Db.CARDS, b"card", b"x"), (0, Db.IM_USERS, b"user", b"x")]])
    environment.close()
    with pytest.raises(ConfigError, match=r"IM; cards .* nothing was imported"):
        StoreSplit(config(tmp_path / "fleet"), tmp_path / "alone")


@pytest.mark.parametrize("made", ["nothing", "node"])
def test_a_folder_without_a_gateways_store_is_refused(tmp_path: Path, made: str) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    if made == "node":
        (folder / "partitions").mkdir()
    with pytest.raises(ConfigError):
        StoreSplit(config(tmp_path / "fleet"), folder)
    assert not (folder / "data.mdb").exists()


async def test_a_store_that_was_moved_is_not_served_alone_until_that_is_taken_back(
    tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "alone"
    await (await open_store(folder, clock)).close()
    mark_moved(folder, "heliograph")
    with pytest.raises(ConfigError, match="imported into the fleet 'heliograph'"):
        await open_store(folder, clock)
    (folder / MOVED_FILE).unlink()
    await (await open_store(folder, clock)).close()


async def test_a_damaged_row_is_told_of_and_not_left_out(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    number = register(store, "phone")
    seq, commit = push(store, number)
    await commit
    await store.close()
    environment = Environment.open(config(tmp_path / "alone"))
    environment.apply([[(PUT, Db.JOURNAL, pack_u64(seq + 1), b"\1\0\0\0\1")]])
    environment.close()
    with pytest.raises(ConfigError, match="damaged store"):
        await split_of(tmp_path, clock)


async def test_a_partition_that_has_no_room_is_told_of_with_the_setting(tmp_path: Path, clock: Clock) -> None:
    store = await with_app(await open_store(tmp_path / "alone", clock))
    number = register(store, "phone")
    for _ in range(40):
        _, commit = push(store, number, text="x" * 16_000)
    await commit
    await store.close()
    split = StoreSplit(config(tmp_path / "fleet", max_bytes=1 << 18), tmp_path / "alone")
    (tmp_path / "work").mkdir()
    with pytest.raises(ConfigError) as caught:
        split.run(tmp_path / "work", PARTITIONS, lambda _: None)
    split.close()
    assert caught.value.field == "store.max_bytes"


async def test_an_empty_store_makes_empty_partitions(tmp_path: Path, clock: Clock) -> None:
    await (await open_store(tmp_path / "alone", clock)).close()
    parts = await split_of(tmp_path, clock, 16)
    assert all(not list(each.directory.app_names()) for each in parts.stores)
    await close(parts)
