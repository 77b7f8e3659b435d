"""What a device asks for on its link: registrations and their bound, FETCH, STATE, UNREGISTER, and a revoked token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lmdb
import pytest
from bare_device import BareDevice, check_error, close_all, pack
from open_house import House, until

from gateway.metrics import Metric
from gateway.model.errors import InvalidField, StoreUnavailable, UnknownApp, UnknownToken
from gateway.model.frames import FrameType
from gateway.model.registration import App
from gateway.store.environment import Environment

Open = Callable[..., Any]


# --- REGISTER


async def test_an_app_that_does_not_exist_is_told_with_the_request_it_answers(house: House) -> None:
    device = house.device()
    await device.login()
    device.send(FrameType.REGISTER, {"req": 77, "app": "nobody", "version": "1.0"})
    await device.error(UnknownApp, req=77)
    assert await device.register("shop")


async def test_the_same_triple_has_one_token_and_every_other_another(house: House) -> None:
    """A1."""
    await house.create_app("chat")
    device, other = house.device(), house.device()
    await device.login()
    await other.login()
    tokens = {
        await device.register("shop", "anna", keep=True),
        await device.register("shop", "bert", keep=True),
        await device.register("shop", "", keep=True),
        await device.register("chat", "anna", keep=True),
        await other.register("shop", "anna", keep=True),
    }
    assert len(tokens) == 5
    assert await device.register("shop", "anna", version="2.0", keep=True) in tokens


async def test_accounts_and_apps_side_by_side_each_get_what_is_theirs(house: House) -> None:
    chat = await house.create_app("chat")
    device = house.device()
    await device.login()
    anna = await device.register("shop", "anna", keep=True)
    bert = await device.register("shop", "bert", keep=True)
    room = await device.register("chat", "anna", keep=True)
    await house.shop.push(anna, "for anna")
    await house.shop.push(bert, "for bert")
    await chat.push(room, "for the room")
    notes = {note["token"]: note["title"] for note in await device.notes(3, ack=True)}
    assert notes == {anna: "for anna", bert: "for bert", room: "for the room"}


async def test_a_link_takes_256_registrations_and_says_so_to_the_next(house: House) -> None:
    device = house.device()
    await device.login()
    body = {"req": 1, "app": "shop", "version": "1.0", "keep": True}
    raw = b"".join(pack(FrameType.REGISTER, {**body, "req": i, "account": f"a{i}"}) for i in range(300))
    device.send_raw(raw)
    await until(lambda: len(device.waiting(FrameType.TOKEN)) + len(device.waiting(FrameType.ERROR)) == 300)
    errors = device.waiting(FrameType.ERROR)
    assert len(errors) == 44
    for error in errors:
        check_error(error, InvalidField, req=error["req"])
        assert "256" in error["message"]
    # one that is bound already, and one in the place of all others, need no more room
    token = device.waiting(FrameType.TOKEN)[0]
    device.frames.clear()
    assert await device.register("shop", f"a{token['req']}", keep=True) == token["token"]
    assert await device.register("shop", "the only one")
    assert await device.register("shop", "and another", keep=True)


async def test_the_bound_holds_for_accounts_that_replace_each_other_in_many_apps(house: House) -> None:
    directory = house.gateway.store.directory
    for i in range(257):
        await directory.put_app(App(name=f"app{i}", created_at=1))
    device = house.device()
    await device.login()
    device.send_raw(
        b"".join(pack(FrameType.REGISTER, {"req": i, "app": f"app{i}", "version": "1.0"}) for i in range(257))
    )
    await until(lambda: len(device.waiting(FrameType.TOKEN)) == 256)
    assert "256" in (await device.error(InvalidField, req=256))["message"]
    assert await device.register("app7", "another account")


async def test_many_registrations_may_come_right_behind_hello(house: House) -> None:
    """Far more bytes than one frame may have before login."""
    device = await house.device().connect()
    registers = [
        pack(FrameType.REGISTER, {"req": i, "app": "shop", "version": "1.0", "account": f"{i:0100}", "keep": True})
        for i in range(200)
    ]
    device.send_raw(pack(FrameType.HELLO, {"v": 1}) + b"".join(registers))
    await device.until(lambda: len(device.waiting(FrameType.TOKEN)) == 200, "200 TOKENs")


async def test_a_registration_gets_its_labels_and_keeps_those_not_named(house: House) -> None:
    device = house.device()
    await device.login()
    token = await device.register(alias="anna", tags=["beta", "beta", "fr"])
    for target in ({"alias": "anna"}, {"tag": "fr"}):
        await house.shop.push(target, "labelled")
        assert (await device.note(ack=True))["token"] == token
    await device.register(tags=[])
    await house.shop.push({"tag": "fr"}, "to nobody")
    await house.shop.push({"alias": "anna"}, "still anna")
    assert (await device.note(ack=True))["title"] == "still anna"


# --- UNREGISTER


async def test_unregister_stops_delivery_until_the_account_is_back(house: House) -> None:
    device = house.device()
    token = await device.join()
    await device.ask(FrameType.UNREGISTER, token=token)
    push = await house.shop.push(token, "later")
    await device.sync()
    assert not device.waiting()
    assert (await house.shop.delivery(push))["state"] == "waiting"
    assert await device.register() == token
    assert (await device.note(ack=True))["title"] == "later"
    await house.shop.reaches(push, "acked")


async def test_unregister_for_good_rejects_what_is_pending_and_the_next_token_is_another(house: House) -> None:
    device = house.device()
    token = await device.join()
    in_flight = await house.shop.push(token, "in flight")
    note = await device.note()
    await device.ask(FrameType.UNREGISTER, token=token, forget=True)
    assert (await house.shop.delivery(in_flight))["state"] == "rejected"
    assert house.gateway.store.journal.pending_count() == 0
    answer = await house.shop.call("POST", "/v1/push", json={"target": {"token": token}, "title": "gone"})
    assert answer.json()["error"]["name"] == "unknown_token"
    device.ack(note["id"])
    fresh = await device.register()
    assert fresh != token
    push = await house.shop.push(fresh, "new")
    assert (await device.note(ack=True))["token"] == fresh
    await house.shop.reaches(push, "acked")


async def test_a_token_not_bound_on_this_link_is_unknown_whosever_it_is(house: House) -> None:
    device, other = house.device(), house.device()
    await device.login()
    foreign = await other.join()
    former = await device.register("shop", "anna")
    await device.register("shop", "bert")
    answers = []
    for token in (foreign, former, "x" * 22, "", "!!"):
        for kind in (FrameType.UNREGISTER, FrameType.FETCH):
            device.send(kind, {"req": 6, "token": token})
            answers.append(await device.error(UnknownToken, req=6))
    assert all(answer == answers[0] for answer in answers)
    await house.shop.push(foreign, "still there")
    assert (await other.note(ack=True))["title"] == "still there"


# --- a token revoked by its provider


async def test_a_token_revoked_while_connected_gets_nothing_more_and_a_new_one_at_the_next_register(
    house: House,
) -> None:
    device = house.device()
    token = await device.join()
    pending = await house.shop.push(token, "pending")
    await device.note()
    await house.shop.revoke(token)
    assert (await house.shop.delivery(pending))["state"] == "rejected"
    broadcast = await house.shop.push({"everyone": True}, "to all")
    await device.sync()
    assert not device.waiting()
    assert await until(lambda: house.counter("inflight") == 0)
    device.send(FrameType.FETCH, {"req": 5, "token": token})
    await device.error(UnknownToken, req=5)
    fresh = await device.register()
    assert fresh != token
    # the broadcast was for everyone, and lives on
    assert (await device.note(ack=True))["title"] == "to all"
    push = await house.shop.push(fresh, "new")
    assert (await device.note(ack=True))["title"] == "new"
    await house.shop.reaches(push, "acked")
    await until(lambda: _figure(house, broadcast, "acked", 1))


async def _figure(house: House, push: str, name: str, value: int) -> bool:
    return (await house.shop.figures(push)).get(name) == value


async def test_the_other_registrations_of_a_device_outlive_a_revocation(house: House) -> None:
    device = house.device()
    await device.login()
    gone = await device.register("shop", "anna", keep=True)
    stays = await device.register("shop", "bert", keep=True)
    await house.shop.revoke(gone)
    await house.shop.push(stays, "still here")
    assert (await device.note(ack=True))["title"] == "still here"
    await device.sync()


async def test_a_revocation_the_store_refuses_changes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, expected_errors: set[str]
) -> None:
    expected_errors.add("store_not_writable")
    device = house.device()
    token = await device.join()

    def fail(*_: Any) -> None:
        raise lmdb.DiskError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(Environment, "apply", fail)
        device.send(FrameType.UNREGISTER, {"req": 3, "token": token, "forget": True})
        await device.error(StoreUnavailable, req=3)
    await until(lambda: house.gateway.store.journal.writable)
    push = await house.shop.push(token, "as before")
    assert (await device.note(ack=True))["title"] == "as before"
    await house.shop.reaches(push, "acked")


async def test_tokens_unknown_revoked_or_foreign_get_the_very_same_answer(house: House) -> None:
    chat = await house.create_app("chat")
    device = house.device()
    await device.login()
    foreign = await device.register("chat")
    revoked = await device.register("shop")
    await house.shop.revoke(revoked)
    unknown = "A" * 22
    for method, path, options in (
        ("POST", "/v1/push", {"json": {"target": {"token": "TOKEN"}, "title": "x"}}),
        ("GET", "/v1/registrations/TOKEN", {}),
        ("DELETE", "/v1/registrations/TOKEN", {}),
        ("PUT", "/v1/registrations/TOKEN", {"json": {"alias": "x"}}),
    ):
        answers = set()
        for token in (foreign, revoked, unknown, "nonsense", "A" * 21):
            body = {
                key: {"target": {"token": token}, "title": "x"} if "target" in value else value
                for key, value in options.items()
            }
            answer = await house.shop.call(method, path.replace("TOKEN", token), **body)
            names = {name for name in answer.headers if name not in ("date", "x-request-id")}
            answers.add((answer.status_code, answer.content, frozenset(names)))
        assert len(answers) == 1, (method, path)
        assert next(iter(answers))[0] == 404
    assert await chat.is_connected(foreign)


# --- STATE


async def test_a_heartbeat_asked_for_is_brought_inside_the_bounds_and_holds_from_then_on(open_house: Open) -> None:
    """A6."""
    house = await open_house({"edge.heartbeat_min_s": 1, "edge.heartbeat_max_s": 100})
    device = house.device()
    await device.login()
    assert (await device.ask(FrameType.STATE, heartbeat=86_400))["heartbeat"] == 100
    assert "heartbeat" not in await device.ask(FrameType.STATE, foreground=True)
    assert (await device.ask(FrameType.STATE, heartbeat=1))["heartbeat"] == 1
    await device.end(timeout_s=5)  # silent for 1.5 intervals
    assert house.ended("heartbeat_timeout") == 1


async def test_what_is_below_the_urgency_floor_waits_and_goes_when_the_floor_sinks(house: House) -> None:
    device = house.device()
    token = await device.join(urgency=3)
    low = await house.shop.push(token, "low", urgency="low")
    broadcast = await house.shop.push({"everyone": True}, "broadcast", urgency="normal")
    urgent = await house.shop.push(token, "urgent", urgency="high")
    assert (await device.note(ack=True))["title"] == "urgent"
    await house.shop.reaches(urgent, "acked")
    await device.sync()
    assert not device.waiting()
    await device.ask(FrameType.STATE, urgency=2)
    assert (await device.note(ack=True))["title"] == "broadcast"
    await device.sync()
    assert not device.waiting()
    assert (await house.shop.delivery(low))["state"] == "waiting"
    await device.ask(FrameType.STATE, urgency=0)
    assert (await device.note(ack=True))["title"] == "low"
    await house.shop.reaches(low, "acked")
    await until(lambda: _figure(house, broadcast, "acked", 1))


async def test_the_floor_is_forgotten_with_the_link(house: House) -> None:
    device = house.device()
    token = await device.join(urgency=3)
    push = await house.shop.push(token, "low", urgency="low")
    await close_all(device)
    await device.join()
    assert (await device.note(ack=True))["title"] == "low"
    await house.shop.reaches(push, "acked")


# --- FETCH


async def fetch_all(device: BareDevice, token: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """FETCH until nothing more; returns (notifications, answers)."""
    notes: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    while not answers or answers[-1].get("more"):
        answers.append(await device.ask(FrameType.FETCH, FrameType.FETCHED, token=token))
        came = device.waiting()
        assert len(came) >= answers[-1]["count"]
        while device.take(FrameType.NOTIFY):
            pass
        device.ack(*[note["id"] for note in came])
        notes += came
    return notes, answers


async def test_a_fetch_gets_what_is_saved_for_the_token_and_for_its_app_and_version_each_once(house: House) -> None:
    """A4, below a floor that lets nothing through by itself."""
    device = house.device()
    token = await device.join(urgency=3)
    for i in range(3):
        await house.shop.push(token, f"mine {i}")
        await house.shop.push({"versions": ">=1"}, f"all {i}")
    await house.shop.push({"versions": ">=2"}, "not for 1.0")
    notes, answers = await fetch_all(device, token)
    assert [note["title"] for note in notes] == ["mine 0", "all 0", "mine 1", "all 1", "mine 2", "all 2"]
    assert answers == [{"req": 9, "count": 6}]
    assert (await fetch_all(device, token))[1] == [{"req": 9, "count": 0}]


async def test_a_fetch_of_more_than_the_window_says_so_until_all_came(open_house: Open) -> None:
    house = await open_house({"edge.window": 8})
    device = house.device()
    token = await device.join(urgency=3, window=4)
    await house.shop.push_many([{"target": {"token": token}, "title": f"{i}"} for i in range(50)])
    notes, answers = await fetch_all(device, token)
    assert [int(note["title"]) for note in notes] == list(range(50))
    assert all(answer.get("more") for answer in answers[:-1])
    assert sum(answer["count"] for answer in answers) == 50
    await device.sync()
    assert house.gateway.store.journal.pending_count() == 0


async def test_a_fetch_of_ids_sends_those_that_are_there_and_the_tokens(house: House) -> None:
    device, other = house.device(), house.device()
    token, foreign = await device.join(urgency=3), await other.join()
    kept = await house.shop.push(token, "kept")
    recalled = await house.shop.push(token, "recalled")
    await house.shop.push(foreign, "foreign")
    theirs = await other.note()
    await fetch_titles(device, token, [], ["kept", "recalled"])
    ids = {note["title"]: note["id"] for note in device.waiting()}
    device.frames.clear()
    await house.shop.recall(recalled)
    await device.receive(FrameType.RECALL)
    await close_all(device)
    await device.join(urgency=3)
    asked = [ids["kept"], ids["recalled"], theirs["id"], 1 << 63, 0]
    await fetch_titles(device, token, asked, ["kept"])
    assert house.value(Metric.ACKS_FOREIGN) == 1
    device.ack(device.waiting()[0]["id"])
    await house.shop.reaches(kept, "acked")


async def fetch_titles(device: BareDevice, token: str, ids: list[int], titles: list[str]) -> None:
    answer = await device.ask(FrameType.FETCH, FrameType.FETCHED, token=token, ids=ids)
    assert [note["title"] for note in device.waiting()] == titles
    assert answer["count"] == len(titles)


async def test_pipelined_requests_are_carried_out_in_their_order_also_behind_one_that_waits_for_a_commit(
    house: House,
) -> None:
    """A5: the account registered last is the one in use, however long the first one's commit takes."""
    device = house.device()
    await device.login()
    known = await device.register("shop", "known")
    for req, account in ((11, "new"), (12, "known"), (13, "newer"), (14, "known")):
        device.send(FrameType.REGISTER, {"req": req, "app": "shop", "version": "1.0", "account": account})
    answers = [await device.receive(FrameType.TOKEN) for _ in range(4)]
    assert [answer["req"] for answer in answers] == [11, 12, 13, 14]
    assert answers[1]["token"] == answers[3]["token"] == known
    registry = house.gateway.store.directory.registry
    numbers = [house.gateway.store.directory.find(answer["token"], "shop") for answer in answers]
    assert [bool(registry.link(number)) for number in numbers] == [False, True, False, True]
    await house.shop.push(known, "for the one in use")
    assert [note["title"] for note in await device.notes(1, ack=True)] == ["for the one in use"]


async def test_a_device_that_changes_its_registrations_over_and_over_is_held_back(open_house: Open) -> None:
    house = await open_house({"edge.device_changes_per_minute": 3})
    device, other = house.device(), house.device()
    await device.login()
    await other.login()
    for version in ("1.0", "1.1", "1.2"):
        await device.register("shop", "anna", version=version)
    device.send(FrameType.REGISTER, {"req": 9, "app": "shop", "version": "1.3", "account": "anna"})
    error = await device.receive(FrameType.ERROR)
    assert (error["req"], error["name"], error["retry"]) == (9, "too_many_requests", True)
    assert error["after_ms"] > 0
    assert await other.register("shop", "bert")
