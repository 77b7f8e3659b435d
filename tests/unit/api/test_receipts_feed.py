"""Receipts: pages, long-poll, and the stream with its resume, heartbeat and bounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from api_doubles import Door, error_of

from gateway.metrics import Metric
from gateway.model.cluster import first_seq
from gateway.model.outcome import CARD, Outcome, State, Step
from gateway.model.ports import Receipt


@pytest.fixture
def door() -> Door:
    return Door()


async def turns(n: int = 30) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_pages_by_cursor_and_only_ones_own(door):
    cursors = [door.floors.settle("chat", notification=n) for n in range(3)]
    door.floors.settle("other")
    async with door.provider() as client:
        body = (await client.get("/v1/receipts?limit=2")).json()
        assert [r["cursor"] for r in body["receipts"]] == cursors[:2]
        assert body["cursor"] == cursors[1]
        body = (await client.get(f"/v1/receipts?after={body['cursor']}")).json()
        assert [r["cursor"] for r in body["receipts"]] == cursors[2:]
        receipt = body["receipts"][0]
        assert (receipt["state"], receipt["token"]) == ("acked", door.token)
        assert receipt["push"] == door.push_ids.build("chat", 2)
        assert [s["what"] for s in receipt["steps"]] == ["sent", "acked"]
        body = (await client.get("/v1/receipts?after=99")).json()
        assert body == {"receipts": [], "cursor": 99}


async def test_a_delivery_is_named_by_its_place_in_its_push_alone(door):
    beyond = first_seq(3)
    for seq, notification in ((70_000, 70_000), (70_003, 70_001), (beyond + 9, beyond + 7)):
        door.floors.feed.append(
            Receipt(len(door.floors.feed) + 1, Outcome(seq, notification, 1, "chat", State.ACKED, 9, []))
        )
    async with door.provider() as client:
        receipts = (await client.get("/v1/receipts")).json()["receipts"]
    assert [receipt["delivery"] for receipt in receipts] == [0, 2, beyond + 2]


async def test_the_end_of_a_download_names_the_download_and_nobodys_token(door):
    door.add_registration(0, "chat")  # whose number a download has
    steps = [Step(1, "accepted", CARD), Step(2, "failed", CARD, "6A80")]
    door.floors.feed.append(Receipt(1, Outcome(9, 9, 0, "chat", State.FAILED, 2, steps)))
    door.floors.settle("chat")
    async with door.provider() as client:
        of_download, of_push = (await client.get("/v1/receipts")).json()["receipts"]
    assert (of_download["push"], of_download["token"], of_download["state"]) == (None, None, "failed")
    assert door.push_ids.downloads.parse(of_download["download"], "chat") == 9
    assert of_download["steps"][1]["detail"] == "6A80"
    assert "download" not in of_push


@pytest.mark.parametrize(
    ("query", "field"),
    [("after=-1", "after"), ("after=x", "after"), ("limit=0", "limit"), ("limit=1001", "limit"), ("wait=31", "wait"),
     ("after=99999999999999999999999999", "after")],
)  # fmt: skip
async def test_bad_parameters_are_named(door, query, field):
    async with door.provider() as client:
        answer = await client.get(f"/v1/receipts?{query}")
    assert (answer.status_code, error_of(answer)["field"]) == (400, field)


async def test_a_waiting_request_is_answered_by_the_next_receipt_of_its_app(door):
    async with door.provider() as client:
        asked = asyncio.create_task(client.get("/v1/receipts?wait=30"))
        while not door.floors.wakes:
            await asyncio.sleep(0)
        door.floors.settle("other")
        await turns()
        assert not asked.done()
        cursor = door.floors.settle("chat")
        body = (await asked).json()
    assert [r["cursor"] for r in body["receipts"]] == [cursor]
    assert door.floors.wakes == []
    assert door.metrics.value(Metric.API_WATCHERS) == 0


async def test_a_waiting_request_ends_when_its_time_is_over_or_the_gateway_drains(door):
    async with door.provider() as client:
        answer = await client.get("/v1/receipts?wait=1")
        assert answer.json() == {"receipts": [], "cursor": 0}
        asked = asyncio.create_task(client.get("/v1/receipts?wait=30"))
        while not door.floors.wakes:
            await asyncio.sleep(0)
        door.backend.stopping.set()
        assert (await asked).json() == {"receipts": [], "cursor": 0}


class Stream:
    """An open event stream, driven by hand."""

    def __init__(self, door: Door, *, headers: dict[str, str] | None = None, query: str = "", key: str = "") -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.sent: list[dict[str, Any]] = []
        self.writable = asyncio.Event()
        self.writable.set()
        all_headers = {"authorization": f"Bearer {key or door.app_key}", **(headers or {})}
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/receipts/stream",
            "query_string": query.encode(),
            "headers": [(k.lower().encode(), v.encode()) for k, v in all_headers.items()],
        }
        self.task = asyncio.create_task(door.asgi(scope, self.inbox.get, self.send))

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        self.sent.append(message)

    def hang_up(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def text(self) -> str:
        return b"".join(m.get("body", b"") for m in self.sent).decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        blocks = (block.split("\n") for block in self.text.split("\n\n"))
        fields = (dict(line.split(": ", 1) for line in block if ": " in line) for block in blocks)
        return [{"id": int(f["id"]), **json.loads(f["data"])} for f in fields if "data" in f]


async def test_the_stream_begins_now_and_sends_each_receipt_once(door):
    door.floors.settle("chat")
    door.floors.settle("other")
    stream = Stream(door)
    await turns()
    assert dict(stream.sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert stream.events == []
    assert "id: 1\n\n" in stream.text  # where to resume, before the first event: behind its own, not another's
    later = [door.floors.settle("chat"), door.floors.settle("chat")]
    await turns()
    assert [e["id"] for e in stream.events] == later == [e["cursor"] for e in stream.events]
    stream.hang_up()
    await asyncio.wait_for(stream.task, 30)
    assert door.floors.wakes == []
    assert door.metrics.value(Metric.API_WATCHERS) == 0


@pytest.mark.parametrize("how", [{"headers": {"Last-Event-ID": "2"}}, {"query": "after=2"}])
async def test_a_stream_resumes_after_its_cursor(door, how):
    for _ in range(150):
        door.floors.settle("chat")
    stream = Stream(door, **how)
    while len(stream.events) < 148:
        await asyncio.sleep(0)
    assert [e["id"] for e in stream.events] == list(range(3, 151))
    stream.hang_up()
    await stream.task


async def test_an_idle_stream_says_that_it_is_there():
    door = Door(heartbeat_s=0.01)
    stream = Stream(door)
    while stream.text.count(": still here") < 3:
        await asyncio.sleep(0.005)
    assert stream.events == []
    stream.hang_up()
    await stream.task


async def test_a_slow_reader_holds_nothing_and_gets_everything_once_it_reads(door):
    stream = Stream(door)
    await turns()
    stream.writable.clear()
    for _ in range(1_000):
        door.floors.settle("chat")
    await turns(200)
    assert len(stream.events) == 0  # nothing piles up for it: one page at most is under way
    stream.writable.set()
    while len(stream.events) < 1_000:
        await asyncio.sleep(0)
    assert [e["id"] for e in stream.events] == list(range(1, 1_001))
    stream.hang_up()
    await stream.task


async def test_the_stream_ends_when_the_gateway_drains(door):
    stream = Stream(door)
    await turns()
    door.backend.stopping.set()
    await asyncio.wait_for(stream.task, 30)
    assert stream.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_the_stream_ends_when_its_key_is_deleted(door):
    stream = Stream(door)
    await turns()
    async with door.operator() as client:
        key_id = door.app_key.split("_")[1]
        assert (await client.delete(f"/v1/apps/chat/keys/{key_id}")).status_code == 204
    door.floors.settle("chat")
    await asyncio.wait_for(stream.task, 30)
    assert stream.events == []


async def test_a_waiting_request_is_told_nothing_once_its_key_is_deleted(door):
    async with door.provider() as client, door.operator() as operator:
        asked = asyncio.create_task(client.get("/v1/receipts?wait=30"))
        while not door.floors.wakes:
            await asyncio.sleep(0)
        assert (await operator.delete(f"/v1/apps/chat/keys/{door.app_key.split('_')[1]}")).status_code == 204
        door.floors.settle("chat")
        answer = await asked
    assert (answer.status_code, error_of(answer)["name"]) == (401, "unauthorized")
    assert door.floors.wakes == []


async def test_the_number_of_watchers_is_bounded():
    door = Door(max_watchers=2)
    streams = [Stream(door), Stream(door)]
    await turns()
    refused = Stream(door)
    await refused.task
    assert refused.status == 429
    async with door.provider() as client:
        answer = await client.get("/v1/receipts?wait=1")
        assert (answer.status_code, error_of(answer)["name"]) == (429, "too_many_requests")
        assert (await client.get("/v1/receipts")).status_code == 200
    for stream in streams:
        stream.hang_up()
        await stream.task
    again = Stream(door)
    await turns()
    assert again.status == 200
    again.hang_up()
    await again.task


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "9" * 30, "0" * 20 + "9" * 40, "0" * 20 + "9" * 5_000])
async def test_a_bad_cursor_is_refused_before_the_stream_begins(door, cursor):
    stream = Stream(door, headers={"Last-Event-ID": cursor})
    await stream.task
    assert stream.status == 400
