"""A node with a spool among others: real doors, real cores; the bus is cut and joined again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fleet_rig import Fleet, until
from spool_scene import open_spool

from gateway.fleet.spool import Spool
from gateway.push_core import unix_ms


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
