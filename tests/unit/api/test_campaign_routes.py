"""Campaigns at the provider door: made once, lists by the line, looked at, paused, resumed, stopped; real campaigns
over records in RAM."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from api_doubles import Door, error_of
from campaign_rig import CardView, Scene
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.cards.campaigns import read_commands
from gateway.api.cards.ports import CardDoor
from gateway.api.server import build_app
from gateway.model.cards import CampaignState, DownloadState, build_card_id
from gateway.model.errors import BadRequest

COMMANDS = ["00A40004023F00", "00D6000002CAFE"]


class House:
    """A door with campaigns behind it."""

    def __init__(self, **settings: Any) -> None:
        self.scene = Scene(**settings)
        self.scene.now = time.time_ns() // 1_000_000
        self.door = Door()
        records: Any = CardView(self.scene.records)
        downloads: Any = self.scene.records
        engine: Any = self.scene.engine
        self.door.backend.cards = CardDoor(
            config=self.scene.config,
            records=records,
            download_records=downloads,
            downloads=engine,
            capabilities=engine,
            campaigns=self.scene.campaigns,
        )
        self.door.backend.now_ms = lambda: self.scene.now
        self.door.asgi = build_app(self.door.backend)

    async def __aenter__(self) -> House:
        await self.scene.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.scene.__aexit__()

    async def call(self, method: str, path: str, status: int = 200, key: str = "", **options: Any) -> Any:
        async with self.door.client(key or self.door.app_key) as client:
            answer = await client.request(method, "/v1/campaigns" + path, **options)
        assert answer.status_code == status, answer.text
        assert COMMANDS[1].lower() not in answer.text.lower()
        return error_of(answer) if status >= 400 else answer.json()

    async def make(self, status: int = 201, **fields: Any) -> Any:
        body = {"name": "n", "commands": COMMANDS, **fields}
        return await self.call("POST", "", status, json=body)

    def number(self, campaign_id: str) -> int:
        number = self.door.push_ids.campaigns.parse(campaign_id, "chat")
        assert number is not None
        return number


async def test_a_campaign_of_a_query_from_making_to_its_last_card():
    async with House(ttl_s=50) as house:
        house.scene.records.add_cards(250, "batch-7")
        house.scene.records.add_card("other")
        made = await house.make(
            query="tag:batch-7", tar="B00012", notice="Go to a shop", per_s=1e5, at_once=40, canary={"share": 0.1}
        )
        assert (made["state"], made["taken"]) == ("gathering", None)
        await house.scene.until_state(house.number(made["id"]), CampaignState.DONE)
        view = await house.call("GET", "/" + made["id"])
        assert (view["state"], view["results"], view["over"], view["held"]) == ("done", {"done": 250}, 250, 0)
        assert view["canary"] == {"share": 0.1, "success": 0.95, "cards": 25, "over": 25, "good": 25}
        assert (view["query"], view["at_once"], view["per_s"]) == ("tag:batch-7", 40, 1e5)
        assert view["expires_at_ms"] == view["created_at_ms"] + 50_000
        found: list[Any] = []
        after = 0
        while after is not None:
            page = await house.call("GET", f"/{made['id']}/cards?limit=100&after={after}")
            found += page["cards"]
            after = page["after"]
        assert len({card["card"] for card in found}) == 250
        row = house.scene.records.read(house.door.push_ids.downloads.parse(found[0]["download"], "chat"))
        assert row is not None
        assert (row.tar, row.notice) == (bytes.fromhex("B00012"), "Go to a shop")
        assert build_card_id(row.card) == found[0]["card"]
        assert house.scene.records.payloads[row.payload].commands == tuple(map(bytes.fromhex, COMMANDS))


async def test_cards_can_be_looked_at_by_state():
    async with House() as house:
        house.scene.records.add_cards(30)
        ends = iter([DownloadState.FAILED] * 4 + [DownloadState.DONE] * 26)
        house.scene.engine.result = lambda _: (next(ends), "card")
        made = await house.make(query="all")
        await house.scene.until_state(house.number(made["id"]), CampaignState.DONE)
        page = await house.call("GET", f"/{made['id']}/cards?state=failed")
        assert ([card["cause"] for card in page["cards"]], page["after"]) == (["card"] * 4, None)
        first = await house.call("GET", f"/{made['id']}/cards?state=failed&limit=3")
        rest = await house.call("GET", f"/{made['id']}/cards?state=failed&after={first['after']}")
        assert len(first["cards"]) + len(rest["cards"]) == 4
        assert (await house.call("GET", f"/{made['id']}/cards?state=lost", 400))["field"] == "state"
        view = await house.call("GET", "/" + made["id"])
        assert (view["results"], view["causes"]["card"]) == ({"done": 26, "failed": 4}, 4)


async def test_a_short_list_tells_what_became_of_each_line():
    async with House() as house:
        cards = [build_card_id(card) for card in house.scene.records.add_cards(3)]
        made = await house.make(cards=[cards[0], "89441234567890123456", cards[1], cards[0], "card_" + "0" * 32])
        assert made["participants"] == 2
        assert made["taken"] == {
            "participants": 2,
            "duplicates": 1,
            "refused": 2,
            "lines": [{"line": 2, "error": "not a card id"}, {"line": 5, "error": "no such card"}],
        }
        refused = await house.make(400, cards=["89441234567890123456"])
        assert (refused["field"], "8944" in refused["message"]) == ("cards", False)
        assert (await house.make(400, cards=[]))["field"] == "cards"


@pytest.mark.parametrize("media", ["text/plain", "application/x-ndjson; charset=utf-8", ""])
async def test_a_long_list_follows_in_a_request_of_its_own(media: str):
    async with House() as house:
        cards = [build_card_id(card) for card in house.scene.records.add_cards(2_000)]
        made = await house.make(start=False)
        assert made["state"] == "gathering"
        assert (await house.call("GET", "/" + made["id"]))["query"] is None

        async def body() -> Any:
            for card in cards:
                yield card[:9].encode()
                yield card[9:].encode() + b"\n"
            yield cards[0].encode()

        headers = {"content-type": media} if media else {}
        taken = await house.call("POST", f"/{made['id']}/cards", content=body(), headers=headers)
        assert taken == {"participants": 2_000, "duplicates": 1, "refused": 0, "lines": []}
        view = await house.call("GET", "/" + made["id"])
        assert (view["state"], view["participants"], view["held"]) == ("paused", 2_000, 2_000)
        again = await house.call("POST", f"/{made['id']}/cards", 409, content=cards[0])
        assert again["name"] == "conflict"
        await house.call("POST", f"/{made['id']}/resume")
        await house.scene.until_state(house.number(made["id"]), CampaignState.DONE)


async def test_a_long_list_has_its_time_to_be_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.api.cards.campaigns._WRITTEN_AT_A_TIME", 200)
    async with House() as house:
        cards = [build_card_id(card) for card in house.scene.records.add_cards(2_000)]
        house.door.backend.config.accept_timeout_s = 0.1
        log, commit = house.scene.records.log, house.scene.records.log.commit
        log.commit = lambda: asyncio.get_running_loop().call_later(0.03, commit)
        assert (await house.make(cards=cards, start=False))["taken"]["participants"] == 2_000
        made = await house.make(start=False)
        taken = await house.call("POST", f"/{made['id']}/cards", content="\n".join(cards))
        assert taken["participants"] == 2_000


async def test_a_list_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """It holds one of few places, whosever it is."""
    monkeypatch.setattr("gateway.api.cards.campaigns._LIST_S", 0.1)
    async with House() as house:
        made = await house.make()

        async def drip() -> Any:
            for _ in range(1_000):
                yield b"#"
                await asyncio.sleep(0.01)

        await house.call("POST", f"/{made['id']}/cards", 408, content=drip())
        card = build_card_id(house.scene.records.add_cards(1)[0])
        assert (await house.call("POST", f"/{made['id']}/cards", content=card))["participants"] == 1


async def test_a_list_that_can_not_be_taken_leaves_the_campaign_waiting_for_one():
    async with House(campaign_cards=2, campaign_list_bytes=1_024) as house:
        cards = [build_card_id(card) for card in house.scene.records.add_cards(3)]
        made = await house.make()
        path = f"/{made['id']}/cards"
        await house.call("POST", path, 413, content="\n".join(cards))
        await house.call("POST", path, 413, content="#" * 1_025)
        await house.call("POST", path, 400, content="")
        await house.call("POST", path, 415, content="{}", headers={"content-type": "application/json"})
        assert (await house.call("GET", "/" + made["id"]))["state"] == "gathering"
        assert (await house.call("POST", path, content=cards[0]))["participants"] == 1


async def test_no_more_than_four_lists_are_read_at_once():
    async with House() as house:
        card = build_card_id(house.scene.records.add_cards(1)[0])
        made = [(await house.make())["id"] for _ in range(5)]
        go = asyncio.Event()
        begun = 0

        async def slow() -> Any:
            nonlocal begun
            begun += 1
            yield card[:5].encode()
            await go.wait()
            yield card[5:].encode()

        lists = [asyncio.create_task(house.call("POST", f"/{each}/cards", content=slow())) for each in made[:4]]
        while begun < 4:
            await asyncio.sleep(0)
        refused = await house.call("POST", f"/{made[4]}/cards", 429, content=card)
        assert refused["name"] == "too_many_requests"
        go.set()
        assert [taken["participants"] for taken in await asyncio.gather(*lists)] == [1] * 4
        await house.call("POST", f"/{made[4]}/cards", content=card)


async def test_paused_resumed_and_stopped_by_a_word():
    async with House() as house:
        house.scene.records.add_cards(20)
        house.scene.engine.is_held = True
        made = await house.make(query="all", at_once=5)
        await house.scene.until(lambda: house.scene.engine.waiting == 5)
        assert (await house.call("POST", f"/{made['id']}/pause"))["state"] == "paused"
        assert (await house.call("POST", f"/{made['id']}/pause"))["state"] == "paused"
        assert (await house.call("POST", f"/{made['id']}/resume"))["state"] == "running"
        assert (await house.call("POST", f"/{made['id']}/stop"))["state"] == "stopping"
        await house.scene.until_state(house.number(made["id"]), CampaignState.STOPPED)
        view = await house.call("GET", "/" + made["id"])
        assert (view["results"], view["why"]) == ({"stopped": 20}, "asked")
        for word in ("pause", "resume", "stop"):
            assert (await house.call("POST", f"/{made['id']}/{word}", 409))["name"] == "conflict"


async def test_an_idempotency_key_makes_it_once():
    async with House() as house:
        cards = [build_card_id(card) for card in house.scene.records.add_cards(3)]
        body = {"name": "n", "commands": COMMANDS, "cards": cards, "start": False}
        headers = {"idempotency-key": "k"}
        first = await house.call("POST", "", 201, json=body, headers=headers)
        again = await house.call("POST", "", 200, json=body, headers=headers)
        assert (again["id"], again["participants"]) == (first["id"], 3)
        await house.call("POST", "", 409, json=body | {"per_s": 1}, headers=headers)
        assert len((await house.call("GET", ""))["campaigns"]) == 1


async def test_another_app_finds_none_of_it():
    async with House() as house:
        house.scene.records.add_cards(3)
        made = await house.make(query="all", start=False)
        assert (await house.call("GET", "", key=house.door.other_key))["campaigns"] == []
        for method, path in (("GET", ""), ("GET", "/cards"), ("POST", "/cards"), ("POST", "/stop")):
            error = await house.call(method, f"/{made['id']}{path}", 404, key=house.door.other_key)
            assert error["name"] == "unknown_campaign"
        await house.call("GET", "", 403, key=house.door.operator_key)


async def test_campaigns_come_in_pages_the_newest_first():
    async with House() as house:
        made = [(await house.make(name=f"c{at}", query="all"))["id"] for at in range(5)]
        page = await house.call("GET", "?limit=3")
        assert [each["id"] for each in page["campaigns"]] == made[:1:-1]
        rest = await house.call("GET", f"?limit=3&after={page['after']}")
        assert ([each["id"] for each in rest["campaigns"]], rest["after"]) == (made[1::-1], None)
        assert (await house.call("GET", "?after=nonsense", 400))["field"] == "after"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": "tag:a and"}, "query"),
        ({"query": "all", "cards": []}, "cards"),
        ({"commands": []}, "commands"),
        ({"commands_text": "00A4"}, "commands"),
        ({"commands": [], "commands_text": "# nothing\n\n"}, "commands_text"),
        ({"commands": [], "commands_text": "00A40004023F00\n00Z6"}, "commands_text"),
        ({"commands": ["00"]}, "commands[0]"),
        ({"commands": ["0"]}, "commands[0]"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"per_s": -1}, "per_s"),
        ({"at_once": -1}, "at_once"),
        ({"canary": {"share": 0}}, "canary.share"),
        ({"canary": {"share": 0.1, "success": 1.1}}, "canary.success"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"tar": "B0"}, "tar"),
        ({"notice": "\u4f60"}, "notice"),
        ({"idempotency_key": "x" * 129}, "idempotency_key"),
    ],
)
async def test_a_bad_campaign_names_its_field(fields: dict[str, Any], field: str):
    async with House() as house:
        error = await house.make(400, **fields)
        assert (error["name"], error["field"]) == ("bad_request", field)
        assert house.scene.campaigns.all("chat") == []


async def test_where_nothing_is_done_for_cards_it_says_what_to_set():
    door = Door()
    async with door.provider() as client:
        for method, path in (("POST", ""), ("GET", ""), ("GET", "/x"), ("POST", "/x/stop")):
            answer = await client.request(method, "/v1/campaigns" + path, json={"name": "n"})
            assert (answer.status_code, error_of(answer)["name"]) == (404, "not_configured")
            assert "ota.port" in error_of(answer)["message"]


def test_commands_are_one_a_line_with_comments_and_spaces():
    assert read_commands("# x\n\n00 A4 00 04 02 3F 00 # SELECT\r\n00D6\n") == ["00A40004023F00", "00D6"]


@given(st.text())
def test_no_text_of_commands_is_worse_than_a_bad_request(text: str):
    try:
        found = read_commands(text)
    except BadRequest:
        return
    assert all(bytes.fromhex(each) for each in found)
