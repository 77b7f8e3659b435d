"""Users of IM, sessions, devices, friends and groups in the store: each is seen at once, and after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from im_rig import put_account, put_users, user, user_id
from msgspec.structs import replace
from store_rig import START_MS, Clock, disk_of, fail_commit, open_store, register, with_app

from gateway.config.im_section import Im
from gateway.metrics import Metric, Metrics
from gateway.model.errors import NotFound, StoreUnavailable
from gateway.model.im_people import Friend, FriendState, Group
from gateway.model.im_ports import AddressTaken
from gateway.store.records import Db

A, B, C = user_id(1), user_id(2), user_id(3)
TOKENS = [bytes([n]) * 16 for n in range(4)]
HOUR_MS = 3_600_000


async def test_a_user_is_found_by_each_address_until_it_is_taken_away(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    kept = user(1, mailbox="marigold")
    landed = store.im_users.put_user(kept)
    assert store.im_users.user(A) == kept
    assert [store.im_users.find_user(address) for address in kept.addresses] == [A, A]
    await landed
    with pytest.raises(AddressTaken):
        store.im_users.put_user(user(2, addresses=kept.addresses[:1]))
    with pytest.raises(AddressTaken):
        store.im_users.put_user(user(2, mailbox="marigold"))
    assert store.im_users.user(B) is None
    changed = replace(kept, addresses=kept.addresses[1:], mailbox="", name="M")
    await store.im_users.put_user(changed)
    await store.im_users.put_user(user(2, addresses=kept.addresses[:1], mailbox="marigold"))
    await store.close()
    store = await open_store(tmp_path)
    assert store.im_users.user(A) == changed
    assert store.im_users.find_user(kept.addresses[0]) == B
    assert store.im_users.find_user(kept.addresses[1]) == A
    assert store.im_users.find_mailbox("marigold") == B
    assert store.im_users.find_user("marigold") is None
    assert store.im_users.find_mailbox(kept.addresses[1]) is None
    await store.close()


async def test_a_session_ends_and_is_swept_and_may_be_renewed(tmp_path: Path) -> None:
    clock = Clock()
    store = await open_store(tmp_path, clock)
    await put_users(store, 1, 2)
    await store.im_users.put_session(b"k" * 32, A, START_MS + HOUR_MS)
    await store.im_users.put_session(b"l" * 32, B, START_MS + HOUR_MS)
    assert store.im_users.session(b"k" * 32) == A
    assert store.im_users.session(b"x" * 32) is None
    await store.im_users.put_session(b"k" * 32, A, START_MS + 3 * HOUR_MS)
    clock.now_ms += HOUR_MS
    assert (store.im_users.session(b"k" * 32), store.im_users.session(b"l" * 32)) == (A, None)
    clock.now_ms += HOUR_MS
    store.sweep()
    await store.committer.flush()
    assert store._environment.entries(Db.IM_SESSIONS) == 1
    await store.im_users.remove_session(b"k" * 32)
    assert store.im_users.session(b"k" * 32) is None
    assert [store._environment.entries(db) for db in (Db.IM_SESSIONS, Db.IM_OWNED, Db.IM_TASKS)] == [0, 0, 0]
    await store.close()


async def test_a_user_has_so_many_sessions(tmp_path: Path) -> None:
    metrics = Metrics(process=False)
    store = await open_store(tmp_path, metrics=metrics)
    store.configure_im(Im(session_keys_per_user=3))
    await put_users(store, 1, 2)
    await store.im_users.put_session(b"other", B, START_MS + 1)
    for n in (5, 1, 4, 9, 3):
        store.im_users.put_session(bytes([n]), A, START_MS + n * HOUR_MS)
    store.im_users.put_session(bytes([9]), A, START_MS + 2 * HOUR_MS)  # the same again
    assert [n for n in range(10) if store.im_users.session(bytes([n])) == A] == [3, 5, 9]
    await store.committer.flush()
    assert store.im_users.session(b"other") == B
    assert metrics.value(Metric.IM_SESSION_KEYS_ENDED) == 2
    entries = [store._environment.entries(db) for db in (Db.IM_SESSIONS, Db.IM_OWNED, Db.IM_TASKS)]
    assert entries == [4, 4, 4]
    await store.close()


async def test_a_registration_that_is_revoked_is_nobodys_device(tmp_path: Path) -> None:
    store = await with_app(await open_store(tmp_path))
    await put_users(store, 1)
    numbers = [register(store, name) for name in ("phone", "tablet")]
    tokens = [store.directory.registration(number).token for number in numbers]  # type: ignore[union-attr]
    for token in tokens:
        await store.im_users.sign_in(token, A)
    await store.directory.revoke(numbers[0])
    assert (store.im_users.devices(A), store.im_users.signed_in(tokens[0])) == ([tokens[1]], None)
    disk = disk_of(store)
    revoked = store.directory.revoke(numbers[1])
    assert store.im_users.devices(A) == []
    await fail_commit(store, disk)
    with pytest.raises(StoreUnavailable):
        await revoked
    assert store.im_users.devices(A) == [tokens[1]]
    await store.close()


async def test_a_device_is_one_users(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_users(store, 1, 2)
    for token in TOKENS[:3]:
        await store.im_users.sign_in(token, A)
    store.im_users.sign_in(TOKENS[1], B)
    store.im_users.sign_out(TOKENS[2])
    for _ in range(2):
        assert [store.im_users.signed_in(token) for token in TOKENS] == [A, B, None, None]
        assert store.im_users.devices(A) == [TOKENS[0]]
        assert store.im_users.devices(B) == [TOKENS[1]]
        await store.close()
        store = await open_store(tmp_path)
    await store.close()


async def test_friends_are_rows_of_each_side(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_users(store, 1, 2, 3)
    there, back = (Friend(A, B, FriendState.ASKED, START_MS), Friend(B, A, FriendState.WAITING, START_MS))
    await store.im_users.put_friends([there, back])
    await store.im_users.put_friends([Friend(A, C, FriendState.BLOCKED, START_MS)])
    there = replace(there, state=FriendState.FRIENDS)
    store.im_users.put_friends([there])
    assert store.im_users.friend(A, B) == there
    assert store.im_users.friend(B, A) == back
    assert store.im_users.friend(C, A) is None
    assert {friend.other for friend in store.im_users.friends(A)} == {B, C}
    with pytest.raises(NotFound):
        store.im_users.put_friends([Friend(A, user_id(9), FriendState.ASKED, START_MS)])
    await store.im_users.remove_friends([(A, C), (B, A)])
    assert store.im_users.friends(A) == [there]
    assert store.im_users.friends(B) == []
    await store.close()


async def test_a_group_is_its_members_and_goes_without_them(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await put_users(store, 1, 2, 3)
    group = Group(b"g" * 16, "garden", A, (A, B), START_MS)
    await store.im_users.put_group(group)
    other = Group(b"h" * 16, "house", B, (B,), START_MS)
    await store.im_users.put_group(other)
    assert store.im_users.groups(A) == [group]
    assert {each.name for each in store.im_users.groups(B)} == {"garden", "house"}
    changed = replace(group, members=(B, C), owner=B)
    store.im_users.put_group(changed)
    assert store.im_users.group(b"g" * 16) == changed
    assert store.im_users.groups(A) == []
    assert store.im_users.groups(C) == [changed]
    await store.im_users.put_group(replace(changed, members=()))
    assert store.im_users.group(b"g" * 16) is None
    assert store.im_users.groups(C) == []
    assert (store._environment.entries(Db.IM_GROUPS), store._environment.entries(Db.IM_OWNED)) == (1, 1)
    await store.close()


async def test_the_next_user_of_the_rest_is_not_there(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    for refused in (
        lambda: store.im_users.put_session(b"k", A, START_MS),
        lambda: store.im_users.sign_in(TOKENS[0], A),
        lambda: store.im_accounts.seal(A, 1, "xmpp", {}),
        lambda: store.im_users.put_group(Group(b"g" * 16, "garden", A, (A,), START_MS)),
    ):
        with pytest.raises(NotFound):
            refused()
    with pytest.raises(NotFound):
        await put_account(store, A)
    assert (store.im_users.friends(A), store.im_users.devices(A), store.im_users.groups(A)) == ([], [], [])
    await store.close()
