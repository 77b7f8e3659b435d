"""Which accounts are connected, and what their users are told of it (D16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from im_heart import Heart, until
from im_scripted_network import CHAT, hang, raising

from gateway.metrics import Metric
from gateway.model.im import AuthFailed, Contact, CursorForgotten, Rejected, Transient, Typing
from gateway.model.im_people import AccountState, ItemKind

Build = Callable[..., Heart]


async def test_an_account_is_connected_while_a_device_is_on_line(build_heart: Build) -> None:
    heart = build_heart(linger_s=0.5)
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    await asyncio.sleep(0.02)
    assert heart.box("a").opened == 0
    assert heart.supervisor.state(number) is AccountState.IDLE
    heart.door.come(b"anna")
    await until(lambda: heart.supervisor.state(number) is AccountState.CONNECTED)
    heart.door.go(b"anna")
    await asyncio.sleep(0.02)
    assert heart.box("a").closed == 0  # it lingers
    await until(lambda: heart.box("a").closed == 1)
    assert heart.supervisor.state(number) is AccountState.IDLE
    await until(lambda: not heart.supervisor._present)
    assert not heart.supervisor._lines


async def test_a_device_that_is_back_soon_finds_its_session(build_heart: Build) -> None:
    heart = build_heart(linger_s=1.0)
    heart.bind(heart.user("anna"), "a")
    for _ in range(5):
        heart.door.come(b"anna")
        await asyncio.sleep(0.02)
        heart.door.go(b"anna")
        await asyncio.sleep(0.02)
    assert heart.box("a").opened == 1


async def test_the_last_of_two_devices_counts(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.users.sign_in(b"second", anna)
    heart.bind(anna, "a")
    heart.door.come(b"anna")
    heart.door.come(b"second")
    await until(lambda: heart.network.connected == 1)
    heart.door.go(b"anna")
    await asyncio.sleep(0.1)
    assert heart.network.connected == 1
    heart.door.go(b"second")
    await until(lambda: heart.network.connected == 0)


async def test_a_device_signed_in_while_on_line_is_there(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.bind(anna, "a")
    heart.door.come(b"other")
    assert not heart.supervisor.is_present(anna)
    heart.users.sign_in(b"other", anna)
    heart.supervisor.connected(b"other")
    await until(lambda: heart.network.connected == 1)
    heart.supervisor.disconnected(b"other")
    await until(lambda: heart.network.connected == 0)


async def test_a_request_over_rest_connects_for_a_while(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.bind(anna, "a")
    heart.supervisor.active(anna)
    await until(lambda: heart.network.connected == 1)
    await until(lambda: heart.network.connected == 0)
    await until(lambda: not heart.supervisor._present)


async def test_what_was_said_while_away_comes_after_the_resume(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.bind(anna, "a")
    heart.door.come(b"anna")
    heart.box("a").say("one")
    await until(lambda: heart.texts(anna) == ["one"])
    heart.door.go(b"anna")
    await until(lambda: heart.network.connected == 0)
    for number in range(200):
        heart.box("a").say(f"away {number}")
    heart.door.come(b"anna")
    await until(lambda: len(heart.texts(anna)) == 201)
    assert heart.texts(anna) == ["one", *(f"away {number}" for number in range(200))]


async def test_a_lost_connection_is_made_again_without_a_word(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.bind(anna, "a")
    heart.door.come(b"anna")
    for number in range(3):
        heart.box("a").say(str(number))
        await until(lambda number=number: len(heart.texts(anna)) == number + 1)
        heart.box("a").cut()
        await until(lambda number=number: heart.box("a").opened == number + 2)
    assert heart.texts(anna) == ["0", "1", "2"]
    assert not heart.items(anna, ItemKind.ACCOUNT)


async def test_wrong_credentials_are_told_at_once_and_not_tried_again(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.box("a").password = "another"
    number = heart.bind(anna, "a")
    heart.door.come(b"anna")
    await until(lambda: heart.items(anna, ItemKind.ACCOUNT))
    (item,) = heart.items(anna, ItemKind.ACCOUNT)
    assert (item.state, item.account) == (AccountState.BAD_CREDENTIALS, number)
    assert heart.pushes.urgent[b"anna"]
    heart.door.go(b"anna")
    heart.door.come(b"anna")
    heart.supervisor.active(anna)
    await asyncio.sleep(0.1)
    assert heart.network.connects == 1
    assert heart.supervisor.state(number) is AccountState.BAD_CREDENTIALS
    heart.start()  # it survives a restart
    heart.door.come(b"anna")
    await asyncio.sleep(0.05)
    assert heart.network.connects == 1
    heart.box("a").password = "right"
    account = heart.accounts.account(number)
    assert account is not None
    heart.supervisor.bound(account)
    await until(lambda: heart.supervisor.state(number) is AccountState.CONNECTED)


async def test_credentials_taken_back_end_the_session(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    heart.box("a").cut(AuthFailed())
    await until(lambda: heart.supervisor.state(number) is AccountState.BAD_CREDENTIALS)
    assert heart.network.connected == 0


class Revoked(AuthFailed):
    """As a connector may name it more closely."""


async def test_a_closer_word_for_wrong_credentials_is_understood(build_heart: Build) -> None:
    heart = build_heart()
    number = heart.bind(heart.user("anna"), "a")
    heart.box("a").before_open.append(raising(Revoked()))
    heart.door.come(b"anna")
    await until(lambda: heart.supervisor.state(number) is AccountState.BAD_CREDENTIALS)
    assert heart.metrics.value(Metric.IM_CONNECTS, "auth_failed") == 1
    assert heart.network.connects == 1


async def test_an_account_that_is_asked_for_a_pause_does_not_rest_the_others(build_heart: Build) -> None:
    heart = build_heart(breaker_failures=2, breaker_s=60.0)
    heart.box("a").before_open.extend([raising(Transient("slower", retry_after_s=0.01))] * 5)
    heart.bind(heart.user("anna"), "a")
    heart.bind(heart.user("bert"), "b")
    heart.door.come(b"anna")
    await until(lambda: heart.box("a").opened == 1)
    heart.door.come(b"bert")
    await until(lambda: heart.box("b").opened == 1)


async def test_a_form_that_is_rejected_is_told_with_its_reason(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.box("a").before_open.append(raising(Rejected("host: there is no server of this name")))
    heart.bind(anna, "a")
    heart.door.come(b"anna")
    await until(lambda: heart.items(anna, ItemKind.ACCOUNT))
    assert heart.items(anna, ItemKind.ACCOUNT)[0].reason == "host: there is no server of this name"
    assert [account.reason for account in heart.accounts.accounts(anna)] == ["host: there is no server of this name"]


async def test_what_was_right_once_is_tried_again(build_heart: Build) -> None:
    heart = build_heart(retry_s=0.05, retry_max_s=0.05)
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.accounts.cursors[number] = b"12"
    heart.box("a").before_open.append(raising(Rejected("host: there is no server of this name")))
    heart.door.come(b"anna")
    await until(lambda: heart.supervisor.state(number) is AccountState.CONNECTED)
    assert not heart.items(anna, ItemKind.ACCOUNT)


async def test_an_outage_is_told_after_a_while_and_so_is_its_end(build_heart: Build) -> None:
    heart = build_heart(outage_s=0.8)
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.network.down.add("there")
    heart.door.come(b"anna")
    await asyncio.sleep(0.1)
    assert not heart.items(anna, ItemKind.ACCOUNT)
    await until(lambda: heart.items(anna, ItemKind.ACCOUNT))
    assert heart.supervisor.state(number) is AccountState.OUTAGE
    assert heart.items(anna, ItemKind.ACCOUNT)[0].reason
    heart.network.down.clear()
    await until(lambda: heart.supervisor.state(number) is AccountState.CONNECTED)
    assert [item.state for item in heart.items(anna, ItemKind.ACCOUNT)] == ["outage", "connected"]


async def test_a_short_outage_is_not_told(build_heart: Build) -> None:
    heart = build_heart(outage_s=0.8)
    anna = heart.user("anna")
    heart.bind(anna, "a")
    heart.network.down.add("there")
    heart.door.come(b"anna")
    await asyncio.sleep(0.05)
    heart.network.down.clear()
    await until(lambda: heart.network.connected == 1)
    await asyncio.sleep(0.9)
    assert not heart.items(anna, ItemKind.ACCOUNT)


async def test_a_connect_that_hangs_is_given_up(build_heart: Build) -> None:
    heart = build_heart(connect_s=0.3)
    heart.box("a").before_open.extend([hang, hang])
    heart.bind(heart.user("anna"), "a")
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    assert heart.network.connects == 3


async def test_a_network_that_asks_for_a_pause_gets_it(build_heart: Build) -> None:
    heart = build_heart()
    heart.box("a").before_open.append(raising(Transient("slower", retry_after_s=0.3)))
    heart.bind(heart.user("anna"), "a")
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    first, second = heart.network.begun
    assert 0.3 <= second - first < 3.0


async def test_what_a_connector_must_not_raise_is_counted_and_passes(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.box("a").before_open.extend(
        [raising(KeyError("anna@there")), raising(asyncio.CancelledError()), raising(ExceptionGroup("x", [OSError()]))]
    )
    heart.bind(anna, "a")
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    heart.box("a").cut(ZeroDivisionError("secret"))
    await until(lambda: heart.box("a").opened == 2)
    heart.box("a").cut(asyncio.CancelledError())
    await until(lambda: heart.box("a").opened == 3)
    assert heart.metrics.value(Metric.IM_FAULTS, "scripted") == 5


async def test_a_forgotten_cursor_is_a_gap_that_is_told_once(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.door.come(b"anna")
    heart.box("a").say("before")
    await until(lambda: heart.texts(anna) == ["before"])
    heart.box("a").say("lost")
    heart.box("a").forgotten_below = 2
    heart.box("a").cut()
    heart.log.failing = 1
    await until(lambda: heart.items(anna, ItemKind.GAP))
    heart.box("a").say("after")
    await until(lambda: "after" in heart.texts(anna))
    assert [item.account for item in heart.items(anna, ItemKind.GAP)] == [number]


async def test_a_cursor_forgotten_in_a_session_is_a_gap_too(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    heart.bind(anna, "a")
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    heart.box("a").cut(CursorForgotten())
    await until(lambda: heart.box("a").opened == 2)
    assert len(heart.items(anna, ItemKind.GAP)) == 1


async def test_a_host_that_is_down_is_tried_by_one_account_at_a_time(build_heart: Build) -> None:
    heart = build_heart(breaker_s=0.1, breaker_failures=5, retry_s=0.01, retry_max_s=0.02)
    for number in range(100):
        heart.bind(heart.user(f"u{number}"), f"u{number}", host="down")
    heart.bind(heart.user("other"), "other", host="up")
    heart.network.down.add("down")
    heart.network.connect_s = 0.01
    for number in range(100):
        heart.door.come(f"u{number}".encode())
    heart.door.come(b"other")
    await until(lambda: heart.network.connected == 1)
    await asyncio.sleep(0.6)
    # what was under way when it opened (connects_at_once), then one each 0.1 s
    assert heart.network.tries["down"] <= 5 + 32 + 8
    heart.network.down.clear()
    await until(lambda: heart.network.connected == 101)
    assert heart.network.most_connecting <= 32
    assert not heart.supervisor.breakers._circuits


async def test_the_probe_that_leaves_gives_its_turn_to_another(build_heart: Build) -> None:
    heart = build_heart(breaker_s=0.05, breaker_failures=1, connect_s=5.0, linger_s=0.0)
    heart.bind(heart.user("a"), "a", host="down")
    heart.bind(heart.user("b"), "b", host="down")
    heart.network.down.add("down")
    heart.door.come(b"a")
    await until(lambda: heart.supervisor.breakers.is_open("scripted down"))
    heart.door.come(b"b")
    await asyncio.sleep(0.01)
    heart.network.down.clear()
    heart.box("a").before_open.append(hang)
    await until(lambda: heart.network.connecting == 1)
    heart.door.go(b"a")
    await until(lambda: heart.box("b").opened == 1)


async def test_past_max_sessions_the_one_that_was_silent_longest_goes(build_heart: Build) -> None:
    heart = build_heart(max_sessions=3)
    numbers = {}
    for name in ("a", "b", "c", "d"):
        numbers[name] = heart.bind(heart.user(name), name)
    for name in ("a", "b", "c"):
        heart.door.come(name.encode())
        await asyncio.sleep(0.002)
    await until(lambda: heart.network.connected == 3)
    heart.supervisor.active(b"a".ljust(16, b"."))
    heart.door.come(b"d")
    await until(lambda: heart.box("d").opened == 1)
    assert heart.box("b").closed == 1
    assert heart.metrics.value(Metric.IM_SHED) == 1
    heart.door.go(b"c")
    await until(lambda: heart.box("b").opened == 2)  # there is room again
    assert heart.network.connected == 3


async def test_an_unbound_account_is_disconnected_and_its_queue_has_failed(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    heart.box("a").before_send.append(hang)
    for text in ("one", "two"):
        await heart.send(anna, number, text)
    await asyncio.sleep(0.02)
    heart.supervisor.unbound(number)
    heart.accounts.remove_account(number)
    await until(lambda: heart.network.connected == 0)
    results = list(heart.results(anna))
    assert [state for _, state, _ in results] == ["failed", "failed"]
    assert "may have arrived" in results[0][2]
    assert "unbound" in results[1][2]
    heart.supervisor.active(anna)
    await asyncio.sleep(0.05)
    assert heart.box("a").opened == 1


async def test_other_credentials_begin_a_session_anew(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    account = heart.accounts.account(number)
    assert account is not None
    heart.supervisor.bound(account)
    await until(lambda: heart.box("a").opened == 2)
    assert heart.network.connected == 1


async def test_contacts_come_from_the_open_session(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.box("a").contacts = [Contact("x"), Contact("y")]
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    assert [contact.remote_id for contact in await heart.supervisor.contacts(number)] == ["x", "y"]


async def test_typing_goes_out_now_or_never(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.outbox.typing(anna, number, Typing(CHAT, True))
    assert heart.metrics.value(Metric.IM_DROPPED, "typing") == 1
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    heart.outbox.typing(anna, number, Typing(CHAT, True))
    await until(lambda: heart.box("a").acts == [Typing(CHAT, True)])


async def test_the_end_is_bounded_whatever_hangs(build_heart: Build) -> None:
    heart = build_heart(close_s=0.1, request_s=30.0, connect_s=30.0)
    anna = heart.user("anna")
    for name in ("a", "b"):
        heart.bind(anna, name)
    heart.box("a").before_open.append(hang)
    heart.box("b").before_send.append(hang)
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    await heart.send(anna, "b", "x")
    await asyncio.sleep(0.02)
    begun = asyncio.get_running_loop().time()
    await heart.supervisor.stop()
    assert asyncio.get_running_loop().time() - begun < 6.0
    assert not heart.supervisor._lines
    assert heart.network.connected == 0


async def test_no_credential_is_in_what_is_logged(build_heart: Build, capsys: object) -> None:
    heart = build_heart()
    heart.bind(heart.user("anna"), "anna@there")
    heart.box("anna@there").before_open.append(raising(KeyError("right anna@there")))
    heart.door.come(b"anna")
    await until(lambda: heart.network.connected == 1)
    out = "".join(capsys.readouterr())  # type: ignore[attr-defined]
    assert "im_connector_fault" in out
    assert "anna@there" not in out
    assert "right" not in out


async def test_an_account_of_a_network_that_is_no_longer_served_takes_no_place(build_heart: Build) -> None:
    heart = build_heart()
    anna = heart.user("anna")
    number = heart.bind(anna, "a")
    heart.supervisor._connectors.clear()  # type: ignore[attr-defined]
    heart.door.come(b"anna")
    assert not heart.supervisor._lines
    assert heart.supervisor.state(number) is AccountState.OUTAGE
