"""A node with a spool among others: real doors, real cores; the bus is cut and joined again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleet_rig import Fleet, until
from spool_scene import open_spool, push

from gateway.api.once import hash_body
from gateway.fleet.calls import Asked
from gateway.fleet.spool import Spool
from gateway.fleet.spool_intake import KNOWN, TAKE
from gateway.fleet.spool_record import DOUBT_S, Kept, build_kept, pack_request
from gateway.model.errors import AcceptTimeout, GatewayError, LogFenced, LogUnavailable, UnknownApp
from gateway.push_core import unix_ms
from gateway.store.records import Db


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path / "fleet")
    spool = fleet.spools[1] = open_spool(tmp_path / "spool", fleet.nodes[1].metrics, unix_ms)
    async with fleet:
        yield fleet
    await spool.close()


def spool_of(fleet: Fleet) -> Spool:
    return fleet.spools[1]


def start(fleet: Fleet) -> None:
    intake = fleet.nodes[1].side._intake
    spool_of(fleet).start(intake.take, lambda: fleet.nodes[1].bus.is_up, known=intake.known)


def packed(token: str, app: str = "shop") -> bytes:
    """A push of a spool, as an owner is asked for it."""
    request = push("a", token)
    deadline_ms = unix_ms() + 3_600_000
    return build_kept(Kept(app, "k1", unix_ms(), deadline_ms, "spool-1-1", hash_body(request), pack_request(request)))


def pending(fleet: Fleet, token: str, partition: int) -> list[int]:
    store = fleet.core(partition).store
    return list(store.journal.pending_of(store.directory.find(token, "shop")))


async def taken_in(fleet: Fleet) -> None:
    start(fleet)
    await until(lambda: spool_of(fleet).waiting == 0)


async def test_a_push_waits_for_the_fleet_and_is_one_push_then(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    async with fleet.client(1, key) as http, fleet.client(2, key) as elsewhere:
        fleet.wire.cut.add(1)
        made = await http.post("/v1/push", json={"target": {"token": token}, "title": "a"})
        assert (made.status_code, made.json()["spooled"]) == (202, True)
        where = made.headers["location"]
        assert (await http.get(where)).json()["state"] == "spooled"
        assert (await elsewhere.get(where)).status_code == 503
        fleet.wire.cut.clear()
        await taken_in(fleet)
        for client in (http, elsewhere):
            shown = (await client.get(where)).json()
            assert (shown["state"], shown["target"]) == ("pending", {"token": token})
            assert shown["id"] != made.json()["id"]
            assert (await client.get(f"/v1/push/{shown['id']}")).json()["id"] == shown["id"]
        assert (await elsewhere.get(where + "/statistics")).json()["targeted"] == 1
        assert (await elsewhere.delete(where)).json() == {"recalled": 1, "too_late": 0}
        assert (await http.get(where)).json()["state"] == "done"


async def test_while_its_owner_is_being_replaced_a_push_is_kept(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    fleet.owners[2] = 0  # nobody's
    async with fleet.client(1, key) as http:
        assert (await http.post("/v1/push", json={"target": {"token": token}})).status_code == 202
        fleet.owners[2] = 2
        await taken_in(fleet)


async def test_a_push_whose_owner_gave_no_answer_is_not_kept_unless_it_has_a_key(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    async with fleet.client(1, key) as http:
        fleet.wire.lose_answers = True
        made = await http.post("/v1/push", json={"target": {"token": token}})
        assert (made.status_code, made.json()["error"]["name"]) == (503, "node_unreachable")
        push = {"target": {"token": token}, "title": "once", "idempotency_key": "k"}
        assert (await http.post("/v1/push", json=push)).status_code == 202
        fleet.wire.lose_answers = False
        await taken_in(fleet)
        again = await http.post("/v1/push", json=push)
        assert (again.status_code, again.headers["idempotent-replay"]) == (200, "true")


async def test_a_push_that_the_fleet_took_and_whose_answer_was_lost_is_recalled_there(fleet: Fleet) -> None:
    """It still waits in the spool, but to forget it there would not take it back."""
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    async with fleet.client(1, key) as http:
        fleet.wire.cut.add(1)
        where = (await http.post("/v1/push", json={"target": {"token": token}})).headers["location"]
        fleet.wire.lose_answers = True
        fleet.wire.cut.clear()
        start(fleet)
        number = next(iter(spool_of(fleet)._rows.waiting(limit=1)))[0]
        await until(lambda: number in spool_of(fleet)._doubtful and not spool_of(fleet)._taking)
        assert (await http.delete(where)).status_code == 503  # nobody can say
        await spool_of(fleet).stop()
        fleet.wire.lose_answers = False
        answer = await http.delete(where)
        assert answer.json() == {"recalled": 1, "too_late": 0}
        assert spool_of(fleet).waiting == 0
        shown = (await http.get(where)).json()
        assert shown["state"] == "done"
        assert shown["figures"] == {"recalled": 1}


async def test_pushes_of_a_batch_are_kept_each_for_itself_and_in_order(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in (0, 2)]
    batch: list[dict[str, Any]] = [{"target": {"token": tokens[at % 2]}, "title": str(at)} for at in range(6)]
    batch.append({"target": {"token": tokens[1]}, "ttl": 0})
    batch.append({"target": {}})
    fleet.owners[2] = 0
    async with fleet.client(1, key) as http:
        lines = [json.loads(line) for line in (await http.post("/v1/push/batch", json=batch)).text.splitlines()]
        assert [line["index"] for line in lines] == list(range(8))
        assert [line["status"] for line in lines] == [201, 202, 201, 202, 201, 202, 503, 400]
        assert [line.get("spooled", False) for line in lines[:4]] == [False, True, False, True]
        fleet.owners[2] = 2
        # those to the same token wait behind them, though its owner is there
        late = [json.loads(line) for line in (await http.post("/v1/push/batch", json=batch[:2])).text.splitlines()]
        assert [line["status"] for line in late] == [201, 202]
        await taken_in(fleet)
        views = [(await http.get(f"/v1/push/{line['id']}")).json() for line in (*lines[1:6:2], late[1])]
        assert [view["target"]["token"] for view in views] == [tokens[1]] * 4
        numbers = [fleet.push_ids.parse(view["id"], "shop") or 0 for view in views]
        assert numbers == sorted(numbers)


async def test_while_the_fleet_is_away_a_whole_batch_is_kept(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in (0, 1, 2)]
    fleet.wire.cut.add(1)
    batch = [{"target": {"token": tokens[at % 3]}, "title": str(at)} for at in range(300)]
    async with fleet.client(1, key) as http:
        lines = [json.loads(line) for line in (await http.post("/v1/push/batch", json=batch)).text.splitlines()]
        assert [line["status"] for line in lines] == [202] * 300
        assert len({line["id"] for line in lines}) == 300
        fleet.wire.cut.clear()
        await taken_in(fleet)


async def test_a_node_without_a_spool_answers_503_with_a_time(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 0)
    fleet.wire.cut.add(2)
    async with fleet.client(2, key) as http:
        made = await http.post("/v1/push", json={"target": {"token": token}})
        assert (made.status_code, made.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize("partition", [0, 2])
async def test_a_question_that_is_read_in_one_turn_with_its_push_knows_it(fleet: Fleet, partition: int) -> None:
    """Else a recall says that it took back what is delivered."""
    await fleet.create_app("shop")
    body = packed(await fleet.register("shop", partition))
    ask = fleet.nodes[1].side.owners.ask
    taken, known = await asyncio.gather(ask(partition, TAKE, body), ask(partition, KNOWN, body))
    assert taken == known != bytes(8)
    with pytest.raises(UnknownApp):
        await ask(partition, TAKE, packed("t", app="none"))


@pytest.mark.parametrize("door", ["push", "batch"])
async def test_a_question_that_is_read_in_one_turn_with_the_provider_s_own_request_knows_it(
    fleet: Fleet, door: str
) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    request = push("a", token)
    what = Kept("shop", "k1", unix_ms(), unix_ms() + 3_600_000, "mine", hash_body(request), pack_request(request))
    side = fleet.nodes[1].side
    if door == "push":
        headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
        body = json.dumps({"target": {"token": token}, "title": "a", "idempotency_key": "mine"}).encode()
        made = asyncio.ensure_future(side.calls.ask(2, Asked("POST", "/v1/push", b"/v1/push", b"", headers, body)))
    else:
        made = asyncio.get_running_loop().create_future()
        raw = msgspec.msgpack.encode([msgspec.structs.replace(request, idempotency_key="mine")])
        side.pushes.send("shop", side.pushes.split("shop", raw), lambda _, answer: made.set_result(answer))
        await asyncio.sleep(0)  # its own turn, in which it is sent
    known = int.from_bytes(await side.owners.ask(2, KNOWN, build_kept(what)), "big")
    await made
    assert pending(fleet, token, 2) == [known]


async def test_what_is_under_way_is_told_of_when_it_has_ended(fleet: Fleet) -> None:
    await fleet.create_app("shop")
    body = packed(await fleet.register("shop", 2))
    ask, log = fleet.nodes[1].side.owners.ask, fleet.log(2)
    log.held = []
    taking = asyncio.create_task(ask(2, TAKE, body))
    await until(lambda: log.held)
    knowing = asyncio.create_task(ask(2, KNOWN, body))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not knowing.done()
    log.held[0].set_exception(LogUnavailable())
    assert await knowing == bytes(8)
    with pytest.raises(LogUnavailable):
        await taking


@pytest.mark.parametrize("error", [AcceptTimeout, LogFenced])
async def test_what_nobody_can_say_yet_is_not_answered(fleet: Fleet, error: type[GatewayError]) -> None:
    await fleet.create_app("shop")
    core, log = fleet.core(2), fleet.log(2)
    body = packed(await fleet.register("shop", 2))
    core.backend.config.accept_timeout_s = 0.0 if error is AcceptTimeout else 60.0
    log.held = []
    answerers = fleet.nodes[2].side.owners._answerers
    taking = answerers[TAKE](core, body)
    knowing = asyncio.ensure_future(answerers[KNOWN](core, body))  # type: ignore[arg-type]
    await until(lambda: log.held)
    if error is LogFenced:
        log.held[0].set_exception(LogFenced())
    for asked in (taking, knowing):
        with pytest.raises(error):
            await asked  # type: ignore[misc]
    if not log.held[0].done():
        log.held[0].set_exception(LogUnavailable())


async def test_another_push_with_the_same_key_is_not_taken_back(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    asked = {"target": {"token": token}, "idempotency_key": "order-7"}
    async with fleet.client(1, key) as http, fleet.client(2, key) as elsewhere:
        assert (await elsewhere.post("/v1/push", json={**asked, "title": "first"})).status_code == 201
        fleet.wire.cut.add(1)
        made = await http.post("/v1/push", json={**asked, "title": "other words"})
        assert made.status_code == 202
        fleet.wire.cut.clear()
        spool_of(fleet)._known = fleet.nodes[1].side._intake.known  # before it was taken in
        assert (await http.delete(made.headers["location"])).json() == {"recalled": 1, "too_late": 0}
        assert (await http.get(made.headers["location"])).json()["state"] == "recalled"
        assert len(pending(fleet, token, 2)) == 1


@pytest.mark.parametrize("path", ["/v1/push", "/v1/push/batch"])
@pytest.mark.parametrize("later_s", [0, 50_000])
async def test_a_key_that_a_door_took_is_known_as_long_as_a_spool_may_ask_for_it(
    tmp_path: Path, path: str, later_s: int
) -> None:
    fleet = Fleet(tmp_path / "fleet", api__idempotency_s=0)
    spool = fleet.spools[1] = open_spool(tmp_path / "spool", fleet.nodes[1].metrics, unix_ms)
    async with fleet:
        key = await fleet.create_app("shop")
        token = await fleet.register("shop", 2)
        asked: dict[str, Any] = {"target": {"token": token}, "title": "once", "idempotency_key": "k"}
        if later_s:
            asked["deliver_at"] = int(time.time()) + later_s
        async with fleet.client(1, key) as http:
            fleet.wire.lose_answers = True
            await http.post(path, json=asked if path == "/v1/push" else [asked])
            assert spool.waiting == 1
            fleet.wire.lose_answers = False
            await taken_in(fleet)
        store = fleet.core(2).store
        assert len(store.schedules.of_app("shop") if later_s else pending(fleet, token, 2)) == 1
        lapses = [int.from_bytes(key[:4], "big") for key, _ in store._environment.scan(Db.LAPSES)]
        assert lapses[0] > time.time() + later_s + 86_400 + DOUBT_S  # the default time to live
    await spool.close()


@pytest.mark.parametrize("refusal", [LogUnavailable(), LogFenced()])
@pytest.mark.parametrize("partition", [0, 2])
async def test_a_push_that_its_owner_refused_for_certain_is_kept(
    fleet: Fleet, partition: int, refusal: GatewayError
) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", partition)
    fleet.log(partition).refusal = refusal
    async with fleet.client(1, key) as http:
        assert (await http.post("/v1/push", json={"target": {"token": token}})).status_code == 202


async def test_a_push_that_was_delivered_and_whose_answer_was_lost_has_not_expired(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    now_ms = unix_ms()
    spool = spool_of(fleet)
    spool._clock = lambda: now_ms
    async with fleet.client(1, key) as http:
        fleet.wire.cut.add(1)
        where = (await http.post("/v1/push", json={"target": {"token": token}, "ttl": 60})).headers["location"]
        fleet.wire.lose_answers = True
        fleet.wire.cut.clear()
        start(fleet)
        number = next(iter(spool._rows.waiting(limit=1)))[0]
        await until(lambda: number in spool._doubtful and not spool._taking)
        now_ms += 61_000
        fleet.wire.lose_answers = False
        await until(lambda: spool.waiting == 0)
        shown = (await http.get(where)).json()
        assert (shown["state"], shown["target"]) == ("pending", {"token": token})
