"""Users of the gateway among themselves, over device links and REST, with no network bound: signing in, friends,
messages, groups, receipts, presence, and what a device finds when it was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from open_house import House, until
from PIL import Image

from gateway.client import Device, Im, ImMedia
from gateway.model.errors import GatewayError, NotSignedIn
from gateway.model.im_people import Item, ItemKind

Open = Callable[..., Any]
SETTINGS = {
    "im.app": "im",
    "im.networks": [],
    "im.phone_codes": "log",
    "im.mail_codes": "log",
    "im.linger_s": 0.0,
    "im.presence_s": 0.05,
}


class Person:
    """A user with one device."""

    def __init__(self, house: House, address: str) -> None:
        self.house = house
        self.address = address
        self.items: list[Item] = []
        self.told: list[Item] = []
        self.user = ""
        self._stack = AsyncExitStack()

    async def come(self) -> None:
        self.device = await self._stack.enter_async_context(Device("127.0.0.1", self.house.gateway.edge.port))
        self.im = Im(await self.device.register("im", "1.0"))
        self.im.on_told(self.told.append)
        reading = asyncio.create_task(self._read())
        self._stack.callback(reading.cancel)

    async def _read(self) -> None:
        async for item in self.im.items():
            self.items.append(item)

    async def sign_in(self, name: str) -> None:
        with structlog.testing.capture_logs() as logs:
            await self.im.register(self.address)
            await until(lambda: any(line["event"] == "im.code" for line in logs))
        code = next(line["code"] for line in logs if line["event"] == "im.code")
        verified = await self.im.verify(self.address, code, name)
        self.user = verified["user"]

    def of(self, kind: ItemKind) -> list[Item]:
        return [item for item in self.items if item.kind is kind]

    async def leave(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def house(open_house: Open) -> House:
    opened: House = await open_house(SETTINGS)
    return opened


@pytest.fixture
async def people(house: House) -> AsyncIterator[tuple[Person, Person]]:
    """Two users who are friends."""
    ann, bob = Person(house, "+491511234567"), Person(house, "bob@mail.example")
    for person, name in ((ann, "Ann"), (bob, "Bob")):
        await person.come()
        await person.sign_in(name)
    await ann.im.ask("ask_friend", to=bob.user)
    await until(lambda: bob.of(ItemKind.FRIEND_REQUEST))
    await bob.im.ask("answer_friend", user=ann.user, accept=True)
    await until(lambda: ann.of(ItemKind.FRIEND_ANSWER))
    yield ann, bob
    for person in (ann, bob):
        await person.leave()


async def test_a_message_arrives_is_delivered_and_is_read(people: tuple[Person, Person]) -> None:
    ann, bob = people
    (verdict,) = await ann.im.send({"user": bob.user}, "Bist du da? 👋")
    assert verdict["state"] == "sent"
    await until(lambda: bob.of(ItemKind.MESSAGE))
    (heard,) = bob.of(ItemKind.MESSAGE)
    assert heard.envelope is not None
    assert heard.envelope.text == "Bist du da? 👋"
    assert heard.envelope.network == "own"
    assert heard.envelope.sender.display == "Ann"
    assert heard.envelope.conversation.remote_id == ann.user
    await until(lambda: ann.of(ItemKind.DELIVERED))
    await bob.im.mark_read(0, ann.user, heard.envelope.remote_id)
    await until(lambda: [item for item in ann.of(ItemKind.READ) if item.by and item.by.remote_id == bob.user])


async def test_presence_and_typing_are_told_and_kept_nowhere(people: tuple[Person, Person]) -> None:
    ann, bob = people
    await ann.im.typing(0, bob.user)
    await until(lambda: [item for item in bob.told if item.state == "typing"])
    assert bob.user in (await ann.im.ask("presence"))["available"]
    await bob.leave()
    await until(lambda: any(item.state == "away" for item in ann.told))
    assert not [item async for item in ann.im.catch_up(0) if item.state in ("typing", "away")]


async def test_who_was_away_gets_it_once_it_is_back_in_order(people: tuple[Person, Person]) -> None:
    ann, bob = people
    store = bob.device._credentials
    await bob.leave()
    for number in range(20):
        await ann.im.send({"user": bob.user}, f"message {number}")
    assert store is not None
    back = Device("127.0.0.1", bob.house.gateway.edge.port)
    await back._store.save(store)
    async with back:
        im = Im(await back.register("im", "1.0"))
        texts: list[str] = []
        async for item in im.items():
            if item.kind is ItemKind.MESSAGE and item.envelope is not None:
                texts.append(item.envelope.text)
            if len(texts) == 20:
                break
    assert texts == [f"message {number}" for number in range(20)]


async def test_more_than_are_kept_for_a_device_come_from_the_log(open_house: Open) -> None:
    house: House = await open_house({**SETTINGS, "store.max_pending_per_registration": 5})
    ann, bob = Person(house, "+491511234567"), Person(house, "bob@mail.example")
    for person in (ann, bob):
        await person.come()
        await person.sign_in("")
    await ann.im.ask("ask_friend", to=bob.user)
    await until(lambda: bob.of(ItemKind.FRIEND_REQUEST))
    await bob.im.ask("answer_friend", user=ann.user, accept=True)
    store = bob.device._credentials
    assert store is not None
    await bob.leave()
    for number in range(12):
        await ann.im.send({"user": bob.user}, f"message {number}")
    bob.items.clear()
    bob.device = Device("127.0.0.1", house.gateway.edge.port)
    await bob.device._store.save(store)
    async with bob.device:
        bob.im = Im(await bob.device.register("im", "1.0"))
        reading = asyncio.create_task(bob._read())
        await until(lambda: len(bob.items) == 5)
        await ann.im.send({"user": bob.user}, "message 12")
        await until(lambda: len(bob.items) == 13)
        await ann.im.send({"user": bob.user}, "message 13")
        await until(lambda: len(bob.items) == 14)
        reading.cancel()
    assert [item.envelope.text for item in bob.items if item.envelope] == [f"message {n}" for n in range(14)]
    await ann.leave()


async def test_a_group_hears_what_one_of_it_says(people: tuple[Person, Person]) -> None:
    ann, bob = people
    group = (await ann.im.ask("create_group", name="Fahrt", members=[bob.user]))["group"]
    await until(lambda: bob.of(ItemKind.GROUP))
    await bob.im.send({"group": group}, "wann?")
    await until(lambda: ann.of(ItemKind.MESSAGE))
    envelope = ann.of(ItemKind.MESSAGE)[0].envelope
    assert envelope is not None
    assert (envelope.conversation.kind, envelope.conversation.remote_id) == ("room", group)


async def test_a_long_message_is_read_from_the_log(people: tuple[Person, Person]) -> None:
    ann, bob = people
    text = "ü" * 8_000
    await ann.im.send({"user": bob.user}, text)
    await until(lambda: bob.of(ItemKind.MESSAGE))
    envelope = bob.of(ItemKind.MESSAGE)[0].envelope
    assert envelope is not None
    assert envelope.text == text


async def test_nobody_may_ask_before_signing_in(house: House) -> None:
    person = Person(house, "+491511234568")
    await person.come()
    with pytest.raises(NotSignedIn):
        await person.im.accounts()
    with pytest.raises(GatewayError):
        await person.im.verify(person.address, "000000")
    await person.leave()


async def test_the_same_over_rest(people: tuple[Person, Person]) -> None:
    ann, bob = people
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ann.house.gateway.api.port}") as http:
        with structlog.testing.capture_logs() as logs:
            sent = await http.post("/v1/im/register", json={"address": ann.address})
            assert sent.status_code == 200, sent.text
            await until(lambda: any(line["event"] == "im.code" for line in logs))
        code = next(line["code"] for line in logs if line["event"] == "im.code")
        verified = await http.post("/v1/im/verify", json={"address": ann.address, "code": code})
        assert verified.status_code == 200, verified.text
        key = {"authorization": f"Bearer {verified.json()['key']}"}
        me = (await http.get("/v1/im/me", headers=key)).json()
        assert me["user"] == ann.user
        body = {"to": [{"user": bob.user}], "text": "von hier"}
        sent = await http.post("/v1/im/messages", json=body, headers=key)
        assert sent.json()["results"][0]["state"] == "sent"
        page = (await http.get("/v1/im/history", params={"after": 0, "limit": 500}, headers=key)).json()
        assert "von hier" in [item["envelope"]["text"] for item in page["items"] if "envelope" in item]
        assert (await http.get("/v1/im/me")).status_code == 401
        assert (await http.get("/v1/im/history?limit=x", headers=key)).status_code == 400
        wrong = await http.post("/v1/im/messages", json={"to": [], "txet": "x"}, headers=key)
        assert wrong.status_code == 400
    await until(lambda: bob.of(ItemKind.MESSAGE))


async def test_who_was_away_long_reads_long_messages_too(people: tuple[Person, Person]) -> None:
    ann, bob = people
    wanted = [f"{number} " + "ü" * 5_000 for number in range(20)]
    for text in wanted:
        await ann.im.send({"user": bob.user}, text)
    items = [item async for item in bob.im.catch_up(0)]
    assert [item.envelope.text for item in items if item.envelope is not None] == wanted


async def _sign_out_everywhere(http: httpx.AsyncClient, person: Person, how: str) -> None:
    with structlog.testing.capture_logs() as logs:
        await http.post("/v1/im/register", json={"address": person.address})
        await until(lambda: any(line["event"] == "im.code" for line in logs))
    code = next(line["code"] for line in logs if line["event"] == "im.code")
    verified = await http.post("/v1/im/verify", json={"address": person.address, "code": code})
    key = {"authorization": f"Bearer {verified.json()['key']}"}
    if how == "removed":
        answer = await http.delete("/v1/im/me", headers=key)
    else:
        answer = await http.post("/v1/im/sign_out", json={"everywhere": True}, headers=key)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("how", ["signed out", "removed"])
async def test_nothing_waits_on_a_device_for_a_user_who_left_it(people: tuple[Person, Person], how: str) -> None:
    ann, bob = people
    store = bob.device._credentials
    assert store is not None
    await bob.leave()
    await ann.im.send({"user": bob.user}, "for Bob alone")
    house = bob.house
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.gateway.api.port}") as http:
        await _sign_out_everywhere(http, bob, how)
    await house.restart()
    cleo = Person(house, "cleo@mail.example")
    cleo.device = Device("127.0.0.1", house.gateway.edge.port)
    await cleo.device._store.save(store)
    async with cleo.device:
        cleo.im = Im(await cleo.device.register("im", "1.0"))
        reading = asyncio.create_task(cleo._read())
        await cleo.sign_in("Cleo")
        await cleo.im.ask("ask_friend", to=ann.user)
        await ann.im.ask("answer_friend", user=cleo.user, accept=True)
        await ann.im.send({"user": cleo.user}, "for Cleo")
        await until(lambda: cleo.of(ItemKind.MESSAGE))
        reading.cancel()
    assert [item.envelope.text for item in cleo.of(ItemKind.MESSAGE) if item.envelope] == ["for Cleo"]


async def test_who_signs_in_on_a_device_of_somebody_else_finds_nothing_of_theirs(people: tuple[Person, Person]) -> None:
    ann, bob = people
    store = bob.device._credentials
    assert store is not None
    await bob.leave()
    for number in range(5):
        await ann.im.send({"user": bob.user}, f"for Bob alone {number}")
    cleo = Person(bob.house, "cleo@mail.example")
    cleo.device = Device("127.0.0.1", bob.house.gateway.edge.port)
    await cleo.device._store.save(store)
    async with cleo.device:
        # it is on line, what was for Bob comes, and nobody reads it
        cleo.im = Im(await cleo.device.register("im", "1.0"))
        await until(lambda: cleo.im.registration.queued > 4)
        cleo.im.cursor = 99
        await cleo.sign_in("Cleo")
        reading = asyncio.create_task(cleo._read())
        assert [item async for item in cleo.im.catch_up()] == []
        await asyncio.sleep(0.05)
        reading.cancel()
    assert cleo.items == []


async def test_everything_is_there_after_a_restart(people: tuple[Person, Person]) -> None:
    ann, bob = people
    await ann.im.send({"user": bob.user}, "behalte das")
    await until(lambda: bob.of(ItemKind.MESSAGE))
    await ann.house.restart()
    items = [item async for item in bob.im.catch_up(0)]
    assert [item.envelope.text for item in items if item.envelope is not None] == ["behalte das"]


async def test_who_is_nobody_yet_may_not_try_for_ever(open_house: Open) -> None:
    house: House = await open_house(SETTINGS | {"im.strangers_per_hour": 3})
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.gateway.api.port}") as http:
        tries = [
            await http.post("/v1/im/verify", json={"address": "+491511234567", "code": "123456"}) for _ in range(5)
        ]
    assert [answer.status_code for answer in tries[3:]] == [429, 429]
    assert int(tries[3].headers["retry-after"]) > 0
    assert 429 not in [answer.status_code for answer in tries[:3]]


async def test_both_devices_of_a_user_hear_everything_and_what_the_other_said(people: tuple[Person, Person]) -> None:
    ann, bob = people
    second = Person(ann.house, ann.address)
    await second.come()
    await second.sign_in("Ann")
    assert second.user == ann.user
    await bob.im.send({"user": ann.user}, "an beide")
    await ann.im.send({"user": bob.user}, "von der ersten")
    await until(lambda: len(second.of(ItemKind.MESSAGE)) == 2 and len(ann.of(ItemKind.MESSAGE)) == 2)
    said = [(item.envelope.text, item.envelope.sender.is_self) for item in second.of(ItemKind.MESSAGE) if item.envelope]
    assert sorted(said) == [("an beide", False), ("von der ersten", True)]
    await second.im.ask("sign_out")
    await bob.im.send({"user": ann.user}, "nur noch an die erste")
    await until(lambda: len(ann.of(ItemKind.MESSAGE)) == 3)
    assert len(second.of(ItemKind.MESSAGE)) == 2
    await second.leave()


async def test_another_user_on_the_same_device_gets_nothing_of_the_first(people: tuple[Person, Person]) -> None:
    ann, bob = people
    cid = Person(ann.house, "cid@mail.example")
    cid.device, cid.im = ann.device, ann.im
    await cid.sign_in("Cid")
    assert cid.user != ann.user
    await bob.im.send({"user": ann.user}, "nur für Ann")
    await until(lambda: bob.of(ItemKind.MESSAGE))
    assert ann.of(ItemKind.MESSAGE) == []
    assert [item async for item in cid.im.catch_up(0)] == []


async def test_a_device_brings_a_picture_and_the_friend_fetches_it(
    people: tuple[Person, Person], tmp_path: Path
) -> None:
    ann, bob = people
    file = tmp_path / "gradient.png"
    Image.linear_gradient("L").resize((1_500, 1_200)).convert("RGB").save(file, "PNG", compress_level=0)
    url = f"http://127.0.0.1:{ann.house.gateway.api.port}"
    async with ImMedia(url, await ann.im.session_key()) as media:
        ref = await media.upload(file)
    (verdict,) = await ann.im.send({"user": bob.user}, "sieh", media=[ref])
    assert verdict["state"] == "sent"
    await until(lambda: bob.of(ItemKind.MESSAGE))
    envelope = bob.of(ItemKind.MESSAGE)[0].envelope
    assert envelope is not None
    (picture,) = envelope.media
    assert (picture.mime, picture.width, picture.height, picture.name) == ("image/png", 1_500, 1_200, "gradient.png")
    async with ImMedia(url, await bob.im.session_key()) as media:
        assert b"".join([piece async for piece in media.fetch(picture.ref)]) == file.read_bytes()
        assert b"".join([piece async for piece in media.fetch(picture.thumbnail)])[:4] != b""


async def test_a_log_that_goes_back_no_further_or_is_another_says_so(people: tuple[Person, Person]) -> None:
    ann, _ = people
    items = [item async for item in ann.im.catch_up(1 << 40)]
    assert items[0].kind is ItemKind.GAP
    assert [item.kind for item in items[1:]] == [item.kind async for item in ann.im.catch_up(0)]


async def test_only_what_one_has_sent_oneself_can_be_changed(people: tuple[Person, Person]) -> None:
    ann, bob = people
    (verdict,) = await ann.im.send({"user": bob.user}, "um acht")
    (changed,) = await ann.im.send({"user": bob.user}, "um neun", replaces=verdict["remote_id"])
    assert changed["state"] == "sent"
    for other in ("m_nothing", verdict["remote_id"]):
        (forged,) = await bob.im.send({"user": ann.user}, "nie", replaces=other)
        assert (forged["state"], forged["field"]) == ("refused", "replaces")
    await until(lambda: len(bob.of(ItemKind.MESSAGE)) == 2)
    envelope = bob.of(ItemKind.MESSAGE)[1].envelope
    assert envelope is not None
    assert (envelope.kind, envelope.replaces) == ("edit", verdict["remote_id"])
