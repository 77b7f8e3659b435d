"""The spool at the provider door: 202, its look-up at any node, and what must not be kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from spool_scene import APP, FATES_S, Scene
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.call import Call
from gateway.api.door import ERROR
from gateway.api.media import build_error
from gateway.auth.api_keys import Provider
from gateway.delivery.push_ids import PushIds
from gateway.delivery.request import PushRequest
from gateway.fleet.spool import Spool
from gateway.fleet.spool_side import LOOK, SpoolSide, may_keep
from gateway.model.cluster import Member
from gateway.model.errors import (
    AcceptTimeout,
    BadRequest,
    GatewayError,
    LogFenced,
    LogUnavailable,
    NodeUnreachable,
    QueueFull,
    UnknownToken,
)

IDS = PushIds(b"k" * 32)
PUSH = {"target": {"token": "t"}, "title": "hello"}


class Wire:
    """Two nodes in one process."""

    def __init__(self) -> None:
        self.nodes: dict[int, NodeBus] = {}


class NodeBus:
    def __init__(self, wire: Wire, number: int) -> None:
        self.number = number
        self.is_up = True
        self._wire = wire
        self.handlers: dict[str, Callable[[int, bytes], Any]] = {}
        wire.nodes[number] = self

    def serve(self, kind: str, handler: Callable[[int, bytes], Any]) -> None:
        self.handlers[kind] = handler

    async def ask(self, node: int, kind: str, body: bytes, *, timeout_s: float) -> bytes:
        if not self._wire.nodes[node].is_up:
            raise NodeUnreachable
        answer = self._wire.nodes[node].handlers[kind](self.number, body)
        return await answer if isinstance(answer, Awaitable) else answer

    def all(self) -> list[Member]:
        return [Member(number, f"n{number}", "", "", 1) for number in self._wire.nodes]


class Node:
    """A door in front of an owner that answers what the test says."""

    def __init__(self, wire: Wire, number: int, spool: Spool | None, clock: Callable[[], int]) -> None:
        self.bus = NodeBus(wire, number)
        self.side = SpoolSide(spool, self.bus, self.bus, IDS, clock, fates_s=FATES_S, timeout_s=1.0)  # type: ignore[arg-type]
        self.owner: GatewayError | int | str = 201
        self.asked: list[tuple[str, str, bytes]] = []
        shown = self.side.shown(self._inner)
        app = Starlette(
            routes=[
                Route("/v1/push", self._endpoint(self.side.push(self._inner)), methods=["POST"]),
                Route("/v1/push/{id}", self._endpoint(shown), methods=["GET", "DELETE"]),
            ]
        )
        transport = httpx.ASGITransport(app=app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://gw")

    def _endpoint(self, handle: Callable[[Call], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            app = msgspec.structs.replace(APP, name=request.headers.get("x-app", APP.name))
            try:
                return await handle(Call(request, Provider(app, "k1"), 65_536, 1.0))
            except GatewayError as error:
                return build_error(request, error)

        return endpoint

    async def _inner(self, call: Call) -> Response:
        self.asked.append((call.request.method, call.request.scope["path"], await call.request.body()))
        if isinstance(self.owner, GatewayError):
            raise self.owner
        status = self.owner
        if isinstance(status, str):  # an owner on another node said so
            call.request.scope[ERROR], status = status, 503
        return Response(b'{"id":"x"}', status_code=status, media_type="application/json")

    async def push(self, **more: Any) -> httpx.Response:
        return await self.http.post("/v1/push", json={**PUSH, **more})

    async def look(self, push_id: str, method: str = "GET", **headers: str) -> httpx.Response:
        return await self.http.request(method, f"/v1/push/{push_id}", headers=headers)


class Doors:
    def __init__(self, folder: Path) -> None:
        self.scene = Scene(folder)
        wire = Wire()
        self.node = Node(wire, 1, self.scene.spool, lambda: self.scene.now_ms)
        self.other = Node(wire, 2, None, lambda: self.scene.now_ms)


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    doors = Doors(tmp_path)
    yield doors
    for node in (doors.node, doors.other):
        await node.http.aclose()
    await doors.scene.spool.close()


async def test_while_all_is_well_the_owner_gets_the_body_as_it_came(doors: Doors) -> None:
    answer = await doors.node.push()
    assert answer.status_code == 201
    method, path, body = doors.node.asked[0]
    assert (method, path, msgspec.json.decode(body)) == ("POST", "/v1/push", PUSH)
    assert doors.scene.spool.waiting == 0


async def test_while_nats_is_away_a_push_is_kept_and_says_so(doors: Doors) -> None:
    doors.node.bus.is_up = False
    answer = await doors.node.push()
    assert answer.status_code == 202
    assert answer.json() == {"id": answer.json()["id"], "spooled": True}
    assert answer.headers["location"] == f"/v1/push/{answer.json()['id']}"
    assert doors.node.asked == []
    shown = await doors.node.look(answer.json()["id"])
    assert shown.status_code == 202
    assert shown.json() == {
        "id": answer.json()["id"],
        "state": "spooled",
        "accepted_at_ms": doors.scene.now_ms,
        "expires_at": doors.scene.now_ms // 1000 + 3_600,
        "error": None,
    }


async def test_an_owner_that_can_not_write_its_journal_is_no_reason_to_refuse(doors: Doors) -> None:
    doors.scene.start()
    for owner in (LogUnavailable(), LogUnavailable.name, LogFenced(), LogFenced.name):
        doors.scene.fleet.is_up = False
        doors.node.owner = owner
        assert (await doors.node.push()).status_code == 202
        # and what comes next to the same target goes behind it, without a question
        assert len(doors.node.asked) == 1
        doors.node.owner = 201
        assert (await doors.node.push()).status_code == 202
        assert len(doors.node.asked) == 1
        assert (await doors.node.push(target={"token": "another"})).status_code == 201
        await doors.scene.drained()
        doors.node.asked.clear()


async def test_a_push_that_may_have_been_accepted_is_kept_only_with_its_key(doors: Doors) -> None:
    for error in (NodeUnreachable(), AcceptTimeout()):
        doors.node.owner = error
        answer = await doors.node.push()
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
    assert doors.scene.spool.waiting == 0
    assert (await doors.node.push(idempotency_key="k")).status_code == 202
    nothing_done = NodeUnreachable()
    nothing_done.nothing_done = True
    doors.node.owner = nothing_done
    assert (await doors.node.push(target={"token": "b"})).status_code == 202


async def test_the_key_of_the_header_counts(doors: Doors) -> None:
    doors.node.bus.is_up = False
    ids = set()
    for _ in range(2):
        answer = await doors.node.http.post("/v1/push", json=PUSH, headers={"idempotency-key": "k"})
        ids.add(answer.json()["id"])
    assert len(ids) == 1
    other = await doors.node.http.post("/v1/push", json={**PUSH, "title": "x"}, headers={"idempotency-key": "k"})
    assert other.status_code == 409


async def test_what_is_wrong_is_refused_at_once(doors: Doors) -> None:
    doors.node.bus.is_up = False
    assert (await doors.node.push(urgency="loud")).status_code == 400
    assert (await doors.node.http.post("/v1/push", content=b"x", headers={"content-type": "a/b"})).status_code == 415
    now = await doors.node.push(ttl=0)
    assert (now.status_code, now.json()["error"]["name"]) == (503, "log_unavailable")
    assert "retry-after" in now.headers


async def test_other_refusals_stay_what_they_are(doors: Doors) -> None:
    for error in (UnknownToken(), QueueFull(), BadRequest()):
        doors.node.owner = error
        assert (await doors.node.push(idempotency_key="k")).status_code == error.status
    assert doors.scene.spool.waiting == 0


async def test_without_a_spool_the_error_stands(doors: Doors) -> None:
    doors.other.owner = LogUnavailable()
    answer = await doors.other.push()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_any_node_tells_what_became_of_it(doors: Doors) -> None:
    doors.node.bus.is_up = False
    push_id = (await doors.node.push()).json()["id"]
    doors.node.bus.is_up = True
    assert (await doors.other.look(push_id)).json()["state"] == "spooled"
    doors.scene.start()
    await doors.scene.drained()
    for node in (doors.node, doors.other):
        assert (await node.look(push_id)).status_code == 201  # as the owner answers
        assert node.asked[-1][:2] == ("GET", f"/v1/push/{IDS.build(APP.name, 1)}")
        await node.look(push_id, "DELETE")
        assert node.asked[-1][:2] == ("DELETE", f"/v1/push/{IDS.build(APP.name, 1)}")


async def test_a_refusal_of_the_fleet_is_told(doors: Doors) -> None:
    doors.node.bus.is_up = False
    push_id = (await doors.node.push()).json()["id"]
    doors.scene.fleet.refuses["hello"] = UnknownToken()
    doors.scene.start()
    await doors.scene.drained()
    body = (await doors.node.look(push_id)).json()
    assert (body["state"], body["error"]["name"], body["expires_at"]) == ("refused", "unknown_token", None)
    assert (await doors.node.look(push_id, "DELETE")).json() == {"recalled": 0, "too_late": 0}


async def test_a_push_is_recalled_from_the_spool_of_another_node(doors: Doors) -> None:
    doors.node.bus.is_up = False
    push_id = (await doors.node.push()).json()["id"]
    doors.node.bus.is_up = True
    assert (await doors.other.look(push_id, "DELETE")).json() == {"recalled": 1, "too_late": 0}
    assert (await doors.node.look(push_id)).json()["state"] == "recalled"
    assert doors.scene.spool.waiting == 0


async def test_nobody_looks_at_another_app_s_push(doors: Doors) -> None:
    doors.node.bus.is_up = False
    push_id = (await doors.node.push()).json()["id"]
    await doors.node.look(push_id, **{"x-app": "other"})
    assert doors.node.asked[-1][1] == f"/v1/push/{push_id}"  # no id of its own: the owner says so


async def test_a_node_that_is_away_with_its_spool_is_no_unknown_push(doors: Doors) -> None:
    doors.node.bus.is_up = False
    push_id = (await doors.node.push()).json()["id"]
    answer = await doors.other.look(push_id)  # the other can not ask it
    assert (answer.status_code, answer.json()["error"]["name"]) == (503, "node_unreachable")
    doors.node.bus.is_up = True
    doors.scene.start()
    await doors.scene.drained()
    doors.scene.now_ms += FATES_S * 1000 + 1
    doors.scene.fleet.is_up = False
    await doors.scene.keep("later")
    await doors.scene.drained()
    assert (await doors.other.look(push_id)).status_code == 404  # told for its time, and no longer


async def test_items_of_a_batch_are_kept_one_by_one(doors: Doors) -> None:
    side = doors.node.side
    request = msgspec.convert(PUSH, PushRequest)
    assert not side.must_keep(APP, request)
    kept = await side.keep_item(7, APP, "k1", request, LogUnavailable())
    assert kept is not None
    assert (kept.index, kept.status, kept.spooled) == (7, 202, True)
    assert side.must_keep(APP, request)
    assert await side.keep_item(8, APP, "k1", request, UnknownToken()) is None
    assert await doors.other.side.keep_item(8, APP, "k1", request, LogUnavailable()) is None
    again = msgspec.structs.replace(request, idempotency_key="k", title="x")
    assert await side.keep_item(0, APP, "k1", again, LogUnavailable())
    conflict = await side.keep_item(9, APP, "k1", msgspec.structs.replace(again, title="y"), LogUnavailable())
    assert conflict is not None
    assert (conflict.status, conflict.id) == (409, None)


def test_now_or_never_and_what_is_certain() -> None:
    request = msgspec.convert(PUSH, PushRequest)
    assert may_keep(LogUnavailable(), request)
    assert may_keep(LogFenced(), request)
    assert not may_keep(LogUnavailable(), msgspec.structs.replace(request, ttl=0))
    assert not may_keep(QueueFull(), request)


@pytest.mark.parametrize("body", [b"", b"\xc0", msgspec.msgpack.encode(("a", -1)), msgspec.msgpack.encode(("a", 0))])
async def test_nonsense_of_another_node_is_a_bad_request(doors: Doors, body: bytes) -> None:
    with pytest.raises(BadRequest):
        doors.node.bus.handlers[LOOK](2, body)
