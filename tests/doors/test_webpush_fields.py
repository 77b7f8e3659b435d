"""The Web Push door where a field is there twice, where Host says who is meant, and where receipts are of others."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from api_doubles import Door
from web_push_sender import Sender

from gateway.api.webpush.headers import collect, parse_prefer
from gateway.api.webpush.receipts import PAGE
from gateway.model.errors import BadRequest, TooManyRequests
from gateway.model.outcome import Outcome, State
from gateway.model.ports import Receipt


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.fixture
def door() -> Door:
    return Door()


async def post(door: Door, fields: list[tuple[str, str]], url: str = "") -> httpx.Response:
    async with door.client() as web:
        return await web.post(url or f"/push/{door.token}", headers=fields)


def fields_of(sender: Sender, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [*sender.headers().items(), ("ttl", "60"), *more]


# --- twice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("TTL", "60", "0"),
        ("TTL", "60", "60"),
        ("Urgency", "low", "high"),
        ("Topic", "a", "!!"),
        ("Content-Encoding", "aes128gcm", "gzip"),
        ("Authorization", "vapid t=a, k=b", "Bearer x"),
        ("Push-Receipt", "a", "b"),
    ],
)
async def test_a_field_that_is_no_list_is_there_once(door, sender, name, first, second):
    """RFC 8030 §5.3 says so of Urgency; of the others two readers would take different ones."""
    given = [(key, value) for key, value in fields_of(sender) if key.lower() != name.lower()]
    answer = await post(door, [*given, (name, first), (name.lower(), second)])
    assert (answer.status_code, answer.json()["detail"]) == (400, f"{name} is there twice.")
    assert not door.floors.pushed


async def test_a_field_that_is_a_list_may_come_in_pieces(door, sender):
    answer = await post(door, fields_of(sender, ("prefer", "wait=5"), ("prefer", "respond-async")))
    assert answer.status_code == 202
    earlier = [("authorization", f"WebPush {sender.token()}"), ("ttl", "60"), ("content-encoding", "aesgcm")]
    keys = [("crypto-key", "dh=abc"), ("crypto-key", f"p256ecdsa={sender.key}"), ("encryption", "salt=x")]
    async with door.client() as web:
        answer = await web.post(f"/push/{door.token}", headers=[*earlier, *keys], content=b"x")
    assert answer.status_code == 201
    assert door.floors.pushed[-1][1].data["webpush"]["crypto_key"] == f"dh=abc, p256ecdsa={sender.key}"


def test_preferences_may_have_parameters():
    assert parse_prefer("respond-async; foo=1, wait=5") == (True, 5)
    assert collect([(b"prefer", b"a"), (b"x", b"1"), (b"x", b"2"), (b"prefer", b"b")]) == {"prefer": "a, b", "x": "1"}
    with pytest.raises(BadRequest):
        collect([(b"ttl", b"1"), (b"ttl", b"1")])


# --- whom a token is for ------------------------------------------------------------------------------------------


def told(door: Door, server: tuple[str, int] | None) -> None:
    """Requests come in at this address."""
    inner = door.asgi

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope | {"server": server}, receive, send)

    door.asgi = app  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("evil.example", False),
        ("evil.example:7480", False),
        ("10.1.2.3", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("a@localhost", False),
        ("", False),
        ("localhost", True),
        ("push.localhost:7480", True),
        ("127.0.0.1:7480", True),
        ("[::1]:7480", True),
        ("10.0.0.7:7480", True),
        ("Push.Example", True),
        ("push.example:7481", True),
    ],
)
async def test_a_token_for_another_service_is_not_good_here_under_its_name(door, sender, host, taken):
    """It was signed for another push service, which repeats it here and says in Host that this is it. Where nobody
    said how providers come, loopback, the address connected to and names in certificates are this gateway."""
    told(door, ("10.0.0.7", 7480))
    door.backend.bears = {"push.example"}.__contains__
    given = dict(fields_of(Sender(f"https://{host}")))
    async with door.client() as web:
        answer = await web.post(f"/push/{door.token}", headers={**given, "host": host})
    assert answer.status_code == (201 if taken else 403)
    assert bool(door.floors.pushed) == taken


async def test_where_it_is_said_how_providers_come_host_means_nothing():
    door = Door(public_urls=["https://push.example.com"])
    told(door, ("10.0.0.7", 7480))
    for audience, status in (("https://push.example.com", 201), ("https://localhost", 403)):
        given = dict(fields_of(Sender(audience)))
        async with door.client() as web:
            answer = await web.post(f"/push/{door.token}", headers={**given, "host": "localhost"})
        assert answer.status_code == status


# --- pages of other origins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/push/whatever", "/push/message/whatever", "/push/receipts/whatever"])
async def test_a_page_of_another_origin_may_do_all_that_is_done_with_the_url(door, path):
    async with door.client() as web:
        asked = await web.options(path)
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "*"
    allowed = asked.headers["access-control-allow-headers"]
    assert {"TTL", "Last-Event-ID", "Prefer"} <= {name.strip() for name in allowed.split(",")}


async def test_too_many_pushes_are_told_when_to_come_back(door, sender, monkeypatch):
    async def admit(*_: Any) -> None:
        raise TooManyRequests(after_ms=1_500)

    monkeypatch.setattr(door.backend, "admit_elsewhere", admit)
    answer = await post(door, fields_of(sender))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.headers["content-type"] == "application/problem+json"


# --- receipts among others ----------------------------------------------------------------------------------------


def settle(door: Door, *seqs: int) -> None:
    for seq in seqs:
        outcome = Outcome(seq, seq, 1, "chat", State.ACKED, 9, [])
        door.floors.feed.append(Receipt(door.floors.last_cursor("chat") + 1, outcome))
    for wake in list(door.floors.wakes):
        wake()


async def subscription(door: Door, sender: Sender) -> str:
    door.floors.apps["chat"] = msgspec.structs.replace(door.floors.apps["chat"], webpush="vapid")
    answer = await post(door, fields_of(sender, ("prefer", "respond-async")))
    return answer.headers["link"].partition(">")[0].lstrip("<")


async def test_a_receipt_behind_many_of_others_is_found_without_waiting(door, sender):
    url = await subscription(door, sender)
    settle(door, *range(5_000, 5_000 + 3 * PAGE), 1000)
    async with door.client() as web:
        answer = await web.get(url, headers={"prefer": "wait=0"})
    assert answer.status_code == 204


async def test_nothing_yet_says_from_where_to_ask_again(door, sender):
    """What was of others is not looked through once more each time."""
    url = await subscription(door, sender)
    settle(door, *range(5_000, 5_000 + 2 * PAGE))
    async with door.client() as web:
        answer = await web.get(url, headers={"prefer": "wait=0"})
        assert (answer.status_code, answer.headers["last-event-id"]) == (202, str(door.floors.last_cursor("chat")))
        settle(door, 1000)
        later = {"prefer": "wait=0", "last-event-id": answer.headers["last-event-id"]}
        assert (await web.get(url, headers=later)).status_code == 204


async def test_many_who_wait_look_in_turn(door, sender):
    """One slice a turn of the loop, however many there are, or all else would wait."""
    url = await subscription(door, sender)
    settle(door, *range(5_000, 5_000 + 20 * PAGE))
    looked: list[int] = []
    after = door.floors.after

    def counted(*asked: Any) -> Any:
        looked.append(turns)
        return after(*asked)

    door.floors.after = counted  # type: ignore[method-assign]
    turns = 0
    async with door.client() as web:
        asking = [asyncio.create_task(web.get(url, headers={"prefer": "wait=0"})) for _ in range(20)]
        while not all(task.done() for task in asking):
            turns += 1
            await asyncio.sleep(0)
    assert {task.result().status_code for task in asking} == {202}
    assert max(looked.count(turn) for turn in set(looked)) <= 2
