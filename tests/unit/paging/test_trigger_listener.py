"""The listener for the network's reports before peers that are slow, large, wrong or many (C10)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trigger_scene import QUIET, TriggerScene, until

from gateway.metrics import Metric, Metrics
from gateway.paging.trigger.callback_paths import REPORTS, WATCHED, CallbackPaths
from gateway.paging.trigger.listener import Bounds, Listener
from gateway.paging.trigger.notifications import (
    BadNotification,
    Reachability,
    Report,
    parse_monitoring,
    parse_report,
)
from gateway.paging.trigger.notifications import Test as Probe


class Door:
    """A listener, and what it was told."""

    def __init__(self, **bounds: Any) -> None:
        self.metrics = Metrics(process=False)
        self.posts: list[tuple[str, bytes]] = []
        values = {"connections": 4, "body_bytes": 1_000, "timeout_s": 2.0, **bounds}
        self.listener = Listener("127.0.0.1", 0, Bounds(**values), self.metrics, self.on_post)

    def on_post(self, path: str, body: bytes) -> int:
        self.posts.append((path, body))
        return 204

    async def __aenter__(self) -> Door:
        self.listener.start()
        assert await self.listener.opened(5)
        self.port = int(self.listener.url.rpartition(":")[2])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, data: bytes) -> bytes:
        """All that is answered, until the door closes or the answer is whole."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(60):
                return await reader.read()
        except OSError:
            return b""
        finally:
            writer.close()

    def counted(self, result: str) -> float:
        return self.metrics.value(Metric.TRIGGER_CALLBACKS, result)


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


