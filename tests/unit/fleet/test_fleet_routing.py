"""A provider may ask any node: it is answered as one gateway would, by whose partition it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fleet_rig import PARTITIONS, Fleet

from gateway.auth.api_keys import build_key_text
from gateway.model.cluster import home_of, partition_of_seq


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path) as fleet:
        yield fleet


@pytest.mark.parametrize("node", [1, 2])
async def test_a_push_is_taken_in_by_the_partition_of_its_token(fleet: Fleet, node: int) -> None:
    key = await fleet.create_app("shop", node)
    async with fleet.client(node, key) as http:
        for partition in range(PARTITIONS):
            token = await fleet.register("shop", partition)
            pushed = await http.post("/v1/push", json={"target": {"token": token}, "title": "hi"})
            assert pushed.status_code == 201, pushed.text
            seq = fleet.push_ids.parse(pushed.json()["id"], "shop")
            assert seq is not None
            assert partition_of_seq(seq) == partition
            assert len(pushed.headers.get_list("x-request-id")) == 1
            for asked in (1, 2):
                async with fleet.client(asked, key) as other:
                    shown = await other.get(f"/v1/push/{pushed.json()['id']}")
                assert shown.status_code == 200, shown.text
                assert shown.json()["deliveries"][0]["token"] == token


async def test_a_push_is_recalled_through_any_node(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    async with fleet.client(1, key) as one, fleet.client(2, key) as two:
        pushed = await one.post("/v1/push", json={"target": {"token": token}})
        path = f"/v1/push/{pushed.json()['id']}"
        assert (await two.delete(path)).json() == {"recalled": 1, "too_late": 0}
        assert (await one.get(path)).json()["state"] == "done"
        assert (await one.get(path + "/statistics")).json()["recalled"] == 1


async def test_a_key_works_at_every_node_when_the_answer_is_there(fleet: Fleet) -> None:
    key = await fleet.create_app("shop", 2)
    for node in (1, 2):
        async with fleet.client(node, key) as http:
            assert (await http.get("/v1/registrations?alias=ann")).status_code == 200
    numbers = {
        core.store.directory.app("shop").number  # type: ignore[union-attr]
        for node in fleet.nodes.values()
        for core in node.cores.values()
    }
    assert numbers == {1}


async def test_a_deleted_key_works_at_no_node(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    async with fleet.client(2, fleet.operator_key) as operator:
        keys = (await operator.get("/v1/apps/shop/keys")).json()["keys"]
        assert (await operator.delete(f"/v1/apps/shop/keys/{keys[0]['id']}")).status_code == 204
    for node in (1, 2):
        async with fleet.client(node, key) as http:
            assert (await http.get("/v1/scheduled")).status_code == 401


async def test_secrets_of_an_app_reach_all_partitions_and_no_book(fleet: Fleet) -> None:
    await fleet.create_app("shop", receipts_url="https://shop.example/r", receipts_secret="very secret")
    for node in fleet.nodes.values():
        book = node.side.book
        assert "very secret" not in repr(book.app("shop"))
        assert b"very secret" not in book.raw("shop")
        for core in node.cores.values():
            app = core.store.directory.app("shop")
            assert app is not None
            assert app.receipts_secret == "very secret"


async def test_a_node_that_was_away_catches_up_with_changed_apps(fleet: Fleet) -> None:
    await fleet.create_app("shop")
    fleet.wire.cut.add(2)
    async with fleet.client(1, fleet.operator_key) as operator:
        assert (await operator.patch("/v1/apps/shop", json={"ttl": 60})).status_code == 200
    await fleet.create_app("news")
    core = fleet.core(2)
    assert core.store.directory.app("shop").ttl_s == 0  # type: ignore[union-attr]
    fleet.wire.cut.clear()
    side = fleet.nodes[2].side
    await side.copies.pull()
    assert core.store.directory.app("shop").ttl_s == 60  # type: ignore[union-attr]
    assert core.store.directory.app("news") is not None
    assert side.book.mark == fleet.nodes[1].side.book.mark


async def test_an_older_record_never_takes_the_place_of_a_newer(fleet: Fleet) -> None:
    await fleet.create_app("shop")
    old = fleet.core(0).store.directory.export_app("shop")
    assert old is not None
    async with fleet.client(1, fleet.operator_key) as operator:
        await operator.patch("/v1/apps/shop", json={"ttl": 60})
    assert fleet.nodes[2].side.book.put(old) is None
    await fleet.nodes[2].side.copies.catch_up(fleet.core(2))
    assert fleet.core(2).store.directory.app("shop").ttl_s == 60  # type: ignore[union-attr]


async def test_a_partition_that_can_not_be_asked_is_503_with_retry_after(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    here = await fleet.register("shop", 1)
    fleet.wire.cut.add(2)
    async with fleet.client(1, key) as http:
        refused = await http.post("/v1/push", json={"target": {"token": token}})
        assert refused.status_code == 503
        assert refused.json()["error"]["name"] == "node_unreachable"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await http.post("/v1/push", json={"target": {"token": here}})).status_code == 201
        listed = await http.get("/v1/registrations?tag=beta")
        assert listed.status_code == 503


async def test_the_new_owner_is_asked_where_the_old_one_refused(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    # node 1 believes that 2 owns it; 2 knows better
    fleet.nodes[2].members.owners = {0: 1, 1: 1, 2: 1}
    await fleet.adopt(2, 1)
    token = await fleet.register("shop", 2)
    believed = dict(fleet.owners)
    fleet.nodes[1].members.owners = {**believed, 2: 2}
    asked = fleet.wire.asked

    def learn() -> None:
        fleet.nodes[1].members.owners = believed

    asyncio.get_running_loop().call_soon(learn)
    asked.clear()
    async with fleet.client(1, key) as http:
        pushed = await http.post("/v1/push", json={"target": {"token": token}})
    assert pushed.status_code == 201, pushed.text


async def test_where_nobody_owns_it_nothing_is_asked(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    fleet.owners[2] = 0
    fleet.wire.asked.clear()
    async with fleet.client(1, key) as http:
        refused = await http.post("/v1/push", json={"target": {"token": token}})
    assert refused.status_code == 503
    assert fleet.wire.asked == []


async def test_registrations_of_an_alias_are_listed_over_all_partitions(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", p, alias="ann", tags=["beta"]) for p in (0, 0, 1, 2, 2)]
    async with fleet.client(2, key) as http:
        whole = (await http.get("/v1/registrations", params={"alias": "ann"})).json()
        assert whole["count"] == 5
        assert [row["token"] for row in whole["registrations"]] == tokens
        assert whole["next_offset"] is None
        found: list[str] = []
        offset: int | None = 0
        while offset is not None:
            page = (await http.get("/v1/registrations", params={"tag": "beta", "offset": offset, "limit": 2})).json()
            assert len(page["registrations"]) <= 2
            found += [row["token"] for row in page["registrations"]]
            offset = page["next_offset"]
        assert found == tokens


async def test_scheduled_pushes_are_listed_over_all_partitions(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    async with fleet.client(1, key) as http:
        due = int(fleet.core(0).backend.now_ms() // 1000) + 600
        ids = []
        for partition in range(PARTITIONS):
            token = await fleet.register("shop", partition)
            pushed = await http.post("/v1/push", json={"target": {"token": token}, "deliver_at": due})
            assert pushed.status_code == 201
            ids.append(pushed.json()["id"])
        listed = (await http.get("/v1/scheduled", params={"limit": 2})).json()
        assert listed["count"] == PARTITIONS
        assert [row["id"] for row in listed["scheduled"]] == ids[:2]
        assert listed["next_offset"] == 2
        assert (await http.delete(f"/v1/push/{ids[0]}")).status_code == 200
        assert (await http.get("/v1/scheduled")).json()["count"] == PARTITIONS - 1


async def test_a_registration_is_changed_and_revoked_through_any_node(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    path = f"/v1/registrations/{token}"
    async with fleet.client(1, key) as http:
        assert (await http.put(path, json={"alias": "ann"})).json()["alias"] == "ann"
        assert (await http.delete(path)).status_code == 204
        assert (await http.get(path)).status_code == 404
        assert (await http.post("/v1/push", json={"target": {"token": token}})).status_code == 404


async def test_the_same_key_and_body_is_one_push_through_all_nodes(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    ids = set()
    for node in (1, 2):
        async with fleet.client(node, key) as http:
            body = {"target": {"token": token}, "title": "once"}
            answer = await http.post("/v1/push", json=body, headers={"idempotency-key": "k1"})
        assert answer.status_code == (201 if node == 1 else 200)
        ids.add(answer.json()["id"])
    assert len(ids) == 1


@pytest.mark.parametrize("per_s", [3])
async def test_an_apps_rate_counts_pushes_of_all_partitions(fleet: Fleet, per_s: int) -> None:
    key = await fleet.create_app("shop", limits={"per_s": 0, "per_day": per_s})
    tokens = [await fleet.register("shop", partition) for partition in range(PARTITIONS)]
    statuses = []
    for turn in range(2 * PARTITIONS):
        async with fleet.client(1 + turn % 2, key) as http:
            pushed = await http.post("/v1/push", json={"target": {"token": tokens[turn % PARTITIONS]}})
        statuses.append(pushed.status_code)
    assert statuses == [201] * per_s + [429] * (2 * PARTITIONS - per_s)
    used = [
        core.store.quotas.used(1, "", core.backend.now_ms() // 86_400_000)
        for core in map(fleet.core, range(PARTITIONS))
    ]
    assert used == [per_s if partition == home_of("shop", PARTITIONS) else 0 for partition in range(PARTITIONS)]


async def test_a_web_push_and_its_message_find_their_partition(fleet: Fleet) -> None:
    await fleet.create_app("shop", webpush="open")
    for partition in range(PARTITIONS):
        token = await fleet.register("shop", partition)
        async with fleet.client(1) as http:
            plain = await http.post(f"/push/{token}", headers={"ttl": "60"})
            assert plain.status_code == 201, plain.text
            async with fleet.client(2) as other:
                shown = await other.get(plain.headers["location"].removeprefix("http://fleet"))
                assert shown.status_code == 200, shown.text
            assert (await http.get(f"/push/{token}")).json() == {"unifiedpush": {"version": 1}}


async def test_an_apns_push_finds_its_partition_by_hex_too(fleet: Fleet) -> None:
    await fleet.create_app("shop", apns_topic="com.example.shop")
    token = await fleet.register("shop", 2)
    async with fleet.client(1) as http:
        refused = await http.post(f"/3/device/{token}", json={"aps": {}}, headers={"apns-topic": "com.example.shop"})
        assert refused.json() == {"reason": "MissingProviderToken"}
        assert fleet.wire.asked[-1] == (1, 2, "call")


async def test_a_nodes_own_routes_ask_nobody(fleet: Fleet) -> None:
    fleet.nodes[1].reasons.append("NATS is away")
    fleet.wire.asked.clear()
    async with fleet.client(1) as http:
        assert (await http.get("/healthz")).json() == {"status": "alive"}
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["NATS is away"])
        assert (await http.get("/metrics")).status_code == 200
        assert "/v1/push" in (await http.get("/openapi.json")).json()["paths"]
        assert (await http.options("/push/anything")).status_code == 204
        assert (await http.post("/3/device/")).json() == {"reason": "MissingDeviceToken"}
        assert (await http.get("/nowhere")).status_code == 404
    assert fleet.wire.asked == []


async def test_a_key_is_not_called_wrong_by_a_node_that_may_not_know_it_yet(fleet: Fleet) -> None:
    """As one that was started a moment ago, or that the owner of the apps does not reach."""
    copies = fleet.nodes[2].side.copies
    copies._pulled_at = float("-inf")
    async with fleet.client(2, build_key_text("abcd1234")) as unknown:
        answer = await unknown.get("/v1/scheduled")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        await copies.pull()
        assert (await unknown.get("/v1/scheduled")).status_code == 401
    copies._pulled_at = float("-inf")
    async with fleet.client(2, "this is no key") as nobody:
        assert (await nobody.get("/v1/scheduled")).status_code == 401


async def test_a_key_that_is_in_the_book_is_known_at_once(fleet: Fleet) -> None:
    """Though a wrong one was looked for just before."""
    async with fleet.client(2, build_key_text("abcd1234")) as wrong:
        assert (await wrong.get("/v1/scheduled")).status_code == 401
    key = await fleet.create_app("shop")
    async with fleet.client(2, key) as http:
        assert (await http.get("/v1/scheduled")).status_code == 200
