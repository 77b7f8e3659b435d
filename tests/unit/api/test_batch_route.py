"""Batches through the whole door: order, per-item errors, bounds, and both directions as a stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgpack
import pytest
from api_doubles import Door, error_of

from gateway.api.batch import BatchAnswer
from gateway.api.media import JSON, MSGPACK, NDJSON
from gateway.api.once import Once
from gateway.auth.api_keys import Provider
from gateway.model.errors import StoreUnavailable


@pytest.fixture
def door() -> Door:
    return Door()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def spell(kind: str, items: list[Any]) -> bytes:
    if kind == JSON:
        return json.dumps(items).encode()
    if kind == NDJSON:
        return b"".join(json.dumps(item).encode() + b"\n" for item in items)
    return b"".join(map(msgpack.packb, items)) if kind == "sequence" else msgpack.packb(items)


@pytest.mark.parametrize("kind", [JSON, NDJSON, MSGPACK, "sequence"])
async def test_results_come_in_order_with_their_own_errors(door, kind):
    items = [
        door.to_token(),
        {"target": {"token": door.foreign_token}},
        {"target": {"everyone": True}},
        {"target": {"token": door.token}, "oops": 1},
        door.to_token(title="last"),
    ]
    headers = {"content-type": MSGPACK if kind == "sequence" else kind, "accept": JSON}
    async with door.provider(headers=headers) as client:
        answer = await client.post("/v1/push/batch", content=spell(kind, items))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == NDJSON
        results = lines(answer.text)
        assert [r["index"] for r in results] == [0, 1, 2, 3, 4]
        assert [r["status"] for r in results] == [201, 404, 201, 400, 201]
        assert results[3]["error"]["field"] == "oops"
        for result in (results[0], results[2], results[4]):
            assert (await client.get(f"/v1/push/{result['id']}")).status_code == 200
    assert door.floors.groups == [4]  # all that were read together share a commit


async def test_a_key_for_the_whole_batch_is_refused_before_anything_is_taken(door):
    async with door.provider() as client:
        answer = await client.post("/v1/push/batch", json=[door.to_token()], headers={"idempotency-key": "all"})
        assert (answer.status_code, error_of(answer)["field"]) == (400, "Idempotency-Key")
        assert "idempotency_key" in error_of(answer)["message"]
    assert not door.floors.pushed


async def test_msgpack_is_answered_in_msgpack(door):
    async with door.provider(headers={"content-type": MSGPACK}) as client:
        answer = await client.post("/v1/push/batch", content=spell(MSGPACK, [door.to_token()] * 3))
    assert answer.headers["content-type"] == MSGPACK
    unpacker = msgpack.Unpacker()
    unpacker.feed(answer.content)
    assert [r["status"] for r in unpacker] == [201] * 3


@pytest.mark.parametrize(("kind", "empty"), [(JSON, b"[]"), (NDJSON, b""), (NDJSON, b"\n\n"), (MSGPACK, b"\x90")])
async def test_an_empty_batch_is_an_empty_answer(door, kind, empty):
    async with door.provider(headers={"content-type": kind}) as client:
        answer = await client.post("/v1/push/batch", content=empty)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(("kind", "body"), [(JSON, b'{"target":1}'), (JSON, b""), (MSGPACK, b"\xc1"), (JSON, b"[")])
async def test_what_is_no_batch_from_the_start_is_a_plain_error(door, kind, body):
    async with door.provider(headers={"content-type": kind, "accept": JSON}) as client:
        answer = await client.post("/v1/push/batch", content=body)
    assert (answer.status_code, error_of(answer)["name"]) == (400, "bad_request")


async def test_a_stream_that_breaks_off_keeps_what_was_read_and_says_so_at_the_end(door):
    async with door.provider(headers={"content-type": JSON}) as client:
        answer = await client.post("/v1/push/batch", content=json.dumps([door.to_token()] * 2)[:-1].encode() + b",")
    results = lines(answer.text)
    assert [r["status"] for r in results] == [201, 201, 400]
    assert results[2]["index"] == 2
    assert "breaks off" in results[2]["error"]["message"]


async def test_a_batch_has_a_largest_number_of_items():
    door = Door(max_batch=5)
    async with door.provider(headers={"content-type": NDJSON}) as client:
        answer = await client.post("/v1/push/batch", content=spell(NDJSON, [door.to_token()] * 9))
    results = lines(answer.text)
    assert [r["status"] for r in results] == [201] * 5 + [413]
    assert len(door.floors.pushed) == 5


async def test_an_item_has_a_largest_size():
    door = Door(max_body_bytes=500)
    async with door.provider(headers={"content-type": NDJSON}) as client:
        body = spell(NDJSON, [door.to_token(), door.to_token(text="x" * 600), door.to_token()])
        results = lines((await client.post("/v1/push/batch", content=body)).text)
    assert [r["status"] for r in results] == [201, 413, 201]


async def test_other_content_types_are_415(door):
    async with door.provider(headers={"content-type": "text/csv"}) as client:
        assert (await client.post("/v1/push/batch", content=b"a,b")).status_code == 415


async def test_idempotency_keys_work_inside_and_across_batches(door):
    items = [door.to_token(idempotency_key="a"), door.to_token(idempotency_key="a"),
             door.to_token(title="x", idempotency_key="a"), door.to_token(idempotency_key="b")]  # fmt: skip
    async with door.provider() as client:
        first = lines((await client.post("/v1/push/batch", json=items)).text)
        assert [r["status"] for r in first] == [201, 200, 409, 201]
        assert first[0]["id"] == first[1]["id"]
        second = lines((await client.post("/v1/push/batch", json=items[:1])).text)
        assert (second[0]["status"], second[0]["id"]) == (200, first[0]["id"])
    assert len(door.floors.pushed) == 2
    assert door.floors.joined == [True, True]


async def test_an_item_that_can_not_be_sent_does_not_end_the_batch(door):
    items = [door.to_token(idempotency_key="a", data=2**64), door.to_token()]
    async with door.provider() as client:
        results = lines((await client.post("/v1/push/batch", json=items)).text)
    assert [(r["index"], r["status"]) for r in results] == [(0, 400), (1, 201)]


async def test_a_fault_of_ours_is_said_in_the_answer_not_left_out(door):
    door.floors.refuse = ZeroDivisionError()
    async with door.provider() as client:
        answer = await client.post("/v1/push/batch", json=[door.to_token()])
    assert (answer.status_code, error_of(answer)["name"]) == (500, "internal")


async def test_one_commit_that_fails_or_hangs_is_told_for_its_own_items():
    door = Door(accept_timeout_s=0.05)
    door.floors.hold = []
    async with door.provider() as client:
        asked = asyncio.create_task(client.post("/v1/push/batch", json=[door.to_token()] * 3))
        while len(door.floors.hold) < 3:
            await asyncio.sleep(0)
        door.floors.hold[0].set_result(None)
        door.floors.hold[1].set_exception(StoreUnavailable())
        results = lines((await asked).text)
    assert [r["status"] for r in results] == [201, 503, 503]
    assert [r["error"]["name"] for r in results[1:]] == ["store_unavailable", "accept_timeout"]
    assert all(r["error"]["retry_after_ms"] > 0 for r in results[1:])


class Wire:
    """Drives one BatchAnswer as a server would, piece by piece."""

    def __init__(self, door: Door, **options: Any) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.writable = asyncio.Event()
        self.writable.set()
        provider = Provider(door.floors.apps["chat"], door.app_key.split("_")[1])
        self.answer = BatchAnswer(door.backend, Once(door.backend), provider, NDJSON, False, **options)
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", NDJSON.encode())]}
        self.task = asyncio.create_task(self.answer(scope, self.inbox.get, self.send))

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        self.sent.append(message)

    def piece(self, body: bytes, *, more: bool = True) -> None:
        self.inbox.put_nowait({"type": "http.request", "body": body, "more_body": more})

    @property
    def results(self) -> list[dict[str, Any]]:
        return lines(b"".join(m.get("body", b"") for m in self.sent).decode())


async def turns(n: int = 50) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_a_batch_ends_when_its_key_is_deleted(door):
    wire = Wire(door)
    wire.piece(spell(NDJSON, [door.to_token()] * 2))
    await turns()
    async with door.operator() as client:
        assert (await client.delete(f"/v1/apps/chat/keys/{door.app_key.split('_')[1]}")).status_code == 204
    wire.piece(spell(NDJSON, [door.to_token()] * 2))
    await asyncio.wait_for(wire.task, 30)
    assert [r["status"] for r in wire.results] == [201, 201, 401]
    assert len(door.floors.pushed) == 2


async def test_items_are_answered_while_more_are_on_their_way(door):
    wire = Wire(door)
    wire.piece(spell(NDJSON, [door.to_token()]))
    await turns()
    assert [r["status"] for r in wire.results] == [201]
    assert not wire.task.done()
    wire.piece(spell(NDJSON, [door.to_token()] * 2), more=False)
    await wire.task
    assert [r["index"] for r in wire.results] == [0, 1, 2]
    assert wire.sent[-1]["more_body"] is False


async def test_a_peer_that_reads_only_after_sending_everything_is_no_deadlock(door):
    wire = Wire(door)
    wire.writable.clear()
    for _ in range(20):
        wire.piece(spell(NDJSON, [door.to_token()] * 100))
    await turns(400)
    assert wire.inbox.empty()  # all was read though nothing could be written
    assert len(door.floors.pushed) == 2_000
    wire.piece(b"", more=False)
    wire.writable.set()
    await wire.task
    assert [r["index"] for r in wire.results] == list(range(2_000))


async def test_a_slow_commit_does_not_hold_back_results_that_are_known(door):
    door.floors.hold = []
    wire = Wire(door)
    wire.piece(spell(NDJSON, [door.to_token()] * 2))
    await turns()
    door.floors.hold[0].set_result(None)
    await turns()
    assert [r["index"] for r in wire.results] == [0]
    door.floors.hold[1].set_result(None)
    wire.piece(b"", more=False)
    await wire.task
    assert [r["index"] for r in wire.results] == [0, 1]


async def test_a_pause_between_pieces_ends_the_batch_with_408(door):
    wire = Wire(door, piece_s=0.01)
    wire.piece(spell(NDJSON, [door.to_token()]))
    await wire.task
    assert [r["status"] for r in wire.results] == [201, 408]


async def test_a_peer_that_hangs_up_leaves_what_was_read_accepted(door):
    wire = Wire(door)
    wire.piece(spell(NDJSON, [door.to_token()] * 3))
    wire.inbox.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(wire.task, 30)
    assert len(door.floors.pushed) == 3
