"""What is brought to cards, as apps ask for it: started once, durable first, looked up, stopped (E6, E7)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import structlog
from card_door_doubles import CardHouse
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.cards.downloads import parse_commands
from gateway.config.ota_section import Ota
from gateway.model.cards import Download, DownloadState, DownloadStep, parse_card_id
from gateway.model.errors import BadRequest, QueueFull, StoreUnavailable
from gateway.model.registration import Limits

SELECT, UPDATE = "00A40004023F00", "00D6000002CAFE"


def ask(card: str, /, **changes: Any) -> dict[str, Any]:
    body = {"card": card, "commands": [SELECT, UPDATE], **changes}
    return {name: value for name, value in body.items() if value is not None}


def only(house: CardHouse) -> Download:
    (download,) = house.records.downloads.values()
    return download


async def test_a_download_is_durable_then_carried_out_and_found():
    house = CardHouse(ttl_s=77)
    card = await house.add()
    house.records.hold = []
    asking = asyncio.create_task(
        house.provider("POST", "/v1/downloads", 201, json=ask(card, notice="Go to a shop", tar="B00012"))
    )
    while not house.records.hold:
        await asyncio.sleep(0)
    assert house.engine.started == [], "not before it is durable"
    house.records.hold[0].set_result(None)
    download_id = (await asking)["id"]
    download = only(house)
    assert house.engine.started == [download]
    assert (download.app, download.card, download.tar) == ("chat", parse_card_id(card), bytes.fromhex("B00012"))
    assert download.expires_ms == download.created_ms + 77_000
    assert (download.notice, download.due_ms) == ("Go to a shop", download.created_ms)
    assert house.records.payloads[download.payload].commands == (bytes.fromhex(SELECT), bytes.fromhex(UPDATE))
    shown = await house.provider("GET", f"/v1/downloads/{download_id}")
    assert (shown["id"], shown["card"], shown["state"]) == (download_id, card, "waiting")
    assert (shown["commands"], shown["done"], shown["campaign"]) == (2, 0, None)
    assert [step["what"] for step in shown["steps"]] == ["accepted"]
    assert SELECT.lower() not in str(shown).lower()


async def test_it_can_wait_for_its_time():
    house = CardHouse()
    card = await house.add()
    at = 4_000_000_000
    await house.provider("POST", "/v1/downloads", 201, json=ask(card, at=at, ttl_s=60))
    assert (only(house).due_ms, only(house).expires_ms) == (at * 1000, at * 1000 + 60_000)
    house.records.downloads.clear()
    await house.provider("POST", "/v1/downloads", 201, json=ask(card, at=0))
    assert only(house).due_ms == only(house).created_ms


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"commands": []}, "commands"),
        ({"commands": None}, "commands"),
        ({"commands": [SELECT, "00A4"]}, "commands[1]"),
        ({"commands": ["00A40004023F"]}, "commands[0]"),
        ({"commands": ["0"]}, "commands[0]"),
        ({"commands": ["zz"]}, "commands[0]"),
        ({"commands": [SELECT] * 5}, "commands"),
        ({"commands": ["00D60000F0" + "AB" * 240]}, "commands"),
        ({"tar": "B0"}, "tar"),
        ({"notice": "Обновление"}, "notice"),
        ({"notice": "€" * 81}, "notice"),
        ({"notice": "a" * 161}, "notice"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"at": -1}, "at"),
        ({"at": 32_503_680_001}, "at"),
        ({"card": "4477009001230000"}, "card"),
        ({"idempotency_key": "k" * 129}, "idempotency_key"),
        ({"447700900123": 1}, None),
    ],
)
async def test_the_field_that_is_wrong_is_named(changes, field):
    house = CardHouse(payload_commands=4, payload_bytes=200)
    card = await house.add()
    error = (await house.provider("POST", "/v1/downloads", 400, json=ask(card, **changes)))["error"]
    assert (error["name"], error["field"]) == ("bad_request", field)
    for word in ("CAFE", "3F00", "447700900", "zz"):
        assert word not in error["message"]
    assert house.records.downloads == {}


@given(st.lists(st.binary(max_size=12).map(bytes.hex), max_size=4))
def test_any_commands_are_taken_or_a_bad_request(given_commands: list[str]) -> None:
    try:
        commands = parse_commands(given_commands, Ota())
    except BadRequest:
        return
    assert [command.hex() for command in commands] == given_commands


async def test_who_is_no_card_is_unknown_and_a_large_body_is_refused_unread():
    house = CardHouse(payload_bytes=1_000, payload_commands=10)
    await house.add()
    missing = "card_" + "0" * 32
    error = (await house.provider("POST", "/v1/downloads", 404, json=ask(missing)))["error"]
    assert error["name"] == "unknown_card"
    await house.provider("POST", "/v1/downloads", 413, content=b"x" * 70_000)


async def test_the_same_key_starts_it_once():
    house = CardHouse()
    card = await house.add()
    house.records.hold = []
    asking = [
        asyncio.create_task(
            house.provider("POST", "/v1/downloads", status, json=ask(card), headers={"idempotency-key": "k1"})
        )
        for status in (201, 200)
    ]
    while not house.records.hold:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    house.records.hold[0].set_result(None)
    first, second = await asyncio.gather(*asking)
    assert first == second
    house.records.hold = None
    assert await house.provider("POST", "/v1/downloads", 200, json=ask(card, idempotency_key="k1")) == first
    assert len(house.records.downloads) == len(house.engine.started) == 1
    other = await house.provider("POST", "/v1/downloads", 409, json=ask(card, ttl_s=5, idempotency_key="k1"))
    assert other["error"]["field"] == "idempotency_key"
    push = {"target": {"token": house.door.token}, "title": "hi", "idempotency_key": "k1"}
    await house.provider("POST", "/v1/push", 409, json=push)


async def test_trouble_is_told_and_nothing_is_started():
    house = CardHouse(waiting=3)
    card = await house.add()
    house.records.write_error = StoreUnavailable()
    await house.provider("POST", "/v1/downloads", 503, json=ask(card))
    house.records.write_error, house.records.commit_error = None, QueueFull()
    await house.provider("POST", "/v1/downloads", 503, json=ask(card))
    house.records.commit_error = None
    house.engine.waiting = 3
    error = (await house.provider("POST", "/v1/downloads", 503, json=ask(card)))["error"]
    assert error["name"] == "queue_full"
    assert house.engine.started == []


async def test_it_counts_against_the_quota_of_the_key():
    house = CardHouse()
    card = await house.add()
    app = house.door.floors.apps["chat"]
    house.door.floors.apps["chat"] = msgspec.structs.replace(app, limits=Limits(per_day=2))
    for status in (201, 201, 429):
        await house.provider("POST", "/v1/downloads", status, json=ask(card))
    assert len(house.records.downloads) == 2


async def test_it_is_stopped_and_one_that_is_over_stays_as_it_is():
    house = CardHouse()
    card = await house.add()
    download_id = (await house.provider("POST", "/v1/downloads", 201, json=ask(card)))["id"]
    assert (await house.provider("DELETE", f"/v1/downloads/{download_id}"))["state"] == "stopped"
    done = msgspec.structs.replace(only(house), state=DownloadState.DONE, done=2, way="link")
    house.records.downloads[done.number] = done
    shown = await house.provider("DELETE", f"/v1/downloads/{download_id}")
    assert (shown["state"], shown["way"]) == ("done", "link")


async def test_another_apps_download_is_as_unknown():
    house = CardHouse()
    card = await house.add()
    download_id = (await house.provider("POST", "/v1/downloads", 201, json=ask(card)))["id"]
    push_id = house.door.push_ids.build("chat", only(house).number)
    async with house.door.client(house.door.other_key) as other:
        for method in ("GET", "DELETE"):
            answer = await other.request(method, f"/v1/downloads/{download_id}")
            assert answer.json()["error"]["name"] == "unknown_download"
        assert (await other.get("/v1/downloads")).json() == {"downloads": [], "after": None}
    for wrong in (push_id, "x", download_id[:-1] + "_"):
        await house.provider("GET", f"/v1/downloads/{wrong}", 404)
    await house.provider("GET", f"/v1/push/{download_id}", 404)
    async with house.door.operator() as operator:
        assert (await operator.post("/v1/downloads", json=ask(card))).status_code == 403


async def test_they_are_listed_by_state_in_pages():
    house = CardHouse()
    card = await house.add()
    ids = [(await house.provider("POST", "/v1/downloads", 201, json=ask(card)))["id"] for _ in range(5)]
    newest = max(house.records.downloads)
    failed = msgspec.structs.replace(
        house.records.downloads[newest], state=DownloadState.FAILED, steps=(DownloadStep(1, "refused", "6A80"),)
    )
    house.records.downloads[newest] = failed
    page = await house.provider("GET", "/v1/downloads", params={"limit": 2})
    assert [each["id"] for each in page["downloads"]] == [ids[4], ids[3]]
    page = await house.provider("GET", "/v1/downloads", params={"limit": 4, "after": page["after"]})
    assert [each["id"] for each in page["downloads"]] == [ids[2], ids[1], ids[0]]
    assert page["after"] is None
    page = await house.provider("GET", "/v1/downloads", params={"state": "failed"})
    assert [each["steps"][0]["detail"] for each in page["downloads"]] == ["6A80"]
    for query in ({"state": "gone"}, {"after": "x"}, {"limit": 1_001}):
        error = (await house.provider("GET", "/v1/downloads", 400, params=query))["error"]
        assert error["field"] in query


async def test_no_log_line_has_a_byte_of_a_payload():
    house = CardHouse()
    card = await house.add()
    with structlog.testing.capture_logs() as captured:
        await house.provider("POST", "/v1/downloads", 201, json=ask(card))
        await house.provider("POST", "/v1/downloads", 400, json=ask(card, commands=["CAFECAFE"]))
    for word in ("CAFE", "cafe", "3F00", card):
        assert word not in str(captured)
