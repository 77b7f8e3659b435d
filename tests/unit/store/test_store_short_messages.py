"""Short messages whose receipts are waited for, over restarts and a store that can not be written (C8)."""

from __future__ import annotations

from pathlib import Path

from store_rig import disk_of, fail_commit, open_store

from gateway.model.short_messages import OpenPart
from gateway.store.records import DELETE, PUT, Db


def part(seq: int, message_id: str = "") -> OpenPart:
    return OpenPart(b"d" * 8, 0x1200 + seq, 99_000, seq, 3, 1, 2, "sms", False, "smsc:2775", message_id)


async def test_what_is_open_is_there_after_a_restart_under_the_same_key(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    key = store.short_messages.key
    for each in (part(1), part(2), part(1, "m1")):
        store.short_messages.put(each)
    await store.close()
    store = await open_store(tmp_path)
    assert store.short_messages.key == key
    assert list(store.short_messages.all()) == [part(1, "m1"), part(2)]
    store.short_messages.remove(b"d" * 8, 0x3401)  # its low byte names it
    await store.committer.flush()
    assert list(store.short_messages.all()) == [part(2)]
    await store.close()


async def test_what_changes_twice_before_a_commit_is_written_once(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    disk = disk_of(store)
    store.short_messages.put(part(1))
    store.short_messages.put(part(1, "m1"))
    store.short_messages.put(part(2))
    store.short_messages.remove(part(2).destination, part(2).reference)
    await store.committer.flush()
    rows = [(operation, key) for operation, db, key, _ in disk.written if db == Db.SHORT_MESSAGES]
    assert rows == [(PUT, b"d" * 8 + b"\x01"), (DELETE, b"d" * 8 + b"\x02")]
    await store.close()


async def test_what_a_full_disk_did_not_take_is_written_later_and_newer_words_hold(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    disk = disk_of(store)
    store.short_messages.put(part(1))
    store.short_messages.put(part(2))
    await fail_commit(store, disk)
    store.short_messages.put(part(1, "m1"))
    disk.error = None
    assert await store.committer.probe()
    await store.committer.flush()
    assert list(store.short_messages.all()) == [part(1, "m1"), part(2)]
    await store.close()


async def test_a_row_that_can_not_be_read_costs_no_other(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    store.short_messages.put(part(1))
    await store.committer.accept([(PUT, Db.SHORT_MESSAGES, b"a" * 9, b"\xc1")])
    assert list(store.short_messages.all()) == [part(1)]
    await store.close()
