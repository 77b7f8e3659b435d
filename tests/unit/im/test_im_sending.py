"""What users send through bound accounts (D3, D4, D13, D15): accepted or refused, and exactly one result for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from im_heart import Heart, until
from im_scripted_network import CHAT, IdempotentNetwork, hang, raising

from gateway.im.messaging.draft import Draft, Recipient
from gateway.metrics import Metric
from gateway.model.errors import Conflict, InvalidField, StoreUnavailable, TooManyRequests
from gateway.model.im import (
    AuthFailed,
    Befriend,
    ConversationKind,
    Geo,
    JoinRoom,
    Kind,
    MarkRead,
    Rejected,
    Transient,
)
from gateway.model.im_people import AccountState, ItemKind

Build = Callable[..., Heart]


async def connected(heart: Heart, name: str = "anna") -> tuple[bytes, int]:
    user = heart.user(name)
    number = heart.bind(user, f"{name}'s")
    heart.door.come(name.encode())
    await until(lambda: heart.supervisor.state(number) is AccountState.CONNECTED)
    return user, number


async def test_what_is_sent_has_a_result_and_is_in_the_log(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    verdict = await heart.send(anna, number, "hello")
    assert verdict.state == "accepted"
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    (result,) = heart.items(anna, ItemKind.RESULT)
    assert (result.outgoing, result.state, result.remote_id) == (verdict.number, "sent", "s1")
    (message,) = heart.items(anna, ItemKind.MESSAGE)
    assert message.envelope is not None
    assert message.envelope.sender.is_self
    assert message.envelope.remote_id == "s1"
    assert heart.log.outgoing(number) == []
    assert [item.kind for item in heart.pushes.pushed[b"anna"]] == [ItemKind.RESULT, ItemKind.MESSAGE]
    assert not heart.pushes.urgent[b"anna"]


async def test_the_networks_echo_is_no_second_message(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    await heart.send(anna, number, "hello")
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    heart.box("anna's").say("hello", is_self=True, remote_id="s1")
    heart.box("anna's").say("an answer")
    await until(lambda: "an answer" in heart.texts(anna))
    assert heart.texts(anna) == ["hello", "an answer"]


async def test_messages_leave_in_order_one_at_a_time(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    for text in range(50):
        await heart.send(anna, number, str(text))
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 50)
    assert [text for _, text in heart.box("anna's").sent] == [str(text) for text in range(50)]


async def test_what_may_pass_is_tried_again(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.box("anna's").before_send.extend([raising(Transient("busy"))] * 3)
    await heart.send(anna, number, "one")
    await heart.send(anna, number, "two")
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 2)
    assert [text for _, text in heart.box("anna's").sent] == ["one", "two"]


async def test_what_the_network_does_not_take_has_failed_with_its_reason(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.box("anna's").before_send.append(raising(Rejected("no such person")))
    await heart.send(anna, number, "one")
    await heart.send(anna, number, "two")
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 2)
    assert [(state, reason) for _, state, reason in heart.results(anna)] == [("failed", "no such person"), ("sent", "")]
    assert heart.pushes.urgent[b"anna"] == [("Not sent", "no such person")]


async def test_a_send_that_hangs_is_in_doubt_and_is_not_sent_twice(build_heart: Build) -> None:
    heart = build_heart(request_s=0.3)
    anna, number = await connected(heart)
    heart.box("anna's").after_send.append(hang)
    await heart.send(anna, number, "once")
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    ((_, state, reason),) = heart.results(anna)
    assert state == "failed"
    assert "may have arrived" in reason
    assert [text for _, text in heart.box("anna's").sent] == ["once"]


async def test_where_the_network_knows_a_second_try_it_is_made(build_heart: Build) -> None:
    heart = build_heart(IdempotentNetwork(), request_s=0.3)
    anna, number = await connected(heart)
    heart.box("anna's").after_send.extend([hang, raising(OSError("gone"))])
    await heart.send(anna, number, "once")
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    assert [(state, reason) for _, state, reason in heart.results(anna)] == [("sent", "")]
    assert [text for _, text in heart.box("anna's").sent] == ["once"]


async def test_a_connection_lost_before_the_network_took_it_is_no_failure(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.network.down.add("there")
    heart.box("anna's").cut()
    await until(lambda: heart.network.connected == 0)
    await heart.send(anna, number, "later")
    await asyncio.sleep(0.05)
    assert not heart.items(anna, ItemKind.RESULT)
    heart.network.down.clear()
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    assert [text for _, text in heart.box("anna's").sent] == ["later"]


async def test_a_connection_lost_in_the_middle_is_in_doubt(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.box("anna's").after_send.append(hang)
    await heart.send(anna, number, "once")
    await until(lambda: heart.box("anna's").sent)
    heart.box("anna's").cut()
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    ((_, state, reason),) = heart.results(anna)
    assert (state, "may have arrived" in reason) == ("failed", True)
    assert len(heart.box("anna's").sent) == 1


async def test_after_a_kill_in_the_middle_it_is_in_doubt(build_heart: Build) -> None:
    heart = build_heart(request_s=30.0)
    anna, number = await connected(heart)
    heart.box("anna's").after_send.append(hang)
    await heart.send(anna, number, "once")
    await heart.send(anna, number, "next")
    await until(lambda: heart.box("anna's").sent)
    (first, _) = heart.log.outgoing(number)
    assert first.is_in_doubt
    old = heart.supervisor
    heart.start()
    heart.door.come(b"anna")
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 2)
    assert [state for _, state, _ in heart.results(anna)] == ["failed", "sent"]
    assert [text for _, text in heart.box("anna's").sent] == ["once", "next"]
    for line in old._lines.values():
        line.stop(at_once=True)
    await old.stop()


async def test_wrong_credentials_at_a_send_end_the_session_and_keep_the_message(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.box("anna's").before_send.append(raising(AuthFailed()))
    await heart.send(anna, number, "kept")
    await until(lambda: heart.supervisor.state(number) is AccountState.BAD_CREDENTIALS)
    assert not heart.items(anna, ItemKind.RESULT)
    with pytest.raises(Conflict):
        heart.outbox._account(anna, number)
    account = heart.accounts.account(number)
    assert account is not None
    heart.supervisor.bound(account)
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    assert [state for _, state, _ in heart.results(anna)] == ["sent"]


async def test_with_nobody_there_it_waits_and_then_it_has_failed(build_heart: Build) -> None:
    heart = build_heart(outgoing_s=1.0, linger_s=0.0)
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.box("a").before_open.extend([hang] * 100)
    await heart.send(anna, number, "never")
    heart.expiry._due.clear()
    heart.expiry._heap.clear()
    heart.expiry.start()  # as after a restart
    await until(lambda: heart.items(anna, ItemKind.RESULT), 10)
    assert [(state, reason) for _, state, reason in heart.results(anna)] == [("failed", "it could not be sent in time")]
    assert heart.log.outgoing(number) == []


async def test_a_result_waits_for_the_store_and_the_message_is_not_sent_again(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)

    async def break_store() -> None:
        heart.log.failing = 2

    heart.box("anna's").after_send.append(break_store)
    await heart.send(anna, number, "once")
    await until(lambda: heart.items(anna, ItemKind.RESULT), 5)
    assert [text for _, text in heart.box("anna's").sent] == ["once"]
    assert [state for _, state, _ in heart.results(anna)] == ["sent"]
    assert heart.texts(anna) == ["once"]


async def test_one_message_to_many_has_a_result_for_each(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    second = heart.bind(anna, "sina")
    bert = heart.user("bert")
    heart.befriend(anna, bert)
    calls = heart.log.calls["put_outgoing"]
    verdicts = await heart.outbox.send(
        anna,
        [
            Recipient(number, "friend@there"),
            Recipient(site="sina"),
            Recipient(user=f"user_{bert.hex()}"),
            Recipient(user=f"user_{b'z' * 16!r}"),
            Recipient(999, "x"),
            Recipient(number, "x", user="both"),
            Recipient("sina", ""),
        ],
        Draft("to all"),
    )
    assert [verdict.state for verdict in verdicts] == [
        "accepted",
        "accepted",
        "sent",
        "refused",
        "refused",
        "refused",
        "refused",
    ]
    assert [verdict.error.name for verdict in verdicts if verdict.error] == [
        "invalid_field",
        "not_found",
        "invalid_field",
        "invalid_field",
    ]
    assert heart.log.calls["put_outgoing"] == calls + 1 or heart.log.calls["put_outgoing"] > calls
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 2)
    assert {number for number, _, _ in heart.results(anna)} == {verdicts[0].number, verdicts[1].number}
    assert [text for _, text in heart.box("sina").sent] == ["to all"]
    (site,) = [item for item in heart.items(anna, ItemKind.MESSAGE) if item.account == second]
    assert site.envelope is not None
    assert (site.envelope.kind, site.envelope.conversation.kind) == (Kind.POST, ConversationKind.FEED)
    assert heart.texts(bert) == ["to all"]


async def test_a_full_queue_refuses_one_recipient_and_not_the_others(build_heart: Build) -> None:
    heart = build_heart(most_outgoing=2)
    anna = heart.user("anna")
    one, two = heart.bind(anna, "one"), heart.bind(anna, "two")
    heart.network.down.add("there")
    verdicts = await heart.outbox.send(
        anna, [Recipient(one, "x"), Recipient(one, "x"), Recipient(one, "x"), Recipient(two, "x")], Draft("x")
    )
    assert [verdict.state for verdict in verdicts] == ["accepted", "accepted", "refused", "accepted"]
    assert verdicts[2].error is not None
    assert verdicts[2].error.name == "queue_full"


async def test_a_key_is_answered_once(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    first, second = await asyncio.gather(*(heart.send(anna, number, "x", "key") for _ in range(2)))
    assert first == second
    with pytest.raises(Conflict):
        await heart.send(anna, number, "another", "key")
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    assert len(heart.box("anna's").sent) == 1


async def test_a_key_of_what_still_waits_is_known_after_a_restart(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.network.down.add("there")
    first = await heart.send(anna, number, "x", "key")
    await heart.close()
    heart.start()
    assert await heart.send(anna, number, "x", "key") == first
    assert len(heart.log.outgoing(number)) == 1


async def test_a_store_that_takes_nothing_refuses_and_nothing_is_sent(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.log.is_down = True
    verdict = await heart.send(anna, number, "x")
    assert verdict.state == "refused"
    assert isinstance(verdict.error, StoreUnavailable)
    heart.log.is_down = False
    await asyncio.sleep(0.02)
    assert not heart.box("anna's").sent


async def test_it_is_answered_after_the_commit(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.log.holds = True
    task = asyncio.create_task(heart.send(anna, number, "x"))
    await asyncio.sleep(0.02)
    assert not task.done()
    assert not heart.box("anna's").sent
    heart.log.release()
    assert (await task).state == "accepted"


async def test_more_than_a_minutes_messages_are_refused(build_heart: Build) -> None:
    heart = build_heart(sends_per_minute=3)
    anna, number = await connected(heart)
    for _ in range(3):
        await heart.send(anna, number, "x")
    with pytest.raises(TooManyRequests) as caught:
        await heart.send(anna, number, "x")
    assert 0 < caught.value.after_ms <= 60_000


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (Draft(), "text"),
        (Draft("é" * 40_000), "text"),
        (Draft("\ud800"), "text"),
        (Draft("x", media=("nothing",)), "media[0]"),
    ],
)
async def test_what_is_no_message_is_refused_with_its_field(build_heart: Build, draft: Draft, field: str) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    with pytest.raises(InvalidField) as caught:
        await heart.outbox.send(anna, [Recipient(number, "x")], draft)
    assert caught.value.field == field


async def test_files_and_places_go_with_it(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.media.files[anna, "pic"] = b"bytes"
    await heart.outbox.send(anna, [Recipient(number, "x")], Draft(media=("pic",)))
    await heart.outbox.send(anna, [Recipient(number, "x")], Draft(geo=Geo(48.0, 16.0)))
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 2)
    kinds = [item.envelope.kind for item in heart.items(anna, ItemKind.MESSAGE) if item.envelope]
    assert kinds == [Kind.MEDIA, Kind.LOCATION]


async def test_a_file_that_has_gone_meanwhile_fails_its_message(build_heart: Build) -> None:
    heart = build_heart()
    anna, number = await connected(heart)
    heart.media.files[anna, "pic"] = b"bytes"
    heart.box("anna's").before_send.append(raising(Transient("busy", retry_after_s=0.1)))
    await heart.outbox.send(anna, [Recipient(number, "x")], Draft(media=("pic",)))
    await asyncio.sleep(0.02)
    heart.media.files.clear()
    await until(lambda: heart.items(anna, ItemKind.RESULT))
    assert [state for _, state, _ in heart.results(anna)] == ["failed"]


async def test_acts_have_results_too(build_heart: Build) -> None:
    heart = build_heart(request_s=0.3)
    anna, number = await connected(heart)
    acts = [MarkRead(CHAT, "r1"), Befriend("friend@there"), JoinRoom("room")]
    heart.box("anna's").before_send.append(hang)  # done again: an act that is done twice is done once
    for act in acts:
        assert await heart.outbox.act(anna, number, act)
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 3)
    assert heart.box("anna's").acts == acts
    assert {state for _, state, _ in heart.results(anna)} == {"sent"}
    assert not heart.texts(anna)


async def test_what_a_network_has_not_is_refused_at_once(build_heart: Build) -> None:
    heart = build_heart()
    heart.network.caps = heart.network.caps._replace(rooms=False, edits=False)  # type: ignore[misc]
    anna, number = await connected(heart)
    with pytest.raises(InvalidField):
        await heart.outbox.act(anna, number, JoinRoom("room"))
    (verdict,) = await heart.outbox.send(anna, [Recipient(number, "x")], Draft("new", replaces="s1"))
    assert verdict.state == "refused"
    assert heart.metrics.value(Metric.IM_REFUSED, "invalid_field") == 1


async def test_taking_leave_waits_for_what_is_on_its_way(build_heart: Build) -> None:
    heart = build_heart(linger_s=0.0)
    anna, number = await connected(heart)

    async def slowly() -> None:
        await asyncio.sleep(0.1)

    heart.box("anna's").before_send.extend([slowly, slowly])
    await heart.send(anna, number, "one")
    await heart.send(anna, number, "two")
    await asyncio.sleep(0.02)
    heart.door.go(b"anna")
    await until(lambda: heart.network.connected == 0)
    assert [state for _, state, _ in heart.results(anna)] == ["sent"]
    assert len(heart.log.outgoing(number)) == 1
    heart.door.come(b"anna")
    await until(lambda: len(heart.items(anna, ItemKind.RESULT)) == 2)
    assert [text for _, text in heart.box("anna's").sent] == ["one", "two"]


async def test_an_expiry_whose_commit_fails_is_looked_at_again(
    build_heart: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.im.messaging.expiry.AGAIN_MS", 50)
    heart = build_heart(outgoing_s=1.0, linger_s=0.0)
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.network.down.add("there")
    await heart.send(anna, number, "never")
    heart.log.failing = 2
    await until(lambda: heart.items(anna, ItemKind.RESULT), 10)
    assert heart.log.failing == 0
    assert heart.log.outgoing(number) == []
    await until(lambda: not heart.expiry._due, 10)
