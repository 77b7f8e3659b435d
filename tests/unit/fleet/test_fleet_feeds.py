"""Feeds of all partitions as one: in order, without a gap, held back by a partition that can not be asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from fleet_rig import PARTITIONS, Fleet, until
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet import feeds
from gateway.fleet.feeds import Row, _Found, merge, parse_wanted
from gateway.metrics import Metric
from gateway.model.cluster import CURSOR_SHIFT
from gateway.model.errors import BadRequest
from gateway.push_core import unix_ms


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path) as fleet:
        yield fleet


async def _end_some(fleet: Fleet, http: httpx.AsyncClient, count: int) -> list[str]:
    """Pushes that are over: recalled, partition after partition."""
    ids = []
    for at in range(count):
        token = await fleet.register("shop", at % PARTITIONS)
        pushed = await http.post("/v1/push", json={"target": {"token": token}})
        await http.delete(f"/v1/push/{pushed.json()['id']}")
        ids.append(pushed.json()["id"])
    return ids


async def _read_all(http: httpx.AsyncClient, count: int, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = 0
    async with asyncio.timeout(60):
        while len(found) < count:
            page = (await http.get("/v1/receipts", params={"after": after, **params})).json()
            found += page["receipts"]
            after = page["cursor"]
    return found


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_receipts_of_all_partitions_come_in_one_order(fleet: Fleet, limit: int) -> None:
    key = await fleet.create_app("shop")
    async with fleet.client(1, key) as one, fleet.client(2, key) as two:
        ids = await _end_some(fleet, one, 7)
        first = await _read_all(one, 7, limit=limit, wait=1)
        second = await _read_all(two, 7, limit=100, wait=1)
    assert [row["cursor"] for row in first] == sorted(row["cursor"] for row in first)
    assert {row["push"] for row in first} == set(ids)
    assert len(first) == 7
    assert first == second


async def test_a_reader_that_waits_is_told_of_a_receipt_of_another_node(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    async with fleet.client(1, key) as http:
        waiting = asyncio.create_task(http.get("/v1/receipts", params={"wait": 10}))
        await until(lambda: any(kind == "feed.each" for _, _, kind in fleet.wire.asked))
        token = await fleet.register("shop", 2)
        pushed = await http.post("/v1/push", json={"target": {"token": token}})
        await http.delete(f"/v1/push/{pushed.json()['id']}")
        page = (await asyncio.wait_for(waiting, 10)).json()
    assert [row["push"] for row in page["receipts"]] == [pushed.json()["id"]]


async def test_an_unreachable_partition_holds_the_feed_back_and_makes_no_gap(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    async with fleet.client(1, key) as http:
        ids = await _end_some(fleet, http, 6)
        fleet.wire.cut.add(2)
        held = await http.get("/v1/receipts")
        assert held.json()["receipts"] == []
        assert held.headers["heliograph-feed"] == "held"
        assert fleet.nodes[1].metrics.value(Metric.FLEET_FEED_HELD) > 0
        fleet.wire.cut.clear()
        rows = await _read_all(http, 6, wait=1)
    assert {row["push"] for row in rows} == set(ids)


async def test_a_partition_that_holds_a_feed_back_for_long_is_in_the_log_once_and_once_more_when_it_goes_on(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await fleet.create_app("shop")
    async with fleet.client(1, key) as http:
        await _end_some(fleet, http, PARTITIONS)
        fleet.wire.cut.add(2)
        with structlog.testing.capture_logs() as early:
            await http.get("/v1/receipts")
        with structlog.testing.capture_logs() as logs, monkeypatch.context() as patched:
            patched.setattr(feeds, "TELLS_HELD_S", 0.0)
            await http.get("/v1/receipts", params={"wait": 0})
            await http.get("/v1/receipts", params={"wait": 0})
            patched.undo()
            fleet.wire.cut.clear()
            async with asyncio.timeout(60):
                while not any(line["event"] == "feed_goes_on" for line in logs):
                    await http.get("/v1/receipts", params={"wait": 1})
    theirs = {partition for partition, node in fleet.owners.items() if node == 2}
    assert not [line for line in early if line["event"] == "feed_held"]
    held = [line for line in logs if line["event"] == "feed_held"]
    assert {line["partition"] for line in held} == theirs
    assert len(held) == len(theirs)
    assert {(line["feed"], line["node"], line["why"]) for line in held} == {("receipts", 2, "NodeUnreachable")}
    assert {line["partition"] for line in logs if line["event"] == "feed_goes_on"} == theirs


async def test_an_event_stream_tells_each_receipt_once_and_goes_on_after_its_id(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    async with fleet.client(1, key) as http:
        ids = await _end_some(fleet, http, 5)
        events = await _events(fleet, key, "0", 5)
        assert {data["push"] for _, data in events} == set(ids)
        middle = next(number for number, _ in events if number)
        rest = await _events(fleet, key, middle, sum(int(data["cursor"]) > int(middle) for _, data in events))
        assert [data for _, data in rest] == [data for _, data in events if data["cursor"] > int(middle)]


async def _events(fleet: Fleet, key: str, after: str, count: int) -> list[tuple[str, dict[str, Any]]]:
    """From a stream that is left open until `count` came."""
    found: list[tuple[str, dict[str, Any]]] = []
    sent: list[bytes] = []
    done = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))
        text = b"".join(sent).decode()
        found[:] = [
            (_field(event, "id"), json.loads(_field(event, "data")))
            for event in text.split("\n\n")
            if "event: receipt" in event
        ]
        if len(found) >= count:
            done.set()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/receipts/stream",
        "raw_path": b"/v1/receipts/stream",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(b"authorization", f"Bearer {key}".encode()), (b"last-event-id", after.encode())],
    }
    async with asyncio.timeout(60):
        await fleet.nodes[2].side.app(scope, receive, send)  # type: ignore[arg-type]
    assert len(found) == count
    return found


def _field(event: str, name: str) -> str:
    return next((line.removeprefix(f"{name}: ") for line in event.splitlines() if line.startswith(f"{name}: ")), "")


async def test_dead_tokens_of_all_partitions_come_in_one_order(fleet: Fleet) -> None:
    key = await fleet.create_app("shop")
    tokens = [await fleet.register("shop", at % PARTITIONS) for at in range(5)]
    async with fleet.client(2, key) as http:
        for token in tokens:
            assert (await http.delete(f"/v1/registrations/{token}")).status_code == 204
        found: list[dict[str, Any]] = []
        after = 0
        async with asyncio.timeout(60):
            while len(found) < 5:
                page = (await http.get("/v1/dead-tokens", params={"after": after, "limit": 2})).json()
                found += page["dead_tokens"]
                after = page["cursor"]
    assert {row["token"] for row in found} == set(tokens)
    assert [row["cursor"] for row in found] == sorted(row["cursor"] for row in found)


async def test_a_web_push_receipt_is_found_through_any_node(fleet: Fleet) -> None:
    await fleet.create_app("shop", webpush="open")
    subscription = ""
    messages = []
    async with fleet.client(1) as one, fleet.client(2) as two:
        for partition in range(PARTITIONS):
            token = await fleet.register("shop", partition)
            named = {"push-receipt": subscription} if subscription else {}
            pushed = await one.post(f"/push/{token}", headers={"ttl": "60", "prefer": "respond-async", **named})
            assert pushed.status_code == 202, pushed.text
            subscription = subscription or pushed.headers["link"].partition("<")[2].partition(">")[0]
            messages.append(pushed.headers["location"])
            assert (await two.delete(pushed.headers["location"])).status_code == 204
        told = []
        resume: dict[str, str] = {}
        async with asyncio.timeout(60):
            while len(told) < PARTITIONS:
                receipt = await two.get(subscription, headers={"prefer": "wait=5", **resume})
                assert receipt.status_code == 410, receipt.text
                told.append(receipt.headers["link"].partition("<")[2].partition(">")[0])
                resume = {"last-event-id": receipt.headers["last-event-id"]}
        nothing = await two.get(subscription, headers={"prefer": "wait=0", **resume})
    assert sorted(told) == sorted(messages)
    assert nothing.status_code == 202


async def test_web_push_receipts_with_one_cursor_are_told_one_by_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two partitions may settle something in the same millisecond."""
    await fleet.create_app("shop", webpush="open")
    # every partition gives the same numbers
    for partition in range(PARTITIONS):
        core = fleet.core(partition)
        monkeypatch.setattr(core.store._receipt_numbers, "_clock", lambda: 1_000_000)
    subscription = ""
    messages = []
    async with fleet.client(1) as http:
        for partition in range(PARTITIONS):
            token = await fleet.register("shop", partition)
            named = {"push-receipt": subscription} if subscription else {}
            pushed = await http.post(f"/push/{token}", headers={"ttl": "60", "prefer": "respond-async", **named})
            subscription = subscription or pushed.headers["link"].partition("<")[2].partition(">")[0]
            messages.append(pushed.headers["location"])
        for message in messages:
            await http.delete(message)
        told: list[str] = []
        resume: dict[str, str] = {"last-event-id": "0"}
        async with asyncio.timeout(60):
            while len(told) < PARTITIONS:
                receipt = await http.get(subscription, headers={"prefer": "wait=5", **resume})
                assert receipt.status_code == 410, receipt.text
                told.append(receipt.headers["link"].partition("<")[2].partition(">")[0])
                resume = {"last-event-id": receipt.headers["last-event-id"]}
    assert sorted(told) == sorted(messages)


