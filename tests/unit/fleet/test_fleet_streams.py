"""A provider stream at any node: pushes go to their partitions in order, receipts come from all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bare_device import BareDevice, frame, pack
from fleet_rig import PARTITIONS, Fleet, until

from gateway.client import Provider
from gateway.fleet import pushes
from gateway.fleet.pushes import Answer, Part
from gateway.metrics import Metric
from gateway.model.cluster import home_of, partition_of_seq
from gateway.model.errors import GatewayError, NodeUnreachable, TooManyRequests, Unauthorized
from gateway.model.frames import FrameType
from gateway.model.registration import build_token


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path, edge__provider_batch=50, edge__provider_window=120) as fleet:
        for number, node in fleet.nodes.items():
            # any edge carries the frames of providers: here that of a core of this node
            edge = next(core.edge for core in node.cores.values())
            node.streams = node.side.build_streams(edge, fleet.config.edge)
            edge.open_to_providers(node.streams)
            node.port = edge.port
            assert fleet.nodes[number].port
        yield fleet
        for node in fleet.nodes.values():
            await node.streams.close()


async def _stream(fleet: Fleet, node: int, key: str) -> BareDevice:
    link = await BareDevice(fleet.nodes[node].port).connect()
    link.send(FrameType.HELLO, {"v": 1, "role": "provider", "key": key})
    await link.receive(FrameType.WELCOME)
    return link


async def _push(link: BareDevice, req: int, *pushes: Any) -> list[Any]:
    link.send(FrameType.PUSH, {"req": req, "pushes": list(pushes)})
    pushed = await link.receive(FrameType.PUSHED)
    assert pushed["req"] == req
    return list(pushed["results"])


def _to(token: str, **fields: Any) -> dict[str, Any]:
    return {"target": {"token": token}, **fields}


@pytest.mark.parametrize("node", [1, 2])
async def test_results_of_all_partitions_come_in_the_order_of_the_batch(fleet: Fleet, node: int) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in (2, 0, 1, 2)]
    link = await _stream(fleet, node, key)
    results = await _push(link, 3, *(_to(token, title="hi") for token in tokens), _to("A" * 22), 5)
    seqs = [fleet.push_ids.parse(result, "shop") for result in results[:4]]
    assert [partition_of_seq(seq) for seq in seqs if seq is not None] == [2, 0, 1, 2]
    assert [result["name"] for result in results[4:]] == ["unknown_token", "bad_request"]
    link.close()


async def test_pushes_to_one_token_keep_their_order_through_batches(fleet: Fleet) -> None:
    key = await fleet.create_app("shop", limits={"per_s": 1_000_000})  # so that each batch asks for its quota first
    tokens = [await fleet.register("shop", partition) for partition in range(PARTITIONS)]
    link = await _stream(fleet, 1, key)
    for batch in range(4):
        pushes = [_to(tokens[at % PARTITIONS], title="x") for at in range(20)]
        link.send(FrameType.PUSH, {"req": batch + 1, "pushes": pushes})
    seqs: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}
    answers = {}
    for _ in range(4):
        pushed = await link.receive(FrameType.PUSHED)
        answers[pushed["req"]] = pushed["results"]
    for req in sorted(answers):
        for result in answers[req]:
            seq = fleet.push_ids.parse(result, "shop")
            assert seq is not None
            seqs[partition_of_seq(seq)].append(seq)
    for theirs in seqs.values():
        assert theirs == sorted(theirs)
    link.close()


async def test_batches_of_one_turn_go_to_an_owner_as_one_and_each_hears_of_its_own(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in range(PARTITIONS)]
    link = await _stream(fleet, 1, key)
    fleet.wire.asked.clear()
    store = fleet.core(2).store
    rows = len(store.batches)
    batches = [[_to(tokens[(req + at) % PARTITIONS], title="x") for at in range(7)] for req in range(1, 5)]
    batches[2][3] = _to("A" * 22)
    push = b"".join(pack(FrameType.PUSH, {"req": req, "pushes": batch}) for req, batch in enumerate(batches, 1))
    link.send_raw(push)
    answers = {}
    for _ in batches:
        pushed = await link.receive(FrameType.PUSHED)
        answers[pushed["req"]] = pushed["results"]
    of_partition: dict[int, list[int]] = {}
    for req, batch in enumerate(batches, 1):
        assert len(answers[req]) == len(batch)
        for at, result in enumerate(answers[req]):
            if (req, at) == (3, 3):
                assert result["name"] == "unknown_token"
                continue
            seq = fleet.push_ids.parse(result, "shop")
            assert seq is not None
            assert partition_of_seq(seq) == (req + at) % PARTITIONS
            of_partition.setdefault(partition_of_seq(seq), []).append(seq)
    for seqs in of_partition.values():
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert len(store.batches) - rows == [kind for _, node, kind in fleet.wire.asked if node == 2].count("pushes")
    link.close()


@pytest.mark.parametrize("node", [1, 2])
async def test_what_is_looked_at_alone_is_not_overtaken_by_the_next_batch(fleet: Fleet, node: int) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    link = await _stream(fleet, node, key)
    batches = [[_to(token, title="x", collapse_key="k")], [_to(token, title="y")], [_to(token, title="z")]]
    link.send_raw(b"".join(pack(FrameType.PUSH, {"req": req, "pushes": batch}) for req, batch in enumerate(batches, 1)))
    answers = {}
    for _ in batches:
        pushed = await link.receive(FrameType.PUSHED)
        answers[pushed["req"]] = fleet.push_ids.parse(pushed["results"][0], "shop")
    assert answers[1] < answers[2] < answers[3]
    link.close()


async def test_a_partition_whose_journal_stands_still_holds_nobody_else_up(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in (0, 1)]
    stuck: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    log = fleet.core(1).store.committer._log
    assert log is not None
    log.append = lambda rows: stuck  # type: ignore[method-assign]
    link = await _stream(fleet, 2, key)
    link.send_raw(
        b"".join(pack(FrameType.PUSH, {"req": req, "pushes": [_to(token)]}) for req, token in enumerate(tokens))
    )
    pushed = await link.receive(FrameType.PUSHED)
    assert pushed["req"] == 0
    assert isinstance(pushed["results"][0], str)
    stuck.set_result(1)
    pushed = await link.receive(FrameType.PUSHED)
    assert pushed["req"] == 1
    link.close()


async def test_a_node_that_ends_leaves_nobody_waiting_for_an_answer(fleet: Fleet) -> None:
    await fleet.create_app("shop")
    side = fleet.nodes[1].side
    token = await fleet.register("shop", 2)
    fleet.wire.open.clear()
    parts = side.pushes.split("shop", msgspec.msgpack.encode([_to(token)]))
    told: list[Answer] = []
    side.pushes.send("shop", parts, lambda _, answer: told.append(answer))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    side.pushes.send("shop", parts, lambda _, answer: told.append(answer))
    await side.pushes.close()
    assert len(told) == 2
    side.pushes.send("shop", parts, lambda _, answer: told.append(answer))  # after its end
    await until(lambda: len(told) == 3)
    assert all(isinstance(answer.at(0), NodeUnreachable) for answer in told)


async def test_a_frame_that_is_no_msgpack_ends_its_link_alone(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    body = msgspec.msgpack.encode({"req": 1, "pushes": [_to(token)] * 3})
    other = await _stream(fleet, 1, key)
    for garbage in (b"\xc1", body[:-1], body + b"\xc0"):
        link = await _stream(fleet, 1, key)
        link.send_raw(frame(FrameType.PUSH, garbage))
        assert (await link.receive(FrameType.ERROR))["name"] == "malformed_frame"
    assert isinstance((await _push(other, 1, _to(token)))[0], str)


async def test_nothing_overtakes_what_waits_for_an_owner(fleet: Fleet) -> None:
    await fleet.create_app("shop")
    side = fleet.nodes[1].side
    token = await fleet.register("shop", 2)
    (part,) = side.pushes.split("shop", msgspec.msgpack.encode([_to(token)]))
    owner, fleet.owners[part.partition] = fleet.owners[part.partition], 0
    told: dict[str, Answer] = {}
    came = asyncio.Event()

    def send(name: str) -> None:
        def hear(_: Part, answer: Answer) -> None:
            told[name] = answer
            if len(told) == 3:
                came.set()

        side.pushes.send("shop", [part], hear)

    send("waits")
    for _ in range(5):
        await asyncio.sleep(0)
    send("behind it")
    fleet.owners[part.partition] = owner
    side.owners.owner_changed(part.partition)
    await asyncio.sleep(0)
    send("last")
    async with asyncio.timeout(60):
        await came.wait()
    first = told["waits"].first
    assert [told[name].first for name in ("waits", "behind it", "last")] == [first, first + 1, first + 2]


async def test_while_much_is_under_way_what_comes_in_a_few_turns_goes_out_as_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "BUSY_LOADS", 1)
    await fleet.create_app("shop")
    side = fleet.nodes[1].side
    token = await fleet.register("shop", 2)
    (part,) = side.pushes.split("shop", msgspec.msgpack.encode([_to(token)]))
    told: list[Answer] = []
    asked = len(fleet.wire.asked)
    fleet.wire.handling.clear()
    side.pushes.send("shop", [part], lambda _, answer: told.append(answer))
    await until(lambda: len(fleet.wire.asked) == asked + 1)
    for _ in range(3):
        side.pushes.send("shop", [part], lambda _, answer: told.append(answer))
        await asyncio.sleep(0)
    await until(lambda: len(fleet.wire.asked) == asked + 2)
    fleet.wire.handling.set()
    await until(lambda: len(told) == 4)
    assert len(fleet.wire.asked) == asked + 2
    assert [answer.first for answer in told] == list(range(told[0].first, told[0].first + 4))


async def test_a_part_that_is_too_large_to_grow_leaves_the_next_its_own(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "MOST_PUSHES", 10)
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    link = await _stream(fleet, 1, key)
    link.send_raw(b"".join(pack(FrameType.PUSH, {"req": req, "pushes": [_to(token)] * 7}) for req in range(1, 6)))
    seqs = []
    for req in range(1, 6):
        pushed = await link.receive(FrameType.PUSHED)
        assert pushed["req"] == req
        seqs += [fleet.push_ids.parse(result, "shop") for result in pushed["results"]]
    assert seqs == list(range(seqs[0], seqs[0] + 35))  # in order, through several parts
    link.close()


async def test_the_window_holds_for_all_partitions_together(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 2)
    link = await _stream(fleet, 1, key)
    fleet.wire.open.clear()
    for req in (1, 2, 3):
        link.send(FrameType.PUSH, {"req": req, "pushes": [_to(token)] * 50})
    refused = await link.receive(FrameType.PUSHED)
    assert refused["req"] == 3
    assert {result["name"] for result in refused["results"]} == {"queue_full"}
    fleet.wire.open.set()
    for _ in range(2):
        pushed = await link.receive(FrameType.PUSHED)
        assert all(isinstance(result, str) for result in pushed["results"])
    assert all(isinstance(result, str) for result in await _push(link, 4, *[_to(token)] * 50))
    link.close()


async def test_an_unreachable_partition_refuses_its_pushes_alone(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", partition) for partition in range(PARTITIONS)]
    fleet.wire.cut.add(2)
    async with Provider("127.0.0.1", fleet.nodes[1].port, key=key) as provider:
        results = await asyncio.gather(
            *(provider.push(target={"token": token}, title="hi") for token in tokens), return_exceptions=True
        )
    assert [isinstance(result, GatewayError) for result in results] == [False, False, True]
    assert isinstance(results[2], NodeUnreachable)


async def test_a_quota_is_one_for_streams_of_all_nodes(fleet: Fleet) -> None:
    key = await fleet.create_app("shop", limits={"per_day": 5})
    token = await fleet.register("shop", 1)
    told: list[Any] = []
    for node in (1, 2):
        link = await _stream(fleet, node, key)
        told += await _push(link, 1, *[_to(token)] * 4)
        link.close()
    assert [isinstance(result, str) for result in told] == [True] * 5 + [False] * 3
    assert told[-1]["name"] == TooManyRequests.name


async def test_what_was_refused_is_given_back_to_the_day_at_the_home(fleet: Fleet) -> None:
    key = await fleet.create_app("shop", limits={"per_day": 9})
    token = await fleet.register("shop", 1)
    home = fleet.core(home_of("shop", PARTITIONS))
    for node in (1, 2):
        link = await _stream(fleet, node, key)
        told = await _push(link, 1, _to(build_token(bytes([255] * 16))), _to(token))
        assert [isinstance(result, str) for result in told] == [False, True]
        await until(lambda used=node: home.store.quotas.used(1, "", home.backend.now_ms() // 86_400_000) == used)  # type: ignore[misc]


async def test_receipts_of_all_partitions_come_over_the_stream(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    link = await _stream(fleet, 2, key)
    link.send(FrameType.RECEIPTS, {"req": 9, "after": 0, "window": 4})
    await link.receive(FrameType.DONE)
    ids = []
    async with fleet.client(1, key) as http:
        for at in range(10):
            token = await fleet.register("shop", at % PARTITIONS)
            pushed = await http.post("/v1/push", json=_to(token))
            ids.append(pushed.json()["id"])
            await http.delete(f"/v1/push/{ids[-1]}")
    told: list[dict[str, Any]] = []
    while len(told) < 10:
        receipt = await link.receive(FrameType.RECEIPT)
        assert len(receipt["receipts"]) <= 4
        told += receipt["receipts"]
        link.send(FrameType.RECEIVED, {"cursor": receipt["cursor"]})
    assert sorted(row["push"] for row in told) == sorted(ids)
    assert [row["cursor"] for row in told] == sorted(row["cursor"] for row in told)
    link.close()


async def test_a_key_that_is_deleted_ends_the_stream_at_the_next_batch(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    token = await fleet.register("shop", 1)
    link = await _stream(fleet, 2, key)
    async with fleet.client(1, fleet.operator_key) as operator:
        keys = (await operator.get("/v1/apps/shop/keys")).json()["keys"]
        await operator.delete(f"/v1/apps/shop/keys/{keys[0]['id']}")
    link.send(FrameType.PUSH, {"req": 1, "pushes": [_to(token)]})
    assert (await link.receive(FrameType.ERROR))["name"] == Unauthorized.name
    await until(lambda: link.closed)


async def test_a_stream_that_is_cut_leaves_nothing_behind(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    link = await _stream(fleet, 1, key)
    link.send(FrameType.RECEIPTS, {"req": 1, "after": 0})
    await link.receive(FrameType.DONE)
    node = fleet.nodes[1]
    assert node.metrics.value(Metric.PROVIDER_STREAMS) == 1
    link.close()
    await until(lambda: node.metrics.value(Metric.PROVIDER_STREAMS) == 0)
    await until(lambda: not node.side.feeds._waiting)


@pytest.mark.parametrize("pushes", [{}, 7, None, "x"])
async def test_what_is_no_array_of_pushes_is_refused(fleet: Fleet, pushes: Any) -> None:
    key = await fleet.create_app("shop")
    link = await _stream(fleet, 1, key)
    link.send(FrameType.PUSH, {"req": 4, "pushes": pushes})
    error = await link.receive(FrameType.ERROR)
    assert (error["name"], error["req"]) == ("invalid_field", 4)
    link.close()