def post(body: bytes, *headers: str, path: str = "/x", kind: str = "application/json") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: a", f"content-type: {kind}", *headers]
    if not any(line.startswith("transfer-encoding") for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_posts_one_after_the_other_on_one_connection() -> None:
    async with Door() as door:
        chunked = post(b"3\r\nabc\r\n0\r\n\r\n", "transfer-encoding: chunked", kind="application/json; charset=utf-8")
        answer = await door.say(post(b"{}") + chunked + post(b"", path="/y"))
        assert answer.count(b"HTTP/1.1 204") == 3
        assert door.posts == [("/x", b"{}"), ("/x", b"abc"), ("/y", b"")]


async def test_one_who_waits_to_be_told_to_go_on_is_told() -> None:
    async with Door() as door:
        reader, writer = await door.connect()
        writer.write(post(b"", "expect: 100-continue", "content-length: 2").replace(b"content-length: 0\r\n", b""))
        assert await reader.readline() == b"HTTP/1.1 100 \r\n"
        await reader.readline()
        writer.write(b"{}")
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        writer.close()


@pytest.mark.parametrize(
    ("data", "status", "result"),
    [
        (b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n", b"405", "malformed"),
        (post(b"{}", kind="text/plain"), b"415", "malformed"),
        (post(b"x" * 1_001), b"413", "too_large"),
        (post(b"3e9\r\n" + b"x" * 1_001 + b"\r\n0\r\n\r\n", "transfer-encoding: chunked"), b"413", "too_large"),
        (post(b"", f"x: {'y' * 100_000}"), b"431", "malformed"),
        (b"garbage\r\n\r\n", b"400", "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400", "malformed"),
        (b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", b"400", "malformed"),
        (post(b"{}", "content-length: 3"), b"400", "malformed"),
        (post(b"{}")[:-1], b"", "malformed"),
    ],
)
async def test_what_is_no_report_is_refused_and_never_given_on(data: bytes, status: bytes, result: str) -> None:
    async with Door() as door:
        answer = await door.say(data)
        if status and answer:  # what was not read of it may have reset the connection
            assert answer[9:12] == status
        assert door.posts == []
        await until(lambda: door.counted(result) == 1)


async def test_a_slow_one_is_cut_off_and_a_quiet_one_too() -> None:
    async with Door(timeout_s=0.5) as door:
        began = time.monotonic()
        reader, writer = await door.connect()
        writer.write(post(b"{}")[:-1])
        quiet, quiet_writer = await door.connect()
        assert await reader.read() == b""
        assert await quiet.read() == b""
        assert time.monotonic() - began < 5
        assert door.counted("slow") == 1
        writer.close()
        quiet_writer.close()
        assert b"204" in await door.say(post(b"{}"))


async def test_one_that_never_reads_its_answer_is_cut_off() -> None:
    async with Door(timeout_s=0.3) as door:
        _, writer = await door.connect()
        for _ in range(50):
            writer.write(post(b"{}") * 200)
            await asyncio.sleep(0)
        await until(lambda: not door.listener._connections)
        writer.close()


async def test_one_connection_too_many_is_closed_and_counted_and_room_comes_back() -> None:
    async with Door(connections=2) as door:
        held = [await door.connect() for _ in range(2)]
        await until(lambda: len(door.listener._connections) == 2)
        assert await door.say(post(b"{}")) == b""
        assert door.counted("busy") == 1
        for _, writer in held:
            writer.close()
        await until(lambda: not door.listener._connections)
        assert b"204" in await door.say(post(b"{}"))


async def test_a_report_that_can_not_be_kept_is_to_be_repeated_and_its_text_is_not_told() -> None:
    async with Door() as door:

        def fail(path: str, body: bytes) -> int:
            raise ValueError(body)

        door.listener._on_post = fail
        with structlog.testing.capture_logs() as logs:
            assert b" 500 " in await door.say(post(b"geheim"))
        assert logs == [{"event": "trigger_report_failed", "log_level": "error", "error": "ValueError"}]
        assert door.counted("failed") == 1


async def test_it_closes_with_connections_open() -> None:
    door = Door()
    async with door:
        reader, writer = await door.connect()
        await until(lambda: len(door.listener._connections) == 1)
    assert await reader.read() == b""
    writer.close()


# --- through the notifier


async def test_paths_that_were_not_drawn_lead_nowhere() -> None:
    async with TriggerScene() as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push()).ok
        (trigger,) = scene.scef.triggers
        url = trigger.body["notificationDestination"]
        root, _, name = url.partition(REPORTS)
        body = {"transaction": trigger.url, "result": "SUCCESS"}
        for path in (
            "/",
            REPORTS,
            REPORTS + "x",
            REPORTS + name + "/",
            REPORTS + name[:-1],
            REPORTS + name.swapcase(),
            f"{REPORTS}{name}?a=1",
            f"/elsewhere{REPORTS}{name}",
            REPORTS + "y" * 5_000,
            REPORTS + "%00",
        ):
            assert await scene.scef.post(root + path, body) == 404
        assert scene.history.words == []
        assert scene.callbacks("unknown") == 10
        assert await scene.scef.post(url, body) == 204
        assert await scene.scef.post(url, body) == 204
        assert scene.callbacks("repeated") == 1


async def test_repeated_reports_are_known_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.paging.trigger.t8.MOST_OVER", 2)
    async with TriggerScene() as scene:
        scene.scef.behaviour = QUIET
        for registration in (1, 2, 3):
            assert (await scene.push(registration=registration)).ok
            assert await scene.scef.report(scene.scef.triggers[-1], "SUCCESS") == 204
        again = [await scene.scef.report(trigger, "SUCCESS") for trigger in scene.scef.triggers]
        assert again == [404, 204, 204]
        assert len(scene.history.words) == 3


async def test_a_path_that_a_proxy_leaves_or_takes_away() -> None:
    async with TriggerScene(callback_url="https://push.example.com:8443/reports/") as scene:
        scene.scef.behaviour = QUIET
        assert (await scene.push()).ok
        (trigger,) = scene.scef.triggers
        outside = trigger.body["notificationDestination"]
        assert outside.startswith(f"https://push.example.com:8443/reports{REPORTS}")
        inside = scene.notifier._way._listener.url  # type: ignore[attr-defined]
        body = {"transaction": trigger.url, "result": "TRIGGERED"}
        for prefix in ("/reports", ""):
            assert await scene.scef.post(inside + prefix + outside[outside.index("/3gpp") :], body) == 204


async def test_a_test_notification_is_asked_for_until_one_came() -> None:
    async with TriggerScene(test_notification=True) as scene:
        scene.scef.tests = False
        assert (await scene.push(registration=1)).ok
        assert scene.scef.triggers[0].body["supportedFeatures"] == "2"
        scene.scef.tests = True
        assert (await scene.push(registration=2)).ok
        await until(lambda: scene.callbacks("test") == 1)
        assert (await scene.push(registration=3)).ok
        asked = [trigger.body.get("requestTestNotification") for trigger in scene.scef.triggers]
        assert asked == [True, True, None]
        await until(lambda: len(scene.history.words) == 3)
        scene.assert_strict()


# --- parsers


@given(st.binary(max_size=400))
def test_bytes_are_a_notification_or_a_refusal(body: bytes) -> None:
    for parse in (parse_report, parse_monitoring):
        with contextlib.suppress(BadNotification):
            assert isinstance(parse(body), Report | Reachability | Probe)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["SUCCESS", "UE_REACHABILITY"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["monitoringType", "x"]) | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)
_NAMES = st.sampled_from(["transaction", "result", "subscription", "monitoringEventReports", "cancelInd"])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_NAMES, _VALUES))
def test_any_json_is_a_notification_or_a_refusal(found: dict[str, Any]) -> None:
    for parse in (parse_report, parse_monitoring):
        with contextlib.suppress(BadNotification):
            assert isinstance(parse(json.dumps(found).encode()), Report | Reachability | Probe)


def test_json_that_is_too_deep_is_refused() -> None:
    for parse in (parse_report, parse_monitoring):
        with pytest.raises(BadNotification):
            parse(b'{"subscription":' + b"[" * 100_000)


def test_a_path_is_found_again_and_says_nothing_of_its_name() -> None:
    paths = CallbackPaths("https://a.example/p")
    path, digest = paths.draw(REPORTS)
    assert paths.find(path) == (REPORTS, digest)
    assert paths.find(f"/p{path}") == (REPORTS, digest)
    assert paths.find(path.replace(REPORTS, WATCHED)) == (WATCHED, digest)
    assert len({paths.draw(REPORTS)[0] for _ in range(100)}) == 100
    assert CallbackPaths("").find(path) != (REPORTS, digest)


@given(st.text(max_size=200))
def test_any_path_is_one_or_none(path: str) -> None:
    found = CallbackPaths("https://a.example/p").find(path)
    assert found is None or found[0] in (REPORTS, WATCHED)
