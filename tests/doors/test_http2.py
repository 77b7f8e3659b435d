"""HTTP/2 at the provider door: requests, both flow controls, bounds, smuggling, floods, drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from api_doubles import Door
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)
from raw_http2 import RawHttp2
from web_push_sender import Sender

from gateway.api.http2_frames import PREFACE
from gateway.api.http_protocol import Limits
from gateway.api.server import ApiServer
from gateway.metrics import Metric
from gateway.model.registration import ApnsKey


@contextlib.asynccontextmanager
async def serving(door: Door, **limits: float) -> AsyncIterator[ApiServer]:
    server = ApiServer(door.asgi, door.backend, limits=Limits(**limits))  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.stop(timeout_s=2)


def web(door: Door, server: ApiServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{server.port}",
        headers={"authorization": f"Bearer {door.app_key}"},
        http1=False,
        http2=True,
        trust_env=False,
    )


def cut(door: Door, reason: str) -> float:
    return door.metrics.value(Metric.API_CUT, reason)


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def key_of(door: Door) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {door.app_key}"), ("content-type", "application/json")]


# --- it works -----------------------------------------------------------------------------------------------------


async def test_a_push_over_prior_knowledge_http2_beside_http1_on_the_same_port():
    door = Door()
    async with serving(door) as server, web(door, server) as two:
        answers = await asyncio.gather(*(two.post("/v1/push", json=door.to_token()) for _ in range(50)))
        assert {(a.status_code, a.http_version) for a in answers} == {(201, "HTTP/2")}
        assert answers[0].headers["location"].startswith("/v1/push/")
        assert "date" in answers[0].headers
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as one:
            answer = await one.get("/healthz")
            assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
    await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)


async def test_a_preface_in_pieces_is_one():
    door = Door()
    async with serving(door) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for byte in PREFACE:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(SettingsFrame(0).serialize())
        async with asyncio.timeout(60):
            head = await reader.readexactly(9)
        assert head[3] == 4  # SETTINGS
        writer.close()


async def test_what_is_advertised():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        assert (await client.get("/healthz")).status == 200
        settings = client.h2.remote_settings
        assert settings.max_concurrent_streams == 1_000
        assert settings.max_header_list_size == Limits().headers_bytes
        assert settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL, 0) == 0


async def test_head_has_no_body_and_unknown_paths_answer_in_the_one_shape():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        head = await client.answer(client.begin("HEAD", "/healthz"))
        assert (head.status, head.body) == (200, b"")
        missing = await client.get("/nothing")
        assert missing.status == 404
        assert json.loads(missing.body)["error"]["name"] == "not_found"
        assert (await client.answer(client.begin("DELETE", "/healthz"))).status == 405


async def test_a_body_in_pieces_and_a_query_and_percent_signs():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        body = json.dumps(door.to_token()).encode()
        stream = client.begin("POST", "/v1/push", key_of(door), end=False)
        for byte in body:
            client.data(stream, bytes([byte]))
        client.data(stream, b"", end=True)
        assert (await client.answer(stream)).status == 201
        page = await client.get("/v1/registrations?alias=%61nn", key_of(door))
        assert json.loads(page.body)["count"] == 1


async def test_a_large_answer_waits_for_the_peers_window():
    door = Door()
    for _ in range(3_000):
        door.floors.settle("chat")
    async with serving(door) as server, RawHttp2(server.port) as client:
        answer = await client.get("/v1/receipts?limit=1000", key_of(door))
        assert len(answer.body) > 100_000
        assert len(json.loads(answer.body)["receipts"]) == 1_000


async def test_an_event_stream_over_http2_ends_with_the_peers_reset():
    door = Door(heartbeat_s=0.05)
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = client.begin("GET", "/v1/receipts/stream?after=0", key_of(door))
        door.floors.settle("chat")
        await until(lambda: b"event: receipt" in client.answers[stream].body)
        assert door.metrics.value(Metric.API_WATCHERS) == 1
        client.h2.reset_stream(stream)
        client.flush()
        await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 0)
        assert (await client.get("/healthz")).status == 200


# --- bounds -------------------------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_answered_and_reset_while_it_streams():
    door = Door(max_body_bytes=1_024)
    async with serving(door, linger_s=0.05) as server, RawHttp2(server.port) as client:
        stream = client.begin("POST", "/v1/push", key_of(door), end=False)
        client.data(stream, b"x" * 600)
        client.data(stream, b"x" * 600)
        answer = await client.answer(stream)
        assert answer.status == 413
        await until(lambda: client.answers[stream].reset == 0)  # NO_ERROR: RFC 9113 §8.1
        assert (await client.get("/healthz")).status == 200


async def test_a_sender_is_held_to_the_window_while_nobody_reads():
    door = Door()
    async with serving(door, stream_window_bytes=65_535) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        stream = client.begin("GET", "/healthz", end=False)  # this handler takes no body
        sent = 0
        with contextlib.suppress(Exception):
            while True:
                client.data(stream, b"x" * 10_000)
                sent += 10_000
        assert sent <= 65_535
        answer = await client.answer(stream)
        assert answer.status == 200
        assert (await client.get("/healthz")).status == 200  # and its bytes were given back to the connection


async def test_bodies_of_streams_given_up_are_given_back_to_the_connection():
    door = Door()
    async with serving(door, resets=1_000) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        for _ in range(40):  # more in all than the connection's window
            stream = client.begin("POST", "/v1/push", key_of(door), end=False)
            for _ in range(3):
                client.h2.send_data(stream, b"x" * 16_000)
            client.h2.reset_stream(stream)
            client.flush()  # all in one piece, so the handler has read nothing
            assert (await client.get("/healthz")).status == 200
        assert client.h2.outbound_flow_control_window > 500_000


async def test_a_body_that_stops_is_408():
    door = Door()
    async with serving(door, body_idle_s=0.05) as server, RawHttp2(server.port) as client:
        stream = client.begin("POST", "/v1/push", key_of(door), end=False)
        client.data(stream, b"{")
        answer = await client.answer(stream)
        assert answer.status == 408
        assert cut(door, "slow_body") == 1
        assert (await client.get("/healthz")).status == 200


async def test_a_reader_that_opens_no_window_is_cut_off():
    door = Door(heartbeat_s=0.05)
    for _ in range(3_000):
        door.floors.settle("chat")
    async with serving(door, write_stall_s=0.1) as server, RawHttp2(server.port, ack=False) as client:
        stream = client.begin("GET", "/v1/receipts/stream?after=0", key_of(door))
        answer = await client.answer(stream)
        assert answer.reset == 8  # CANCEL
        assert cut(door, "slow_reader") == 1
        await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 0)


async def test_a_connection_without_settings_or_without_streams_is_closed():
    door = Door()
    async with serving(door, headers_s=0.1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(PREFACE)
        async with asyncio.timeout(60):
            while await reader.read(1_000):
                pass
        writer.close()
        assert cut(door, "slow_headers") == 1
    async with serving(door, idle_s=0.1) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        await client.is_closed()
        assert client.goaway == 0


async def test_a_header_block_that_never_ends_is_cut():
    door = Door()
    async with serving(door, headers_s=0.1) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        frame = HeadersFrame(3, data=client.encoder.encode([(":method", "GET")]))
        client.send(frame.serialize())
        await client.is_closed()
    assert cut(door, "slow_headers") == 1


async def test_streams_past_the_limit_end_the_connection():
    door = Door()
    door.floors.hold = []
    async with serving(door, max_streams=5) as server, RawHttp2(server.port) as client:
        body = json.dumps(door.to_token()).encode()
        for _ in range(5):
            client.data(client.begin("POST", "/v1/push", key_of(door), end=False), body, end=True)
        await until(lambda: len(door.floors.hold) == 5)
        frame = HeadersFrame(101, data=client.encoder.encode([(":method", "GET"), (":path", "/")]))
        frame.flags |= {"END_HEADERS", "END_STREAM"}
        client.send(frame.serialize())
        await client.is_closed()
        assert client.goaway is not None
        for done in door.floors.hold:
            done.set_result(None)


async def test_handlers_of_streams_taken_back_still_count():
    door = Door()
    door.floors.hold = []
    async with serving(door, max_streams=3) as server, RawHttp2(server.port) as client:
        body = json.dumps(door.to_token()).encode()
        streams = []
        for _ in range(3):
            streams.append(client.begin("POST", "/v1/push", key_of(door), end=False))
            client.data(streams[-1], body, end=True)
        await until(lambda: len(door.floors.hold) == 3)
        for stream in streams:
            client.h2.reset_stream(stream)
        client.flush()
        refused = await client.answer(client.begin("GET", "/healthz"))
        assert refused.reset == 7  # REFUSED_STREAM
        for done in door.floors.hold:
            done.set_result(None)
        for _ in range(50):
            again = await client.get("/healthz")
            if again.status == 200:
                break
        assert again.status == 200


async def test_connections_are_counted_together():
    door = Door()
    async with serving(door, max_connections=1) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert cut(door, "too_many") == 1


# --- smuggling ----------------------------------------------------------------------------------------------------

GOOD = [(":method", "GET"), (":scheme", "http"), (":authority", "door"), (":path", "/healthz")]


@pytest.mark.parametrize(
    "fields",
    [
        [*GOOD, ("connection", "keep-alive")],
        [*GOOD, ("transfer-encoding", "chunked")],
        [*GOOD, ("upgrade", "h2c")],
        [*GOOD, ("te", "gzip")],
        [*GOOD, (":path", "/metrics")],
        [*GOOD[:3], ("x", "y"), (":path", "/")],
        [*GOOD, ("X-Upper", "y")],
        [*GOOD, ("x", "a\r\nhost: other")],
        [*GOOD, ("x", "a\x00b")],
        [*GOOD, ("host", "other")],
        [*GOOD, (":made-up", "x")],
        GOOD[:3],
        GOOD[1:],
        [*GOOD[:3], (":path", "")],
        [*GOOD[:2], (":path", "/healthz")],
    ],
    ids=lambda fields: "-".join(name for name, _ in fields[-2:]),
)
async def test_a_malformed_request_reaches_no_handler(fields):
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = client.begin_with(fields)
        answer = await client.answer(stream)
        assert answer.status in (0, 400)
        assert answer.status == 400 or answer.reset is not None or client.closed.is_set() or client.goaway is not None
    assert cut(door, "malformed") == 1
    assert not any("healthz" in label for (metric, label) in door.metrics.counters if metric is Metric.API_REQUESTS)


@pytest.mark.parametrize("path", ["healthz", "/a b", "/a#b", "http://x/", "*", "/\x7f"])
async def test_a_path_that_is_none_is_400(path):
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        answer = await client.answer(client.begin_with([*GOOD[:3], (":path", path)]))
        assert answer.status in (0, 400)
    assert cut(door, "malformed") == 1


async def test_connect_is_no_method_here():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = client.begin_with([(":method", "CONNECT"), (":authority", "elsewhere:80")])
        answer = await client.answer(stream)
        assert answer.status in (0, 400)


async def test_a_body_longer_or_shorter_than_it_says_is_refused():
    door = Door()
    for size in (1, 5_000):
        async with serving(door) as server, RawHttp2(server.port) as client:
            fields = [*key_of(door), ("content-length", str(size))]
            stream = client.begin("POST", "/v1/push", fields, end=False)
            client.data(stream, json.dumps(door.to_token()).encode(), end=True)
            answer = await client.answer(stream)
            assert answer.status != 201
    assert not door.floors.pushed


async def test_headers_past_the_limit_are_refused():
    door = Door()
    async with serving(door, headers_bytes=4_000) as server, RawHttp2(server.port) as client:
        client.begin("GET", "/healthz", [("x", "y" * 5_000)])
        await client.is_closed()
    assert cut(door, "headers_too_large") == 1


async def test_a_small_block_that_unpacks_to_much_is_refused():
    """An HPACK bomb: one long field, then thousands of references to it."""
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        encoder = client.encoder
        block = encoder.encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), ("x", "y" * 4_000)])
        block += encoder.encode([("x", "y" * 4_000)] * 2_000)
        assert len(block) < 16_000
        frame = HeadersFrame(3, data=block)
        frame.flags |= {"END_HEADERS", "END_STREAM"}
        client.send(frame.serialize())
        await client.is_closed()
    assert cut(door, "headers_too_large") + cut(door, "malformed") == 1


# --- floods -------------------------------------------------------------------------------------------------------


async def flood(door: Door, server: ApiServer, data: bytes, reason: str) -> None:
    async with RawHttp2(server.port) as client:
        await client.get("/healthz")
        for _ in range(100):
            if client.closed.is_set():
                break
            client.send(data)
            with contextlib.suppress(OSError):
                await client.writer.drain()
            await asyncio.sleep(0)
        await client.is_closed()
    assert cut(door, reason) == 1


@pytest.mark.parametrize(
    "frame",
    [
        PingFrame(0, opaque_data=b"12345678"),
        SettingsFrame(0, settings={4: 65_535}),
        PriorityFrame(3, depends_on=0, stream_weight=1),
    ],
    ids=lambda frame: type(frame).__name__,
)
async def test_a_flood_of_cheap_frames_ends_the_connection(frame):
    door = Door()
    async with serving(door, cheap_frames=300, cheap_frames_per_s=1) as server:
        await flood(door, server, frame.serialize() * 50, "frame_flood")


async def test_a_flood_of_empty_data_ends_the_connection():
    door = Door()
    async with serving(door, cheap_frames=300, cheap_frames_per_s=1) as server, RawHttp2(server.port) as client:
        stream = client.begin("POST", "/v1/push", key_of(door), end=False)
        for _ in range(20):
            client.send(DataFrame(stream).serialize() * 50)
        await client.is_closed()
    assert cut(door, "frame_flood") == 1


async def test_a_flood_of_continuations_ends_the_connection():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        client.send(HeadersFrame(3, data=b"").serialize())
        for _ in range(200):
            client.send(ContinuationFrame(3, data=b"").serialize() * 10)
        await client.is_closed()
    assert cut(door, "malformed") + cut(door, "frame_flood") + cut(door, "headers_too_large") == 1


async def test_requests_begun_and_taken_back_at_once_end_the_connection():
    """CVE-2023-44487."""
    door = Door()
    async with serving(door, resets=100, resets_per_s=1) as server, RawHttp2(server.port) as client:
        await client.get("/healthz")
        for stream in range(3, 3 + 2 * 400, 2):
            head = HeadersFrame(stream, data=client.encoder.encode([*GOOD]))
            head.flags |= {"END_HEADERS", "END_STREAM"}
            client.send(head.serialize() + RstStreamFrame(stream, error_code=8).serialize())
            if stream % 50 == 1:
                await asyncio.sleep(0)
        await client.is_closed()
    assert cut(door, "reset_flood") == 1


async def test_a_client_that_takes_back_a_few_is_served():
    door = Door()
    async with serving(door) as server, RawHttp2(server.port) as client:
        for _ in range(50):
            stream = client.begin("POST", "/v1/push", key_of(door), end=False)
            client.h2.reset_stream(stream)
            client.flush()
            assert (await client.get("/healthz")).status == 200


# --- endings ------------------------------------------------------------------------------------------------------


async def test_drain_says_goaway_and_finishes_what_runs():
    door = Door()
    door.floors.hold = []
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = client.begin("POST", "/v1/push", key_of(door), end=False)
        client.data(stream, json.dumps(door.to_token()).encode(), end=True)
        await until(lambda: door.floors.hold)
        stopping = asyncio.create_task(server.stop(timeout_s=10))
        # The client's codec takes no more after GOAWAY, so the frames are looked at by hand.
        await until(lambda: client.goaway is not None)
        assert (client.goaway, client.goaway_last) == (0, stream)
        door.floors.hold[0].set_result(None)
        await asyncio.wait_for(stopping, 10)
        await client.is_closed()
    assert door.floors.pushed


async def test_drain_does_not_wait_for_what_was_taken_back():
    door = Door(heartbeat_s=0.05)
    door.floors.hold = []
    async with serving(door) as server, RawHttp2(server.port) as client:
        stream = client.begin("POST", "/v1/push", key_of(door), end=False)
        client.data(stream, json.dumps(door.to_token()).encode(), end=True)
        await until(lambda: door.floors.hold)
        stopping = asyncio.create_task(server.stop(timeout_s=20))
        await until(lambda: client.goaway is not None)
        client.send(RstStreamFrame(stream, error_code=8).serialize())
        await client.is_closed()
        door.floors.hold[0].set_result(None)
        await asyncio.wait_for(stopping, 10)


async def test_a_peer_that_leaves_without_a_word_leaves_nothing_behind():
    door = Door(heartbeat_s=0.05)
    async with serving(door) as server:
        async with RawHttp2(server.port) as client:
            client.begin("GET", "/v1/receipts/stream", key_of(door))
            await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 1)
            client.writer.transport.abort()
        await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 0)
        await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)


# --- the doors over it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/push/{token}", "/3/device/{token}"])
async def test_a_pushed_body_over_the_limit_is_cut_off_while_it_streams(path):
    door, sender = Door(), Sender()
    key = ApnsKey("K", "T", sender.public_pem())
    door.floors.apps["chat"] = msgspec.structs.replace(
        door.floors.apps["chat"], webpush="open", apns_topic="t", apns_keys=[key]
    )
    bearer = sender.token(headers={"kid": "K"}, aud=None, exp=None, sub=None, iss="T", iat=int(time.time()))
    fields = [
        ("ttl", "1"),
        ("content-encoding", "aes128gcm"),
        ("apns-topic", "t"),
        ("authorization", f"bearer {bearer}"),
    ]
    async with serving(door, linger_s=0.05) as server, RawHttp2(server.port) as client:
        stream = client.begin("POST", path.format(token=door.token), fields, end=False)
        for _ in range(3):
            client.data(stream, b"x" * 1_500)
        answer = await client.answer(stream)
        assert answer.status == 413
        await until(lambda: client.answers[stream].reset == 0)
        assert not door.floors.pushed
        slow = client.begin("POST", path.format(token=door.token), fields, end=False)
        client.h2.reset_stream(slow)
        client.flush()
        assert (await client.get("/healthz")).status == 200
    assert not door.floors.pushed


async def test_a_pushed_body_that_stops_is_given_up():
    door = Door()
    door.floors.apps["chat"] = msgspec.structs.replace(door.floors.apps["chat"], webpush="open")
    async with serving(door, body_idle_s=0.05) as server, RawHttp2(server.port) as client:
        fields = [("ttl", "1"), ("content-encoding", "aes128gcm")]
        stream = client.begin("POST", f"/push/{door.token}", fields, end=False)
        client.data(stream, b"x")
        answer = await client.answer(stream)
        assert (answer.status, answer.headers["content-type"]) == (408, "application/problem+json")
        assert json.loads(answer.body)["status"] == 408
    assert not door.floors.pushed
    assert cut(door, "slow_body") == 1


async def test_a_body_that_stops_at_the_apns_door_is_idle_timeout_with_its_id():
    door, sender = Door(), Sender()
    key = ApnsKey("K", "T", sender.public_pem())
    door.floors.apps["chat"] = msgspec.structs.replace(door.floors.apps["chat"], apns_topic="t", apns_keys=[key])
    bearer = sender.token(headers={"kid": "K"}, aud=None, exp=None, sub=None, iss="T", iat=int(time.time()))
    apns_id = "123e4567-e89b-12d3-a456-426614174000"
    fields = [("apns-topic", "t"), ("apns-id", apns_id), ("authorization", f"bearer {bearer}")]
    async with serving(door, body_idle_s=0.05) as server, RawHttp2(server.port) as client:
        stream = client.begin("POST", f"/3/device/{door.token}", fields, end=False)
        client.data(stream, b"{")
        answer = await client.answer(stream)
        assert (answer.status, json.loads(answer.body)) == (400, {"reason": "IdleTimeout"})
        assert answer.headers["apns-id"] == apns_id
        assert (await client.get("/healthz")).status == 200
    assert not door.floors.pushed
    assert cut(door, "slow_body") == 1
