"""Our users among themselves (D5, D10): both logs, receipts, presence, with no network of anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from im_heart import Heart, until

from gateway.im.messaging.draft import Draft, Recipient
from gateway.im.messaging.outbox import Verdict
from gateway.metrics import Metric
from gateway.model.errors import GatewayError, InvalidField, TooManyRequests
from gateway.model.im import Conversation, ConversationKind
from gateway.model.im_people import Group, ItemKind, build_group_id, build_user_id

Build = Callable[..., Heart]


def dm(user: bytes) -> Conversation:
    return Conversation(ConversationKind.DM, build_user_id(user))


async def say(heart: Heart, me: bytes, to: bytes, text: str, key: str = "") -> Verdict:
    (verdict,) = await heart.outbox.send(me, [Recipient(user=build_user_id(to))], Draft(text), key)
    return verdict


def friends(heart: Heart) -> tuple[bytes, bytes]:
    anna, bert = heart.user("anna"), heart.user("bert")
    heart.befriend(anna, bert)
    return anna, bert


async def test_a_message_is_in_both_logs_as_each_side_sees_it(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = friends(heart)
    verdict = await say(heart, anna, bert, "hello")
    (mine,), (theirs,) = heart.items(anna, ItemKind.MESSAGE), heart.items(bert, ItemKind.MESSAGE)
    assert mine.envelope is not None
    assert theirs.envelope is not None
    assert mine.account == theirs.account == 0
    assert mine.envelope.remote_id == theirs.envelope.remote_id == verdict.remote_id
    assert (mine.envelope.conversation, mine.envelope.sender.is_self) == (dm(bert), True)
    assert (theirs.envelope.conversation, theirs.envelope.sender.is_self) == (dm(anna), False)
    assert heart.pushes.urgent[b"bert"] == [("anna", "hello")]
    assert not heart.pushes.urgent[b"anna"]


async def test_to_whom_one_is_no_friend_nothing_is_written(build_heart: Build) -> None:
    heart = build_heart()
    anna, cleo = heart.user("anna"), heart.user("cleo")
    verdict = await say(heart, anna, cleo, "hello")
    assert verdict.state == "refused"
    assert not heart.log.items[cleo]
    assert not heart.log.items[anna]
    for user in ("user_x", "cleo"):
        (verdict,) = await heart.outbox.send(anna, [Recipient(user=user)], Draft("x"))
        assert verdict.state == "refused"


async def test_the_same_key_after_a_restart_is_the_same_message(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = friends(heart)
    first = await say(heart, anna, bert, "hello", "key")
    await heart.close()
    heart.start()
    assert await say(heart, anna, bert, "hello", "key") == first
    assert heart.texts(bert) == heart.texts(anna) == ["hello"]


async def test_another_message_with_an_old_key_is_not_lost(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = friends(heart)
    await say(heart, anna, bert, "hello", "key")
    await heart.close()
    heart.start()
    assert (await say(heart, anna, bert, "something else", "key")).state == "sent"
    assert heart.texts(bert) == ["hello", "something else"]


async def test_the_sender_learns_once_that_it_is_on_a_device(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = friends(heart)
    heart.users.sign_in(b"tablet", bert)
    verdict = await say(heart, anna, bert, "hello")
    for sequence in range(1, heart.pushes.sequence + 1):
        heart.own.on_acked(sequence)
        heart.own.on_acked(sequence)
    (item,) = heart.items(anna, ItemKind.DELIVERED)
    assert (item.remote_id, item.conversation) == (verdict.remote_id, dm(bert))
    assert item.by is not None
    assert item.by.remote_id == build_user_id(bert)
    assert not heart.items(bert, ItemKind.DELIVERED)
    heart.own.on_acked(10**9)


async def test_the_sender_learns_that_it_is_read(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = friends(heart)
    verdict = await say(heart, anna, bert, "hello")
    heart.own.mark_read(bert, dm(anna), verdict.remote_id)
    (item,) = heart.items(anna, ItemKind.READ)
    assert (item.conversation, item.remote_id) == (dm(bert), verdict.remote_id)
    (own,) = heart.items(bert, ItemKind.READ)
    assert own.by is not None
    assert own.by.is_self


async def test_marks_and_signs_of_a_friend_do_not_fill_a_log(build_heart: Build) -> None:
    heart = build_heart(sends_per_minute=3)
    anna, bert = friends(heart)
    for number in range(3):
        heart.own.mark_read(anna, dm(bert), str(number))
        heart.own.typing(anna, dm(bert), is_typing=True)
    with pytest.raises(TooManyRequests):
        heart.own.mark_read(anna, dm(bert), "more")
    with pytest.raises(TooManyRequests):
        heart.own.typing(anna, dm(bert), is_typing=True)
    assert len(heart.items(bert, ItemKind.READ)) == 3
    assert (await say(heart, anna, bert, "still heard")).state == "sent"


async def test_long_messages_to_a_large_group_count_as_what_they_fill(build_heart: Build) -> None:
    heart = build_heart(sends_per_minute=20)
    users = [heart.user(f"user {number}") for number in range(50)]
    group = Group(b"g" * 16, "us", users[0], tuple(users), 0)
    heart.users.put_group(group)
    to = [Recipient(group=build_group_id(group.group))]
    for _ in range(10):
        await heart.outbox.send(users[0], to, Draft("short"))
    await heart.outbox.send(users[1], to, Draft("x" * 30_000))
    with pytest.raises(TooManyRequests):
        await heart.outbox.send(users[1], to, Draft("x" * 30_000))
    with pytest.raises(InvalidField):
        heart.own.mark_read(users[0], Conversation(ConversationKind.ROOM, build_group_id(group.group)), "x" * 2_000)


async def test_one_message_to_many_groups_leaves_others_their_turns(build_heart: Build) -> None:
    heart = build_heart()
    users = [heart.user(f"user {number}") for number in range(50)]
    group = Group(b"g" * 16, "us", users[0], tuple(users), 0)
    heart.users.put_group(group)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    await heart.outbox.send(users[0], [Recipient(group=build_group_id(group.group))] * 60, Draft("hello"))
    beside.cancel()
    assert turns >= 50 * 60 // 550


async def test_a_group_hears_what_a_member_says_and_nobody_else_may(build_heart: Build) -> None:
    heart = build_heart()
    users = [heart.user(name) for name in ("anna", "bert", "cleo")]
    outsider = heart.user("dora")
    group = Group(b"g" * 16, "us", users[0], tuple(users), 0)
    heart.users.put_group(group)
    to = [Recipient(group=build_group_id(group.group))]
    (verdict,) = await heart.outbox.send(users[0], to, Draft("hello all"))
    assert verdict.state == "sent"
    assert [heart.texts(user) for user in users] == [["hello all"]] * 3
    (refused,) = await heart.outbox.send(outsider, to, Draft("let me in"))
    assert refused.state == "refused"
    (item,) = heart.items(users[2], ItemKind.MESSAGE)
    assert item.envelope is not None
    assert item.envelope.conversation == Conversation(ConversationKind.ROOM, build_group_id(group.group))
    heart.own.typing(users[1], item.envelope.conversation, is_typing=True)
    assert [told.state for told in heart.pushes.told[b"anna"]] == ["typing"]
    assert not heart.pushes.told[b"bert"]


async def test_files_are_shared_with_whom_they_are_sent_to(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = friends(heart)
    heart.media.files[anna, "pic"] = b"x"
    await heart.outbox.send(anna, [Recipient(user=build_user_id(bert))], Draft(media=("pic",)))
    assert heart.media.file(bert, "pic") is not None


async def test_friends_who_are_there_learn_who_comes_and_goes(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = friends(heart)
    heart.user("cleo")
    for name in (b"bert", b"cleo", b"anna"):
        heart.door.come(name)
    await until(lambda: heart.pushes.told[b"bert"])
    (item,) = heart.pushes.told[b"bert"]
    assert (item.kind, item.state) == (ItemKind.PRESENCE, "available")
    assert item.by is not None
    assert item.by.remote_id == build_user_id(anna)
    assert not heart.pushes.told[b"cleo"]
    assert heart.presence.friends_there(bert) == [anna]
    heart.door.go(b"anna")
    await until(lambda: len(heart.pushes.told[b"bert"]) == 2)
    assert heart.pushes.told[b"bert"][1].state == "away"
    assert not heart.log.items[bert]


async def test_a_device_that_flaps_floods_nobody(build_heart: Build) -> None:
    heart = build_heart(presence_s=0.05)
    friends(heart)
    heart.door.come(b"bert")
    for _ in range(200):
        heart.door.come(b"anna")
        await asyncio.sleep(0.0005)
        heart.door.go(b"anna")
    await asyncio.sleep(0.1)
    assert len(heart.pushes.told[b"bert"]) <= 200 * 0.002 / 0.05 + 4


async def test_what_can_not_be_written_is_refused_and_receipts_are_dropped_aloud(build_heart: Build) -> None:
    heart = build_heart()
    anna, bert = friends(heart)
    await say(heart, anna, bert, "hello")
    heart.log.is_down = True
    assert (await say(heart, anna, bert, "again")).state == "refused"
    heart.own.on_acked(1)
    assert heart.metrics.value(Metric.IM_DROPPED, "delivered") == 1
    with pytest.raises(GatewayError):
        heart.own.mark_read(bert, dm(anna), "x")
