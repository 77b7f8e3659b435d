"""What networks bring, into the log and onto devices (D2, D12, D14)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from im_heart import Heart, until
from im_scripted_network import CHAT, FRIEND

from gateway.metrics import Metric
from gateway.model.im import (
    Contact,
    ContactChanged,
    FriendRequest,
    Media,
    Moved,
    PresenceChanged,
    ReadUpTo,
    TypingChanged,
)
from gateway.model.im_people import ItemKind

Build = Callable[..., Heart]


async def connected(heart: Heart) -> tuple[bytes, int]:
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    return anna, number


async def test_a_message_is_in_the_log_and_on_every_device(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.users.sign_in(b"second", anna)
    heart.box("a").say("x" * 300)
    await until(lambda: heart.pushes.pushed[b"second"])
    (item,) = heart.items(anna, ItemKind.MESSAGE)
    assert item.account == number
    assert item.envelope is not None
    assert item.envelope.network == "scripted"
    assert item.envelope.at_ms > 0
    assert heart.pushes.pushed[b"anna"] == heart.pushes.pushed[b"second"] == [item]
    ((title, text),) = heart.pushes.urgent[b"anna"]
    assert (title, len(text)) == ("A Friend", 200)


async def test_what_the_user_sent_from_elsewhere_wakes_nobody(build_heart: Build) -> None:
    heart = build_heart()
    anna, _ = await connected(heart)
    heart.box("a").say("mine", is_self=True)
    await until(lambda: heart.texts(anna) == ["mine"])
    assert heart.pushes.pushed[b"anna"]
    assert not heart.pushes.urgent[b"anna"]


async def test_every_kind_of_event_becomes_its_item(build_heart: Build) -> None:
    heart = build_heart()
    anna, _ = await connected(heart)
    box = heart.box("a")
    box.put(ReadUpTo(CHAT, FRIEND, "s1"))
    box.put(FriendRequest(FRIEND, "hi"))
    box.put(FriendRequest(FRIEND, "hi"))  # networks repeat them at each login
    box.put(ContactChanged("x", Contact("x", "X")))
    box.put(ContactChanged("friend@there", None))
    box.put(FriendRequest(FRIEND, "again"))
    box.put(Moved(b"6"))
    box.put(PresenceChanged(FRIEND, True, "here"))
    box.put(TypingChanged(CHAT, FRIEND, True))
    await until(lambda: len(heart.pushes.told[b"anna"]) == 3)
    kinds = [item.kind for item in heart.log.items[anna]]
    assert kinds == ["read", "friend_request", "contact", "contact", "friend_request"]
    assert [item.state for item in heart.items(anna, ItemKind.CONTACT)] == ["there", "gone"]
    assert [item.kind for item in heart.pushes.told[b"anna"]] == ["account", "presence", "typing"]
    await until(lambda: heart.accounts.cursors == {1: b"6"})


async def test_a_duplicate_moves_the_cursor_and_is_no_message(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.box("a").say("x", remote_id="same")
    heart.box("a").say("x", remote_id="same")
    await until(lambda: heart.accounts.cursors.get(number) == b"2")
    assert heart.texts(anna) == ["x"]
    assert len(heart.pushes.pushed[b"anna"]) == 1


async def test_an_account_whose_commits_fail_skips_nothing(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.log.failing = 2
    for text in range(300):
        heart.box("a").say(str(text))
    await until(lambda: len(heart.texts(anna)) == 300, 10)
    assert heart.texts(anna) == [str(text) for text in range(300)]
    assert heart.accounts.cursors[number] == b"300"
    assert heart.metrics.value(Metric.IM_STORE_WAITS) == 2


async def test_an_account_that_the_store_holds_up_stops_reading(build_heart: Build) -> None:
    heart = build_heart()
    anna, _ = await connected(heart)
    heart.log.is_down = True
    for text in range(1_000):
        heart.box("a").say(str(text))
    await asyncio.sleep(0.05)
    (session,) = heart.box("a").sessions
    assert session._at <= 70
    heart.log.is_down = False
    await until(lambda: len(heart.texts(anna)) == 1_000, 10)


async def test_a_kill_between_commit_and_push_loses_nothing(build_heart: Build) -> None:
    heart = build_heart()
    anna, _ = await connected(heart)
    heart.box("a").say("one")
    await until(lambda: heart.texts(anna) == ["one"])
    # appended, and the process is gone before the push core had it
    heart.deliverer.push = lambda user, items: []  # type: ignore[method-assign]
    heart.box("a").say("two")
    await until(lambda: heart.texts(anna) == ["one", "two"])
    # not appended, and the process is gone
    heart.log.is_down = True
    heart.box("a").say("three")
    await asyncio.sleep(0.02)
    old = heart.supervisor
    heart.start()
    heart.log.is_down = False
    heart.door.come(b"anna")
    await until(lambda: "three" in heart.texts(anna))
    assert heart.texts(anna) == ["one", "two", "three"]
    # the device comes back to the log by its cursor
    assert [item.cursor for item in heart.log.after(anna, 1, 10)] == [2, 3]
    await old.stop()


async def test_files_are_fetched_before_the_message_counts(build_heart: Build) -> None:
    heart = build_heart()
    anna, _ = await connected(heart)
    heart.box("a").files["f1"] = b"picture"
    heart.box("a").say("look", media=(Media("f1", "image/png"),))
    await until(lambda: heart.texts(anna))
    (item,) = heart.items(anna, ItemKind.MESSAGE)
    assert item.envelope is not None
    assert item.envelope.media == (Media("kept-f1", "image/png", 7),)
    assert heart.media.files[anna, "kept-f1"] == b"picture"


async def test_a_message_arrives_without_the_file_that_is_refused(build_heart: Build) -> None:
    heart = build_heart()
    anna, _ = await connected(heart)
    heart.box("a").files["f1"] = b"bomb"
    heart.media.refusal = "a picture of too many pixels"
    heart.box("a").say("look", media=(Media("f1"),))
    await until(lambda: heart.texts(anna))
    assert heart.texts(anna) == ["look\n[a file was not taken: a picture of too many pixels]"]


async def test_a_file_that_does_not_come_holds_its_message_up_for_a_while_only(build_heart: Build) -> None:
    heart = build_heart(fetch_s=0.1)
    anna, _ = await connected(heart)
    heart.box("a").say("look", media=(Media("missing"),))
    heart.box("a").say("next")
    await until(lambda: len(heart.texts(anna)) == 2)
    assert heart.texts(anna) == ["look\n[a file could not be fetched]", "next"]


async def test_a_text_that_is_too_long_says_that_it_was_cut(build_heart: Build) -> None:
    heart = build_heart(max_text_bytes=256)
    anna, _ = await connected(heart)
    heart.box("a").say("ä" * 300)
    await until(lambda: heart.texts(anna))
    (text,) = heart.texts(anna)
    assert len(text.encode()) <= 256
    assert text.endswith("ä… [cut]")


async def test_what_an_unbound_account_brings_goes_nowhere(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.accounts._accounts.pop(number)
    heart.box("a").say("x")
    await until(lambda: heart.network.connected == 0)
    await asyncio.sleep(0.05)
    assert not heart.texts(anna)
    assert heart.box("a").opened == 1
