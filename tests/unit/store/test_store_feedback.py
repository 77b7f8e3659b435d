"""Last-seen times, the feed of dead tokens, and quota counts: durable, bounded, one app's never another's."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_rig import APP, START_MS, Clock, disk_of, open_store, register, with_app

from gateway.model.cohort import Cohort
from gateway.model.errors import StoreUnavailable
from gateway.model.registration import Profile
from gateway.store import Store
from gateway.store.seen import HOUR_MS, NEVER_S

DAY = START_MS // 86_400_000


def clock(store: Store):
    return store._clock


# --- last seen


async def test_a_device_is_seen_while_it_is_connected_and_for_its_last_hour_after(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    numbers = [register(store, f"d{n}") for n in range(3_000)]
    number, never = numbers[2_500], numbers[1]
    await store.committer.flush()
    registry = store.directory.registry
    registry.login(99, 7)
    registry.bind(number, 99)
    clock(store).now_ms += 5 * HOUR_MS
    store._seen.tick()
    assert (store.directory.seen_ago_s(number), store.directory.seen_ago_s(never)) == (0, NEVER_S)
    registry.logout(99, 7)
    clock(store).now_ms += 3 * HOUR_MS
    store._seen.tick()
    assert store.directory.seen_ago_s(number) == 3 * 3_600
    now = clock(store)
    await store.close()
    store = await open_store(tmp_path, clock=now)
    assert store.directory.seen_ago_s(number) == 3 * 3_600
    assert store.directory.seen_ago_s(never) == NEVER_S
    assert store.directory.seen_ago_s(99_999) == NEVER_S
    await store.close()


async def test_seen_pages_that_were_not_written_are_written_later(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "d1")
    await store.committer.flush()
    store.directory.registry.login(99, 7)
    store.directory.registry.bind(number, 99)
    disk = disk_of(store)
    disk.error = OSError(28, "full")
    store._seen.write(1)
    with pytest.raises(StoreUnavailable):
        await store.committer.flush()
    disk.error = None
    await store.committer.probe()
    now = clock(store)
    await store.close()
    store = await open_store(tmp_path, clock=now)
    assert store.directory.seen_ago_s(number) == 0
    await store.close()


# --- what a registration is


async def test_a_profile_is_kept_changed_in_part_and_there_after_a_restart(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    number = register(store, "d1", profile=Profile("ios", "pt-BR", "America/Sao_Paulo", "22:00-07:00"))
    plain = register(store, "d2")
    await store.directory.update(number, profile=Profile(locale="en"))
    expected = Cohort("1.0", "ios", "en", "America/Sao_Paulo", "22:00-07:00")
    for _ in range(2):
        assert store.directory.cohort(number) == expected
        assert store.directory.cohort(plain) == Cohort("1.0")
        assert store.directory.registration(number).cohort == expected  # type: ignore[union-attr]
        await store.close()
        store = await open_store(tmp_path)
    register(store, "d1", version="2.0")
    assert store.directory.cohort(number) == expected._replace(version="2.0")
    await store.directory.update(number, profile=Profile("", "", "", ""))
    assert store.directory.cohort(number) == Cohort("2.0")
    await store.close()


# --- dead tokens


async def test_revoked_tokens_and_dead_addresses_are_in_the_feed_of_their_app(tmp_path: Path) -> None:
    store = await with_app(await with_app(await open_store(tmp_path)), "other")
    first = register(store, "d1", addresses={"apns": "abc", "fcm": "x"})
    second = register(store, "d2", app="other")
    token, other = (store.directory.registration(n).token for n in (first, second))  # type: ignore[union-attr]
    woken = []
    store.deaths.subscribe(lambda: woken.append(1))
    assert not store.directory.address_gone(first, "apns", "another by now", 0)
    assert store.directory.address_gone(first, "apns", "abc", 0)
    assert not store.directory.address_gone(first, "apns", "abc", 0)
    await store.directory.revoke(second)
    await store.directory.revoke(first)
    assert woken
    for _ in range(2):
        rows = store.deaths.after(APP, 0, 10)
        assert [(row.token, row.why, row.channel) for row in rows] == [(token, "gone", "apns"), (token, "revoked", "")]
        assert store.deaths.after(APP, rows[0].cursor, 10) == rows[1:]
        assert [row.token for row in store.deaths.after("other", 0, 10)] == [other]
        assert store.deaths.after("nobody", 0, 10) == []
        await store.close()
        store = await open_store(tmp_path)
    number = register(store, "d3")
    await store.directory.revoke(number)
    assert store.deaths.after(APP, rows[1].cursor, 10)[0].cursor > rows[1].cursor
    await store.close()


async def test_an_address_registered_since_it_was_dead_is_a_good_one(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    number = register(store, "d1", addresses={"apns": "abc", "fcm": "x"})
    gone = store.directory.address_gone
    assert not gone(number, "apns", "abc", START_MS - 1)
    clock.now_ms += 1_000
    await store.directory.update(number, addresses={"apns": "def", "fcm": "x"})
    await store.close()
    store = await open_store(tmp_path, clock)
    gone = store.directory.address_gone
    assert not gone(number, "apns", "def", START_MS + 999)
    assert gone(number, "fcm", "x", START_MS + 999)
    clock.now_ms += 86_400_000
    register(store, "d1", addresses={"apns": "def"})  # it has it still
    assert not gone(number, "apns", "def", clock.now_ms - 1)
    assert gone(number, "apns", "def", clock.now_ms)
    registration = store.directory.registration(number)
    assert registration is not None
    assert (registration.addresses, registration.addressed_at) == ({}, {})
    await store.journal.committed()
    assert [row.channel for row in store.deaths.after(APP, 0, 10)] == ["fcm", "apns"]
    await store.close()


async def test_an_address_said_again_the_same_day_writes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    store = await with_app(await open_store(tmp_path, clock))
    register(store, "d1", addresses={"apns": "abc"})
    await store.journal.committed()
    clock.now_ms += 3_600_000
    registered = store.directory.register("d1", APP, "1.0", "", addresses={"apns": "abc"})
    assert registered[2] is None
    await store.close()


async def test_old_deaths_are_swept_and_cursors_go_on(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path, history_days=1))
    numbers = [register(store, f"d{n}") for n in range(5)]
    for number in numbers:
        await store.directory.revoke(number)
    last = store.deaths.after(APP, 0, 10)[-1].cursor
    clock(store).now_ms += 2 * 86_400_000
    store.sweep()
    await store.committer.flush()
    now = clock(store)
    await store.close()
    now.now_ms -= 5 * 86_400_000
    store = await open_store(tmp_path, clock=now)
    assert len(store.deaths.after(APP, 0, 10)) == 1
    await store.directory.revoke(register(store, "d9"))
    assert len(store.deaths.after(APP, last, 10)) == 1
    await store.close()


# --- quotas


async def test_counts_of_the_day_are_there_after_a_restart(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    store.quotas.add(1, "", DAY, 5)
    store.quotas.add(1, "key", DAY, 2)
    store.quotas.add(1, "", DAY, 1)
    for _ in range(2):
        assert [store.quotas.used(1, name, DAY) for name in ("", "key")] == [6, 2]
        assert store.quotas.used(1, "", DAY + 1) == 0
        assert store.quotas.used(2, "", DAY) == 0
        await store.close()
        store = await open_store(tmp_path)
    store.quotas.add(1, "", DAY + 1, 1)
    assert store.quotas.used(1, "", DAY + 1) == 1
    await store.close()