# --- merging


@given(
    feeds=st.lists(st.lists(st.integers(1, 30), unique=True, max_size=12).map(sorted), min_size=1, max_size=4),
    lag=st.lists(st.integers(0, 12), min_size=4, max_size=4),
    limit=st.integers(1, 9),
    share=st.integers(1, 5),
)
def test_whatever_the_watermarks_each_row_is_told_once_in_order(
    feeds: list[list[int]], lag: list[int], limit: int, share: int
) -> None:
    """Partitions answer with at most `share` rows and with watermarks that lag behind; they come up in the end."""
    told: list[tuple[int, int]] = []
    after = 0
    for turn in range(200):
        late = lag if turn < 20 else [0] * 4
        answers, full = {}, set()
        for partition, cursors in enumerate(feeds):
            mark = 31 - late[partition]
            rows = [Row(c, bytes([partition])) for c in cursors if c > after][:share]
            if len(rows) >= share:
                full.add(partition)
            answers[partition] = _Found(rows, rows[-1].cursor if len(rows) >= share else mark)
        pulled = merge(answers, frozenset(full), after, limit)
        assert pulled.cursor >= after
        assert all(row.cursor > after for row in pulled.rows)
        # what was promised: a watermark is never passed by what is not told
        told += [(row.cursor, row.raw[0]) for row in pulled.rows]
        after = pulled.cursor
    assert told == sorted((cursor, partition) for partition, cursors in enumerate(feeds) for cursor in cursors)


