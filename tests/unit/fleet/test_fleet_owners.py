"""Who is asked, how often, and what is told where no answer came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fleet_rig import Fleet, LocalFleet, until
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.http_protocol import Limits
from gateway.api.server import ApiServer
from gateway.fleet.app_book import AppBook, parse_record
from gateway.fleet.app_copies import parse_records
from gateway.fleet.calls import Answered, Asked, build_answer, build_call, parse_answer, parse_call
from gateway.fleet.error_rows import build_error_row, parse_error_row
from gateway.fleet.quota_home import parse_wanted
from gateway.metrics import Metric
from gateway.model.cluster import home_of
from gateway.model.errors import ERRORS, BadRequest, GatewayError, NodeUnreachable
from gateway.model.registration import App


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path) as fleet:
        yield fleet


async def test_where_an_answer_is_lost_nobody_is_asked_again(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    fleet.wire.lose_answers = True
    fleet.wire.asked.clear()
    async with fleet.client(1, key) as http:
        lost = await http.post("/v1/push", json={"target": {"token": token}}, headers={"idempotency-key": "k"})
        assert (lost.status_code, lost.json()["error"]["name"]) == (503, "node_unreachable")
        assert "idempotency" in lost.json()["error"]["message"]
        assert [kind for _, _, kind in fleet.wire.asked] == ["call"]
        fleet.wire.lose_answers = False
        again = await http.post("/v1/push", json={"target": {"token": token}}, headers={"idempotency-key": "k"})
    assert (again.status_code, again.headers["idempotent-replay"]) == (200, "true")


async def test_an_owner_that_refuses_twice_is_503(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    core = fleet.nodes[2].cores.pop(2)  # it is being adopted, or given up
    async with fleet.client(1, key) as http:
        refused = await http.post("/v1/push", json={"target": {"token": token}})
        assert (refused.status_code, refused.json()["error"]["name"]) == (503, "node_unreachable")
        assert fleet.nodes[1].metrics.value(Metric.FLEET_UNREACHABLE, "refused") == 1
        fleet.nodes[2].cores[2] = core
        assert (await http.post("/v1/push", json={"target": {"token": token}})).status_code == 201


async def test_a_node_that_lost_a_partition_does_not_answer_for_it(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 1)
    # its core is still there, but the members know better
    fleet.nodes[1].members.owners = {**fleet.owners, 1: 2}
    async with fleet.client(2, key) as http:
        assert (await http.get(f"/v1/registrations/{token}")).status_code == 503


async def test_a_slow_owner_is_503_after_the_ask_timeout(tmp_path: Path) -> None:
    async with Fleet(tmp_path, cluster__ask_timeout_s=0.1) as fleet:
        key = await fleet.create_app("shop")
        token = await fleet.register("shop", 2)
        fleet.wire.handling.clear()
        async with fleet.client(1, key) as http:
            late = await http.get(f"/v1/registrations/{token}")
        fleet.wire.handling.set()
    assert late.status_code == 503


async def test_a_bug_at_the_owner_is_a_500_that_tells_nothing(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)

    def broken(*_: Any) -> int:
        raise RuntimeError("very secret")

    fleet.core(2).backend.directory.find = broken  # type: ignore[method-assign]
    async with fleet.client(1, key) as http:
        answer = await http.get(f"/v1/registrations/{token}")
    assert answer.status_code == 500
    assert "very secret" not in answer.text
    assert len(answer.headers.get_list("x-request-id")) == 1


async def test_an_app_is_known_to_a_partition_before_it_answers_anybody(fleet: Fleet) -> None:
    key = await fleet.create_app("shop", ttl=77)
    fleet.nodes[2].cores.pop(2)
    core = await fleet.adopt(2, 1)  # elsewhere, and new
    assert core.store.directory.app("shop").ttl_s == 77  # type: ignore[union-attr]
    token = await fleet.register("shop", 2)
    async with fleet.client(2, key) as http:
        assert (await http.post("/v1/push", json={"target": {"token": token}})).status_code == 201


async def test_a_change_reaches_a_partition_that_is_being_adopted(fleet: Fleet) -> None:
    await fleet.create_app("shop")
    core = fleet.nodes[2].cores.pop(2)
    await fleet.nodes[2].side.adopted(core)  # and the rest of its adoption takes a while
    async with fleet.client(1, fleet.operator_key) as operator:
        assert (await operator.patch("/v1/apps/shop", json={"ttl": 8})).status_code == 200
    assert core.store.directory.app("shop").ttl_s == 8  # type: ignore[union-attr]
    fleet.nodes[2].cores[2] = core


async def test_a_change_of_an_app_is_answered_though_a_node_is_away(fleet: Fleet) -> None:
    await fleet.create_app("shop")
    fleet.wire.cut.add(2)
    async with fleet.client(1, fleet.operator_key) as operator:
        assert (await operator.patch("/v1/apps/shop", json={"ttl": 5})).status_code == 200
    assert fleet.nodes[1].metrics.value(Metric.FLEET_APPS_LATE) == 1


async def test_the_copies_find_out_by_themselves(fleet: Fleet) -> None:
    await fleet.create_app("shop")
    fleet.wire.cut.add(2)
    async with fleet.client(1, fleet.operator_key) as operator:
        await operator.patch("/v1/apps/shop", json={"ttl": 5})
    side = fleet.nodes[2].side
    side.copies._pull_s = 0.01
    side.start()
    await asyncio.sleep(0)
    fleet.wire.cut.clear()
    await until(lambda: side.book.app("shop").ttl_s == 5)
    await until(lambda: fleet.core(2).store.directory.app("shop").ttl_s == 5)  # type: ignore[union-attr]
    await asyncio.wait_for(side.copies.is_filled.wait(), 30)


async def test_keys_of_apps_made_one_after_the_other_work_at_once_at_every_node(fleet: Fleet) -> None:
    for at in range(4):
        key = await fleet.create_app(f"app-{at}")
        for node in (1, 2):
            async with fleet.client(node, key) as http:
                assert (await http.get("/v1/scheduled")).status_code == 200


async def test_an_app_that_must_be_there_is_made_once(fleet: Fleet) -> None:
    await asyncio.gather(*(node.side.make_app("demo") for node in fleet.nodes.values()))
    await fleet.nodes[2].side.make_app("demo")
    async with fleet.client(2, fleet.operator_key) as operator:
        apps = (await operator.get("/v1/apps")).json()["apps"]
        assert [app["name"] for app in apps] == ["demo"]
        made = await operator.post("/v1/apps/demo/keys")
    async with fleet.client(1, made.json()["key"]) as http:
        assert (await http.get("/v1/scheduled")).status_code == 200


async def test_other_doors_say_it_in_their_own_words_where_a_node_is_away(fleet: Fleet) -> None:
    await fleet.create_app("shop", webpush="open", apns_topic="com.example.shop")
    token = await fleet.register("shop", 2)
    fleet.wire.cut.add(2)
    async with fleet.client(1) as http:
        apns = await http.post(f"/3/device/{token}", json={"aps": {}}, headers={"apns-topic": "com.example.shop"})
        assert (apns.status_code, apns.json()) == (503, {"reason": "ServiceUnavailable"})
        web = await http.post(f"/push/{token}", headers={"ttl": "5"})
        assert (web.status_code, web.headers["content-type"]) == (503, "application/problem+json")
        assert int(web.headers["retry-after"]) >= 1


async def test_many_apps_are_copied_page_by_page(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.fleet.app_copies.PAGE", 2)
    fleet.wire.cut.add(2)
    for at in range(5):
        await fleet.create_app(f"app-{at}")
    fleet.wire.cut.clear()
    await fleet.nodes[2].side.copies.pull()
    assert fleet.nodes[2].side.book.app_names() == [f"app-{at}" for at in range(5)]
    assert sorted(fleet.core(2).store.directory.app_names()) == [f"app-{at}" for at in range(5)]


# --- the real bus of one process, real sockets


async def test_all_of_it_works_over_the_bus_with_frames(tmp_path: Path) -> None:
    async with LocalFleet(tmp_path) as fleet:
        key = await fleet.create_app("shop", node=2)
        tokens = [await fleet.register("shop", partition, alias="ann") for partition in (0, 1, 2)]
        async with fleet.client(2, key) as http:
            pushed = [await http.post("/v1/push", json={"target": {"token": token}}) for token in tokens]
            assert [answer.status_code for answer in pushed] == [201] * 3
            batch = await http.post("/v1/push/batch", json=[{"target": {"token": token}} for token in tokens])
            assert batch.text.count('"status":201') == 3
            assert (await http.get("/v1/registrations?alias=ann")).json()["count"] == 3
            for answer in pushed:
                assert (await http.delete(f"/v1/push/{answer.json()['id']}")).status_code == 200
            waiting = await http.get("/v1/receipts", params={"wait": 5})
            assert waiting.json()["receipts"]
            fleet.network.cut(1, 2)
            lost = await http.post("/v1/push", json={"target": {"token": tokens[0]}})
            assert lost.status_code == 503


async def test_a_provider_over_sockets_is_answered_and_leaves_nothing_when_it_goes(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    side = fleet.nodes[1].side
    server = ApiServer(side.app, side.backend, limits=Limits(max_connections=10))
    await server.start()
    try:
        base = f"http://127.0.0.1:{server.port}"
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=base, headers=headers) as http:
            token = await fleet.register("shop", 2)
            assert (await http.post("/v1/push", json={"target": {"token": token}})).status_code == 201
            async with http.stream("GET", "/v1/receipts/stream") as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("id: "):
                        break
                assert side.backend.metrics.value(Metric.API_WATCHERS) == 1
        await until(lambda: side.backend.metrics.value(Metric.API_WATCHERS) == 0)
        assert not side.feeds._waiting
    finally:
        await server.stop(timeout_s=1)


async def test_a_drain_ends_those_who_wait(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    side = fleet.nodes[1].side
    async with fleet.client(1, key) as http:
        waiting = asyncio.create_task(http.get("/v1/receipts", params={"wait": 30}))
        await until(lambda: bool(side.feeds._waiting))
        side.backend.stopping.set()
        page = await asyncio.wait_for(waiting, 30)
    assert page.json() == {"receipts": [], "cursor": 0}


# --- the wire

_HEADERS = st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=4)


@given(
    asked=st.builds(
        Asked,
        method=st.sampled_from(["GET", "POST"]),
        path=st.text(max_size=20),
        raw_path=st.binary(max_size=20),
        query=st.binary(max_size=20),
        headers=_HEADERS,
        body=st.binary(max_size=50),
    ),
    answered=st.builds(
        Answered, status=st.integers(100, 599), headers=_HEADERS, body=st.binary(max_size=50), app=st.text(max_size=5)
    ),
)
def test_requests_and_answers_come_through(asked: Asked, answered: Answered) -> None:
    assert parse_call(build_call(asked)) == asked
    assert parse_answer(build_answer(answered)) == answered


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**40) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
).map(msgspec.msgpack.encode)


@given(body=st.binary() | _ANY)
def test_what_no_node_says_is_refused(body: bytes) -> None:
    for parse, error in (
        (parse_call, BadRequest),
        (parse_answer, NodeUnreachable),
        (parse_records, BadRequest),
        (parse_record, BadRequest),
        (parse_wanted, BadRequest),
    ):
        with contextlib.suppress(error):
            parse(body)


@given(code=st.sampled_from(sorted(ERRORS)), message=st.text(min_size=1, max_size=9), field=st.text(max_size=5))
def test_an_error_comes_through(code: int, message: str, field: str) -> None:
    error = ERRORS[code](message, field=field, after_ms=17)
    again = parse_error_row(msgspec.msgpack.decode(msgspec.msgpack.encode(build_error_row(error))))
    assert (type(again), again.message, again.field, again.after_ms) == (ERRORS[code], message, field, 17)


def test_an_error_that_is_not_known_here_is_an_internal_one() -> None:
    assert type(parse_error_row([999, "new", "", 0])) is GatewayError
    with pytest.raises(BadRequest):
        parse_error_row(["x"])


@given(name=st.text(max_size=70), partitions=st.sampled_from([1, 2, 16, 1024]))
def test_a_home_is_a_partition(name: str, partitions: int) -> None:
    assert 0 <= home_of(name, partitions) < partitions


def test_a_book_knows_how_many_changes_it_has_seen() -> None:
    book, encode = AppBook(), msgspec.msgpack.encode
    for changes in (0, 3, 1, 3):
        book.put(encode(App(name="shop", number=4, changes=changes)))
    book.put(encode(App(name="news", number=5, changes=1)))
    assert book.mark == (3 + 1) + (1 + 1)
    assert (book.app_name(4), book.app_name(5), book.app_name(6)) == ("shop", "news", None)
