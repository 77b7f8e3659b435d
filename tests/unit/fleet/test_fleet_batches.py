"""A batch at any node: each push goes to its partition, results come in the order of the batch."""

from __future__ import annotations

import contextlib
import json
import string
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleet_rig import PARTITIONS, Fleet, Wire, WireBus, until
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.batch_gathering import pack_array
from gateway.fleet.owners import Owners
from gateway.fleet.pushes import (
    ManyPushes,
    Part,
    PlainBounds,
    Pushed,
    parse_answer,
    parse_pushes,
    place_seqs,
)
from gateway.metrics import Metrics
from gateway.model.cluster import home_of, partition_of, partition_of_seq
from gateway.model.errors import BadRequest, GatewayError, NodeUnreachable
from gateway.model.registration import build_token

_CHARS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"


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


async def test_a_key_for_the_whole_batch_is_refused(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    async with fleet.client(1, key) as http:
        answer = await http.post(
            "/v1/push/batch", json=[{"target": {"everyone": True}}], headers={"idempotency-key": "all"}
        )
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "Idempotency-Key")


async def test_a_batch_is_one_message_to_another_node_however_many_partitions_it_has(fleet: Fleet) -> None:
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


async def test_what_was_refused_is_given_back_to_the_day_at_the_home(fleet: Fleet) -> None:
    key = await fleet.create_app("shop", limits={"per_day": 9})
    tokens = [await fleet.register("shop", partition) for partition in range(PARTITIONS)]
    unknown = build_token(bytes([255] * 16))
    home = fleet.core(home_of("shop", PARTITIONS))

    async def counted(wanted: int) -> None:
        await until(lambda: home.store.quotas.used(1, "", home.backend.now_ms() // 86_400_000) == wanted)

    for node in (1, 2):
        async with fleet.client(node, key) as http:
            batch = [{"target": {"token": token}} for token in (unknown, *tokens, unknown)]
            lines = _lines((await http.post("/v1/push/batch", json=batch)).text)
            assert [line["status"] for line in lines] == [404, 201, 201, 201, 404]
            await counted(4 * node - 1)
            assert (await http.post("/v1/push", json={"target": {"token": unknown}})).status_code == 404
            await counted(4 * node - 1)
            assert (await http.post("/v1/push", json={"target": {"token": tokens[0]}})).status_code == 201
            await counted(4 * node)


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


class _Members:
    def __init__(self, partitions: int) -> None:
        self.partitions = partitions


BOUNDS = PlainBounds(push_bytes=4_096, inline_bytes=2_048, most_ttl_s=86_400)


def _pushes(partitions: int) -> ManyPushes:
    owners = Owners(WireBus(Wire(), 1), _Members(partitions), {}, Metrics(process=False), timeout_s=1.0)  # type: ignore[arg-type]
    return ManyPushes(owners, 1.0, BOUNDS)


@given(token=st.binary(min_size=16, max_size=16), partitions=st.sampled_from([1, 2, 16, 128, 1024]))
def test_the_first_characters_of_a_token_say_its_partition(token: bytes, partitions: int) -> None:
    packed = msgspec.msgpack.encode([{"title": "x", "target": {"token": build_token(token)}}])
    (part,) = _pushes(partitions).split("shop", packed)
    assert part == (partition_of(token, partitions), 1, pack_array([packed[1:]], 1), bytes(4), True)


_ROW = (
    st.integers(1, 2**63)
    | st.tuples(st.integers(0, 2**63), st.none() | st.integers(0, 9), st.booleans())
    | st.tuples(st.sampled_from([1, 32, 57]), st.text(max_size=9), st.text(max_size=9), st.integers(0, 9))
)


@given(rows=st.lists(_ROW))
def test_results_come_through(rows: list[Any]) -> None:
    answer = parse_answer(msgspec.msgpack.encode(rows), len(rows))
    for at, row in enumerate(rows):
        result = answer.at(at)
        if isinstance(row, int):
            assert result == Pushed(row)
        elif len(row) == 3:
            assert result == Pushed(*row)
        else:
            assert isinstance(result, GatewayError)
            assert (result.code, result.field) == (row[0], row[2])


@given(first=st.integers(1, 2**62), places=st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=20))
def test_a_run_of_sequences_comes_to_the_places_of_its_part(first: int, places: list[int]) -> None:
    part = Part(0, len(places), b"", array("I", places).tobytes(), True)
    seqs = array("Q", bytes(8 * 100))
    answer = parse_answer(msgspec.msgpack.encode(first), len(places))
    assert place_seqs(seqs, part, answer) == {}
    assert [seqs[place] for place in places] == [answer.at(at).seq for at in range(len(places))]  # type: ignore[union-attr]
    assert sum(map(bool, seqs)) == len(places)


def test_only_what_is_more_than_a_sequence_is_told_apart() -> None:
    part = Part(0, 3, b"", array("I", [4, 0, 2]).tobytes(), True)
    seqs = array("Q", bytes(8 * 5))
    error = (1, "no", "", 0)
    others = place_seqs(seqs, part, parse_answer(msgspec.msgpack.encode([7, (8, None, True), error]), 3))
    assert list(seqs) == [0, 0, 0, 0, 7]
    assert others[0] == Pushed(8, None, True)
    assert isinstance(others[2], GatewayError)


@given(body=st.binary() | st.recursive(st.none() | st.integers(-5, 5), st.lists).map(msgspec.msgpack.encode))
def test_what_is_no_message_of_a_node_is_refused(body: bytes) -> None:
    pushes = _pushes(4)
    with contextlib.suppress(BadRequest):
        parse_pushes(body)
    with contextlib.suppress(BadRequest):
        pushes.split("shop", body)
    for count in (0, 1):
        with contextlib.suppress(NodeUnreachable):
            parse_answer(body, count)


@pytest.mark.parametrize("answer", [0, -1, [], [1, 2]])
def test_an_answer_for_other_pushes_is_none(answer: Any) -> None:
    with pytest.raises(NodeUnreachable):
        parse_answer(msgspec.msgpack.encode(answer), 1)


_JUNK = st.none() | st.integers(0, 9) | st.text(max_size=4) | st.lists(st.integers(0, 3), max_size=2)
_TOKEN = st.binary(min_size=16, max_size=16).map(build_token)
_PUSH = st.fixed_dictionaries(
    {}, optional={"target": _JUNK | st.fixed_dictionaries({}, optional={"token": _JUNK | _TOKEN}), "x": _JUNK}
)


@given(pushes=st.lists(_PUSH | _JUNK, max_size=12), most=st.integers(0, 13))
def test_each_push_goes_to_the_partition_of_its_token_and_others_home(pushes: list[Any], most: int) -> None:
    partitions, home = 16, home_of("shop", 16)
    packed = msgspec.msgpack.encode(pushes)
    expected: dict[int, list[int]] = {}
    for place, push in enumerate(pushes[:most]):
        target = push.get("target") if isinstance(push, dict) else None
        token = target.get("token") if isinstance(target, dict) else None
        partition = home
        if isinstance(token, str) and len(token) >= 2 and all(c in _CHARS for c in token[:2]):
            partition = (_CHARS.index(token[0]) << 6 | _CHARS.index(token[1])) // 4 * partitions // 1024
        expected.setdefault(partition, []).append(place)
    parts = _pushes(partitions).split("shop", packed, most)
    assert [part.partition for part in parts] == list(expected)
    for part in parts:
        places = expected[part.partition]
        assert (part.length, list(part.each_place())) == (len(places), places)
        assert msgspec.msgpack.decode(part.pushes) == [pushes[place] for place in places]


def test_of_a_name_that_stands_twice_the_last_counts() -> None:
    first, last = (bytes([high]) + bytes(15) for high in (0, 255))
    key, text = msgspec.msgpack.encode("target"), [msgspec.msgpack.encode(build_token(t)) for t in (first, last)]
    inner = [b"\x81" + msgspec.msgpack.encode("token") + each for each in text]
    twice = b"\x91\x82" + key + inner[0] + key + inner[1]
    assert [part.partition for part in _pushes(16).split("shop", twice)] == [15]


@pytest.mark.parametrize(
    "body", [b"", b"\xdd\xff\xff\xff\xff", b"\x91", b"\x92\x01", b"\x90\x00", b"\x91\xc1", b"\x80"]
)
def test_what_is_no_whole_array_of_pushes_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        _pushes(16).split("shop", body)


@pytest.mark.parametrize(
    ("fields", "is_plain"),
    [
        ({"title": "a", "text": "b", "ttl": 60, "urgency": "high", "data": {"a": [1]}}, True),
        ({"collapse_key": "k"}, False),
        ({"idempotency_key": "k"}, False),
        ({"ttl": 86_401}, False),
        ({"data": "x" * 2_100}, False),
        ({"text": "x" * 4_097}, False),
        ({"urgency": "odd"}, False),
    ],
)
def test_a_part_is_plain_where_nothing_of_it_is_looked_at_alone(fields: dict[str, Any], is_plain: bool) -> None:
    target = {"token": build_token(bytes(16))}
    packed = msgspec.msgpack.encode([{"target": target, "title": "a"}, {"target": target, **fields}])
    assert [part.is_plain for part in _pushes(16).split("shop", packed)] == [is_plain]
