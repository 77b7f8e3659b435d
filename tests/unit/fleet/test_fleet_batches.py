"""A batch at any node: each push goes to its partition, results come in the order of the batch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleet_rig import PARTITIONS, Fleet
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.pushes import (
    Pushed,
    pack_array,
    parse_pushes,
    parse_results,
    partition_of_text,
    split,
    tokens_of,
)
from gateway.model.cluster import home_of, partition_of, partition_of_seq
from gateway.model.errors import BadRequest, GatewayError, NodeUnreachable
from gateway.model.registration import build_token


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path) as fleet:
        yield fleet


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line]


@pytest.mark.parametrize("node", [1, 2])
async def test_results_come_in_the_order_of_the_batch(fleet: Fleet, node: int) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in (2, 0, 1, 2, 1, 0)]
    batch = [{"target": {"token": token}, "title": str(at)} for at, token in enumerate(tokens)]
    async with fleet.client(node, key) as http:
        answer = await http.post("/v1/push/batch", json=batch)
        lines = _lines(answer.text)
        assert [line["index"] for line in lines] == list(range(6))
        assert [line["status"] for line in lines] == [201] * 6
        for token, line in zip(tokens, lines, strict=True):
            shown = (await http.get(f"/v1/push/{line['id']}")).json()
            assert shown["target"]["token"] == token


async def test_a_batch_is_one_message_for_each_partition_of_another_node(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in (0, 1, 2)]
    fleet.wire.asked.clear()
    batch = [{"target": {"token": tokens[at % 3]}, "title": "hi"} for at in range(300)]
    async with fleet.client(1, key) as http:
        answer = await http.post("/v1/push/batch", json=batch)
    assert [line["status"] for line in _lines(answer.text)] == [201] * 300
    assert [kind for _, node, kind in fleet.wire.asked if node == 2] == ["pushes"]


async def test_what_is_wrong_with_one_is_told_of_that_one(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    unknown = build_token(bytes([255] * 16))
    batch: list[Any] = [
        {"target": {"token": token}},
        {"target": {"token": unknown}},
        {"target": {}},
        {"target": {"token": token}, "nonsense": 1},
        {"target": {"token": token}, "idempotency_key": "k"},
        {"target": {"token": token}, "idempotency_key": "k"},
        {"target": {"token": token}, "ttl": 4_000_000_000},
        {"target": {"token": token}, "fallback": ["nothing-like-it"]},
        17,
        {"target": {"token": "!"}},
    ]
    answers = []
    for node in (1, 2):
        async with fleet.client(node, key) as http:
            answers.append(_lines((await http.post("/v1/push/batch", json=batch)).text))
    assert [line["status"] for line in answers[0]] == [201, 404, 400, 400, 201, 200, 400, 400, 400, 404]
    assert [line["status"] for line in answers[1]] == [201, 404, 400, 400, 200, 200, 400, 400, 400, 404]
    assert answers[0][1]["error"]["name"] == "unknown_token"
    assert answers[0][7]["error"]["field"] == "fallback"


async def test_pushes_of_a_partition_that_can_not_be_asked_are_refused_and_no_others(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in range(PARTITIONS)]
    fleet.wire.cut.add(2)
    async with fleet.client(1, key) as http:
        answer = await http.post("/v1/push/batch", json=[{"target": {"token": token}} for token in tokens])
    lines = _lines(answer.text)
    assert [line["status"] for line in lines] == [201, 201, 503]
    assert lines[2]["error"]["retry_after_ms"] > 0


async def test_a_daily_quota_is_one_for_the_whole_batch(fleet: Fleet) -> None:
    key = await fleet.create_app("shop", limits={"per_day": 4})
    tokens = [await fleet.register("shop", partition) for partition in range(PARTITIONS)]
    batch = [{"target": {"token": tokens[at % PARTITIONS]}} for at in range(7)]
    async with fleet.client(2, key) as http:
        lines = _lines((await http.post("/v1/push/batch", json=batch)).text)
    assert [line["status"] for line in lines] == [201] * 4 + [429] * 3


async def test_a_batch_in_msgpack_is_answered_in_msgpack(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    body = msgspec.msgpack.encode([{"target": {"token": token}}])
    async with fleet.client(1, key, headers={"content-type": "application/msgpack"}) as http:
        answer = await http.post("/v1/push/batch", content=body)
    assert msgspec.msgpack.decode(answer.content)["status"] == 201


async def test_a_push_without_a_token_is_its_apps_homes(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    await fleet.register("shop", home_of("shop", PARTITIONS), alias="ann")
    async with fleet.client(2, key) as http:
        answer = await http.post("/v1/push/batch", json=[{"target": {"alias": "ann"}}])
    seq = fleet.push_ids.parse(_lines(answer.text)[0]["id"], "shop")
    assert seq is not None
    assert partition_of_seq(seq) == home_of("shop", PARTITIONS)


# --- the parts


@given(token=st.binary(min_size=16, max_size=16), partitions=st.sampled_from([1, 2, 16, 128, 1024]))
def test_the_first_characters_of_a_token_say_its_partition(token: bytes, partitions: int) -> None:
    assert partition_of_text(build_token(token), partitions, -1) == partition_of(token, partitions)


_ROW = (
    st.integers(0, 2**63)
    | st.tuples(st.integers(0, 2**63), st.none() | st.integers(0, 9), st.booleans())
    | st.tuples(st.sampled_from([1, 32, 57]), st.text(max_size=9), st.text(max_size=9), st.integers(0, 9))
)


@given(rows=st.lists(_ROW))
def test_results_come_through(rows: list[Any]) -> None:
    for row, result in zip(rows, parse_results(msgspec.msgpack.encode(rows)), strict=True):
        if isinstance(row, int):
            assert result == Pushed(row)
        elif len(row) == 3:
            assert result == Pushed(*row)
        else:
            assert isinstance(result, GatewayError)
            assert (result.code, result.field) == (row[0], row[2])


@given(body=st.binary() | st.recursive(st.none() | st.integers(-5, 5), st.lists).map(msgspec.msgpack.encode))
def test_what_is_no_message_of_a_node_is_refused(body: bytes) -> None:
    for parse, error in ((parse_pushes, BadRequest), (parse_results, NodeUnreachable), (split, BadRequest)):
        with contextlib.suppress(error):
            parse(body)


_JUNK = st.none() | st.integers(0, 9) | st.text(max_size=4) | st.lists(st.integers(0, 3), max_size=2)
_PUSH = st.fixed_dictionaries(
    {}, optional={"target": _JUNK | st.fixed_dictionaries({}, optional={"token": _JUNK}), "x": _JUNK}
)


@given(pushes=st.lists(_PUSH | _JUNK, max_size=8))
def test_tokens_are_read_one_by_one_where_one_is_no_push(pushes: list[Any]) -> None:
    packed = msgspec.msgpack.encode(pushes)
    parts = split(packed)
    expected = []
    for push in pushes:
        target = push.get("target") if isinstance(push, dict) else None
        token = target.get("token", "") if isinstance(target, dict) else ""
        expected.append(token if isinstance(token, str) else "")
    assert tokens_of(packed, parts) == expected
    assert msgspec.msgpack.decode(pack_array(parts, len(parts))) == pushes