def test_rows_with_one_cursor_are_never_torn_apart() -> None:
    found = {p: _Found([Row(5, bytes([p])), Row(6, bytes([p]))], 9) for p in range(3)}
    assert [row.cursor for row in merge(found, frozenset(), 0, 1).rows] == [5, 5, 5]
    assert [row.cursor for row in merge(found, frozenset(), 0, 4).rows] == [5, 5, 5]
    assert [row.cursor for row in merge(found, frozenset(), 5, 9).rows] == [6, 6, 6]


def test_nothing_above_the_lowest_watermark_is_told() -> None:
    found = {0: _Found([Row(5, b""), Row(8, b"")], 9), 1: _Found([], 6)}
    pulled = merge(found, frozenset(), 0, 10)
    assert [row.cursor for row in pulled.rows] == [5]
    assert pulled.cursor == 6
    assert pulled.is_held


@given(
    body=st.binary()
    | st.lists(st.integers(-9, 2**63) | st.text(max_size=3) | st.binary(max_size=3)).map(msgspec.msgpack.encode)
)
def test_what_is_no_question_about_a_feed_is_refused(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parse_wanted(body)


async def test_a_partition_whose_clock_was_an_hour_ahead_holds_nothing_back(fleet: Fleet) -> None:
    """The others number on behind it; and what they tell then is not passed over."""
    key = await fleet.create_app("shop")
    async with fleet.client(1, key) as http:
        ahead = fleet.core(0)
        ahead.store.receipts.watermark((unix_ms() + 3_600_000) << CURSOR_SHIFT)
        await ahead.store.committer.flush()
        ahead.store.receipts.watermark((unix_ms() + 3_600_000) << CURSOR_SHIFT)
        ids = await _end_some(fleet, http, 6)
        rows = await _read_all(http, 6, wait=0)
        assert {row["push"] for row in rows} == set(ids)
        assert rows[-1]["cursor"] > (unix_ms() + 3_000_000) << CURSOR_SHIFT
        later = await _end_some(fleet, http, 3)
        rows = await _read_all(http, 9, wait=0)
        assert {row["push"] for row in rows[6:]} == set(later)
