"""Supervision and messaging over the real store: what is durable is there after a kill, and nothing is there twice."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from im_heart import until
from im_scripted_network import ScriptedNetwork, hang
from im_stored_heart import StoredHeart, open_heart_store, token

from gateway.im.messaging.draft import Draft, Recipient
from gateway.model.im_people import AccountState, ItemKind, build_user_id
from gateway.store import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_heart_store(tmp_path / "store")
    yield store
    await store.close()


async def test_messages_go_both_ways_and_are_kept(store: Store) -> None:
    heart = StoredHeart(store)
    anna, bert = heart.user("anna"), heart.user("bert")
    heart.befriend(anna, bert)
    number = heart.bind(anna, "a")
    heart.door.come(token("anna"))
    for text in range(300):
        heart.box("a").say(f"in {text}")
    for text in range(20):
        await heart.send(anna, number, f"out {text}")
    await heart.outbox.send(anna, [Recipient(user=build_user_id(bert))], Draft("own"))
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 20)
    await until(lambda: len(heart.items(anna, ItemKind.MESSAGE)) == 321)
    texts = heart.texts(anna)
    assert [text for text in texts if text.startswith("in")] == [f"in {text}" for text in range(300)]
    assert [text for text in texts if text.startswith("out")] == [f"out {text}" for text in range(20)]
    assert heart.texts(bert) == ["own"]
    await store.committer.flush()
    assert heart.accounts.cursor(number) == b"300"
    assert heart.log.outgoing(number) == []
    await heart.close()


async def test_a_gap_opens_without_a_cursor(store: Store) -> None:
    heart = StoredHeart(store)
    anna = heart.user("anna")
    heart.bind(anna, "a")
    heart.door.come(token("anna"))
    heart.box("a").say("one")
    await until(lambda: heart.texts(anna) == ["one"])
    heart.box("a").say("lost")
    heart.box("a").forgotten_below = 2
    heart.box("a").cut()
    await until(lambda: heart.items(anna, ItemKind.GAP))
    heart.box("a").say("two")
    await until(lambda: "two" in heart.texts(anna))
    await heart.close()


async def test_after_a_kill_all_that_was_promised_is_there(store: Store, tmp_path: Path) -> None:
    network = ScriptedNetwork()
    heart = StoredHeart(store, network, request_s=30.0)
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    other = heart.bind(anna, "other", password="wrong")
    heart.door.come(token("anna"))
    for text in range(100):
        heart.box("a").say(str(text))
    await until(lambda: len(heart.texts(anna)) == 100)
    heart.box("a").after_send.append(hang)
    for text in ("in doubt", "waits"):
        await heart.send(anna, number, text)
    await until(lambda: heart.box("a").sent)
    await until(lambda: heart.supervisor.state(other) is AccountState.BAD_CREDENTIALS)
    await store.committer.flush()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")  # what a disk has when the process is killed now
    heart.box("a").after_send.clear()
    again = await open_heart_store(tmp_path / "copy")
    after = StoredHeart(again, network)
    for text in range(100, 200):
        heart.box("a").say(str(text))
    after.door.come(token("anna"))
    await until(lambda: len(after.items(anna, ItemKind.RESULT)) == 2)
    assert [state for _, state, _ in after.results(anna)] == ["failed", "sent"]
    await until(lambda: "199" in after.texts(anna))
    assert [text for text in after.texts(anna) if text.isdigit()] == [str(text) for text in range(200)]
    assert after.supervisor.state(other) is AccountState.BAD_CREDENTIALS
    cursors = [item.cursor for item in after.log.after(anna, 0, 1_000)]
    assert cursors == sorted(set(cursors))
    await after.close()
    await again.close()
    for line in heart.supervisor._lines.values():
        line.stop(at_once=True)
    await heart.close()


async def test_a_users_end_is_the_end_of_all_that_is_theirs(store: Store) -> None:
    heart = StoredHeart(store)
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.door.come(token("anna"))
    await until(lambda: heart.network.connected == 1)
    heart.supervisor.unbound(number)
    heart.users.remove_user(anna)
    heart.supervisor.gone(anna)
    await until(lambda: heart.network.connected == 0)
    heart.box("a").say("to nobody")
    await asyncio.sleep(0.02)
    assert not heart.texts(anna)
    assert not heart.supervisor._present
    await heart.close()
