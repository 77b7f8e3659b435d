"""Cards on the disk: sealed, found by their numbers, there again after a restart, undone where a commit failed (E5)."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest
from card_rig import KIC, KID, card, iccid, put_cards
from store_rig import Disk, disk_of, fail_commit, open_store

from gateway.model.cards import Ability, Capability, CardRecord, Evidence, KeySet, NumberTaken, Payload
from gateway.model.errors import ConfigError, StoreUnavailable
from gateway.store.records import PUT, Db

CAPABLE = Capability(Ability.CAPABLE, 5, 6, (Evidence(5, "link_opened", 1, "4.2 s"),))


async def test_a_card_is_found_by_its_numbers_also_after_a_restart(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    (one, two) = await put_cards(store, 2)
    assert store.cards._fresh == {}  # nothing stays in RAM
    await store.close()
    store = await open_store(tmp_path)
    cards = store.cards
    assert (cards.count(), cards.handle(iccid(0)), cards.read(one)) == (2, one, card(0))
    assert cards.find(msisdn=card(1).msisdn) == cards.find(imsi=card(1).imsi) == two
    assert cards.find(msisdn=card(1).msisdn.removeprefix("+")) == two
    assert cards.find(imsi=card(1).msisdn) is None  # a number of another kind
    assert cards.find(msisdn="+1") is None
    assert cards.find() is None
    assert cards.read(bytes(16)) is None
    await store.close()


async def test_it_can_be_read_before_it_is_durable_and_is_gone_where_that_failed(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    disk = disk_of(store)
    handle = store.cards.handle(iccid(0))
    written = store.cards.put([card(0)])
    assert store.cards.read(handle) == card(0)
    assert store.cards.find(imsi=card(0).imsi) == handle
    await fail_commit(store, disk)
    with pytest.raises(StoreUnavailable):
        await written
    assert store.cards.read(handle) is None
    assert store.cards.find(imsi=card(0).imsi) is None
    with pytest.raises(StoreUnavailable):
        store.cards.put([card(0)])
    await store.close()


async def test_a_known_card_is_replaced_and_keeps_capability_and_counters(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    (handle,) = await put_cards(store, 1)
    await store.cards.write_capability(handle, CAPABLE)
    assert await store.cards.take_counters(handle, 1, 3) == 1
    await store.cards.put([card(0, msisdn="+49300001", apn="iot")])
    assert store.cards.find(msisdn=card(0).msisdn) is None
    assert store.cards.find(msisdn="+49300001") == handle
    assert store.cards.read(handle) == card(0, msisdn="+49300001", apn="iot")
    assert store.cards.count() == 1
    assert store.cards.capability(handle) == CAPABLE
    assert await store.cards.take_counters(handle, 1, 1) == 4
    await store.close()


async def test_a_number_of_another_card_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_cards(store, 2)
    for changes, field in (({"msisdn": card(1).msisdn}, "msisdn"), ({"imsi": card(1).imsi}, "imsi")):
        with pytest.raises(NumberTaken) as refused:
            store.cards.put([card(7), card(8, **changes)])
        assert (refused.value.index, refused.value.field) == (1, field)
        assert card(1).msisdn[1:] not in str(refused.value)
        assert card(1).imsi not in str(refused.value)
    with pytest.raises(NumberTaken):  # twice in what is put
        store.cards.put([card(7), card(8, msisdn=card(7).msisdn)])
    await store.committer.flush()
    assert (store.cards.count(), store._environment.entries(Db.CARD_NUMBERS)) == (2, 4)
    await store.close()


async def test_a_number_moves_to_another_card_in_one_go_and_of_two_records_of_a_card_the_last_counts(
    tmp_path: Path,
) -> None:
    store = await open_store(tmp_path)
    (one, two) = await put_cards(store, 2)
    await store.cards.put([card(1, msisdn=card(0).msisdn), card(0, msisdn="")])
    assert store.cards.find(msisdn=card(0).msisdn) == two
    await store.cards.put([card(0, msisdn="+1"), card(0, msisdn="+2")])
    assert store.cards.find(msisdn="+1") is None
    assert store.cards.find(msisdn="+2") == one
    await store.close()


async def test_what_is_removed_is_gone_with_its_numbers_and_its_capability(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    one, two = await put_cards(store, 2)
    await store.cards.write_capability(one, CAPABLE)
    removed = store.cards.remove(one)
    assert store.cards.read(one) is None
    await removed
    assert store.cards.find(imsi=card(0).imsi) is None
    assert store.cards.capability(one) == Capability()
    await store.cards.write_capability(one, CAPABLE)  # a call that was under way
    assert [store._environment.entries(db) for db in (Db.CARDS, Db.CARD_NUMBERS, Db.CARD_CAPABILITY)] == [1, 2, 0]
    await store.cards.remove(one)  # once more
    assert store.cards.read(two) == card(1)
    await store.close()


async def test_a_walk_comes_by_every_card_once_in_order_of_handles(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    handles = await put_cards(store, 25)
    found: list[tuple[bytes, CardRecord]] = []
    after = b""
    while page := store.cards.walk(after, 7):
        assert len(page) <= 7
        found += page
        after = page[-1][0]
    assert [handle for handle, _ in found] == sorted(handles)
    assert {handle: record.iccid for handle, record in found} == {h: iccid(n) for n, h in enumerate(handles)}
    removed = store.cards.remove(found[0][0])
    assert store.cards.walk(b"", 1)[0][0] == found[1][0]  # on its way out
    await removed
    assert store.cards.walk(b"", 0) == []
    await store.close()


async def test_capability_is_unknown_until_it_is_written_and_undone_with_its_commit(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    (handle,) = await put_cards(store, 1)
    assert store.cards.capability(handle) == Capability()
    written = store.cards.write_capability(handle, CAPABLE)
    assert store.cards.capability(handle) == CAPABLE
    await written
    await store.close()
    store = await open_store(tmp_path)
    assert store.cards.capability(handle) == CAPABLE
    disk = disk_of(store)
    lost = store.cards.write_capability(handle, Capability())
    await fail_commit(store, disk)
    with pytest.raises(StoreUnavailable):
        await lost
    assert store.cards.capability(handle) == CAPABLE
    await store.close()


def _bcd(digits: str) -> bytes:
    """Digits with swapped nibbles, as cards keep them."""
    padded = digits + "f" * (len(digits) % 2)
    return bytes(int(padded[at + 1] + padded[at], 16) for at in range(0, len(padded), 2))


async def test_nothing_of_a_card_is_readable_on_the_disk(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    (handle,) = await put_cards(store, 1)
    await store.cards.write_capability(handle, Capability(Ability.CAPABLE, 5, 6, (Evidence(5, "secret_word", 1),)))
    await store.cards.take_counters(handle, 1, 1)
    secret = b"payload bytes that nobody may read"
    digest = store.card_downloads.put_payload(Payload((secret,)))
    await store.committer.flush()
    assert store.card_downloads.payload(digest) == Payload((secret,))
    links = list(store._environment.scan(Db.CARD_NUMBERS))
    assert not [row for row in links if handle in row[0] + row[1]]  # nor which numbers are of one card
    await store.close()
    raw = (tmp_path / "data.mdb").read_bytes()
    shown = [KIC, KID, KIC[::-1], KID[::-1], secret, b"secret_word", b"country", handle[::-1]]
    for digits in (card(0).iccid, card(0).imsi, card(0).msisdn[1:]):
        plain = bytes.fromhex(digits + "f" * (len(digits) % 2))
        shown += [digits.encode(), digits[:-1].encode(), _bcd(digits), plain, int(digits).to_bytes(9, "big")]
    for secret in shown:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:-4]):
            assert form not in raw
    assert handle in raw  # the test finds what is there


async def test_two_stores_give_one_card_different_handles(tmp_path: Path) -> None:
    one, two = await open_store(tmp_path / "one"), await open_store(tmp_path / "two")
    assert one.cards.handle(iccid(0)) != two.cards.handle(iccid(0))
    await one.close()
    await two.close()


async def test_a_row_in_anothers_place_is_refused_without_a_word_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_store(tmp_path)
    one, two = await put_cards(store, 2)
    raw = store._environment.get(Db.CARDS, one)
    assert raw is not None
    for bad in (raw, raw[:-1], raw[:5], b""):
        await store.committer.accept([(PUT, Db.CARDS, two, bad)])
        with caplog.at_level(logging.DEBUG), pytest.raises(ConfigError) as refused:
            store.cards.read(two)
        assert refused.value.__cause__ is None
        for hidden in (card(0).iccid, card(0).imsi, card(0).msisdn[1:], KIC.hex()):
            assert hidden not in str(refused.value) + caplog.text
    await store.close()


async def test_lost_keys_are_not_made_anew_where_there_are_cards_or_only_their_counters(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    (handle,) = await put_cards(store, 1)
    await store.cards.take_counters(handle, 1, 1)
    await store.cards.remove(handle)
    await store.close()
    (tmp_path / "keys.json").unlink()
    with pytest.raises(ConfigError, match="missing"):
        await open_store(tmp_path)


async def test_counters_that_a_card_has_seen_before_are_not_given_out(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    keys = (KeySet(1, 2, KIC, KID, 5_000), KeySet(2, 2, KIC, KID))
    await store.cards.put([card(0, key_sets=keys)])
    handle = store.cards.handle(iccid(0))
    assert await store.cards.take_counters(handle, 1, 2) == 5_001
    assert await store.cards.take_counters(handle, 2, 1) == 1
    await store.cards.put([card(0, key_sets=keys)])  # the same file once more
    assert await store.cards.take_counters(handle, 1, 1) == 5_003
    await store.close()
    store = await open_store(tmp_path)
    assert await store.cards.take_counters(handle, 1, 1) > 5_003
    disk: Disk = disk_of(store)
    lost = store.cards.put([card(0, key_sets=(KeySet(1, 2, KIC, KID, 9_000),))])
    await fail_commit(store, disk)
    with pytest.raises(StoreUnavailable):
        await lost
    disk.error = None
    assert await store.committer.probe()
    assert await store.cards.take_counters(handle, 1, 1) > 5_003
    await store.close()
