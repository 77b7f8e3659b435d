"""HTTP/1.1 at the provider door: requests that two servers might read differently, floods, and who asks for another
protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from api_doubles import Door
from web_push_sender import Sender

from gateway.api.http_protocol import Limits
from gateway.api.server import ApiServer
from gateway.metrics import Metric
from gateway.model.registration import ApnsKey


@contextlib.asynccontextmanager
async def serving(door: Door, **limits: Any) -> AsyncIterator[ApiServer]:
    server = ApiServer(door.asgi, door.backend, limits=Limits(**limits))
    await server.start()
    try:
        yield server
    finally:
        await server.stop(timeout_s=20)


@contextlib.asynccontextmanager
async def connected(server: ApiServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """Up to the end of the connection, however it ends."""
    out = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            while data := await reader.read(65_536):
                out += data
    return out


async def ask(server: ApiServer, said: bytes) -> list[int]:
    """Statuses of all answers to what was said at once, until the server ends the connection."""
    async with connected(server) as (reader, writer):
        writer.write(said)
        return statuses(await rest_of(reader))


def statuses(out: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", out)]


def push(door: Door, *fields: str, version: str = "1.1", hosts: tuple[str, ...] = ("x",), target: str = "") -> bytes:
    """The head of a push whose connection ends with it."""
    lines = [f"POST {target or '/v1/push'} HTTP/{version}", f"authorization: Bearer {door.app_key}"]
    lines += [*(f"host: {host}" for host in hosts), "connection: close", "content-type: application/json", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def body_of(door: Door) -> bytes:
    return json.dumps(door.to_token()).encode()


# --- one request, read in one way ---------------------------------------------------------------------------------

SMUGGLED = b"DELETE /v1/push/x HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["content-length: 4", "transfer-encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
        (["transfer-encoding: chunked", "content-length: 4"], b"0\r\n\r\n" + SMUGGLED),
        (["content-length: 1", "content-length: 5"], b"x" + SMUGGLED),
        (["content-length: 1", "content-length: 1"], b"x" + SMUGGLED),
        (["content-length: 1, 1"], b"x" + SMUGGLED),
        (["content-length: +1"], b"x"),
        (["content-length: -1"], b"x"),
        (["content-length: 0x1"], b"x"),
        (["content-length : 1"], b"x"),
        (["content-length: 1\0"], b"x"),
        (["transfer-encoding: xchunked"], b"0\r\n\r\n"),
        (["transfer-encoding: gzip, chunked"], b"0\r\n\r\n"),
        (["transfer-encoding: chunked, identity"], b"0\r\n\r\n" + SMUGGLED),
        (["transfer-encoding: identity"], b""),
        (["transfer-encoding: chunked", "transfer-encoding: identity"], b"0\r\n\r\n" + SMUGGLED),
        (["transfer-encoding: chunked"], b"FFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n"),
        (["transfer-encoding: chunked"], b"1\nx\n0\n\n"),
        (["transfer-encoding: chunked"], b"-1\r\nx\r\n0\r\n\r\n"),
        (["x: a\r\n b", "content-length: 0"], b""),
        (["x: a\rb", "content-length: 0"], b""),
        (["x: a\0b", "content-length: 0"], b""),
        (["x y: a", "content-length: 0"], b""),
        ([": a", "content-length: 0"], b""),
    ],
)
async def test_what_two_servers_might_read_differently_is_refused(fields, body):
    door = Door()
    async with serving(door) as server:
        assert await ask(server, push(door, *fields) + body) == [400]
    assert not door.floors.pushed


async def test_bare_line_ends_are_refused():
    door = Door()
    async with serving(door) as server:
        assert await ask(server, push(door, "content-length: 0").replace(b"\r\n", b"\n")) == [400]


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [((), "1.1", 400), (("x", "x"), "1.1", 400), (("x", "y"), "1.1", 400), (("x",), "1.1", 201), ((), "1.0", 201)],
)
async def test_a_request_has_one_host(hosts, version, status):
    door = Door()
    body = body_of(door)
    async with serving(door) as server:
        said = push(door, f"content-length: {len(body)}", hosts=hosts, version=version) + body
        assert await ask(server, said) == [status]


async def test_the_host_of_an_absolute_target_is_the_one_that_counts():
    """It decides the audience of VAPID tokens and the URLs in answers (RFC 9112 §3.2.2)."""
    door = Door()
    body = body_of(door)
    hosts = []
    inner = door.asgi

    async def app(scope, receive, send):
        hosts.append(dict(scope["headers"])[b"host"])
        await inner(scope, receive, send)

    door.asgi = app  # type: ignore[assignment]
    async with serving(door) as server:
        head = push(door, f"content-length: {len(body)}", hosts=("evil.example",), target="http://push.example/v1/push")
        assert await ask(server, head + body) == [201]
    assert hosts == [b"push.example"]


async def test_a_trailer_does_not_pass_for_a_header():
    door = Door()
    door.floors.apps["chat"] = msgspec.structs.replace(door.floors.apps["chat"], webpush="open")
    fields = "content-encoding: aes128gcm", "transfer-encoding: chunked", "trailer: ttl"
    async with serving(door) as server:
        for name, status in (("ttl", 400), ("x", 400)):
            said = push(door, *fields, target=f"/push/{door.token}") + f"1\r\nx\r\n0\r\n{name}: 60\r\n\r\n".encode()
            assert await ask(server, said) == [status]
        said = push(door, "ttl: 60", *fields, target=f"/push/{door.token}") + b"1\r\nx\r\n0\r\nttl: 0\r\n\r\n"
        assert await ask(server, said) == [201]
    assert [request.ttl for _, request in door.floors.pushed] == [60]


# --- floods -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flood", [b"a: b\r\n" * 500, b"x" * 3_000])
@pytest.mark.parametrize("begin", [b"0\r\n", b"1;", b"0\r\na: "])
async def test_trailers_and_extensions_without_end_are_cut_off(begin, flood):
    door = Door()
    if begin == b"1;":
        flood = b"a=b;" * 500
    async with serving(door, headers_bytes=8_192) as server, connected(server) as (reader, writer):
        writer.write(push(door, "transfer-encoding: chunked") + begin)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof() and sent < 8_000_000:
                writer.write(flood)
                await writer.drain()
                await asyncio.sleep(0)
                sent += len(flood)
        assert statuses(await rest_of(reader)) in ([431], [])
        await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)
    assert sent < 8_000_000
    assert door.metrics.value(Metric.API_CUT, "headers_too_large") == 1
    assert not door.floors.pushed


async def test_a_head_that_came_in_one_piece_is_bounded_as_well():
    door = Door()
    async with serving(door, headers_bytes=8_192) as server:
        assert await ask(server, push(door, f"x: {'y' * 9_000}", "content-length: 0")) == [431]


async def test_a_head_behind_an_earlier_request_has_its_deadline_too():
    """It begins in one piece with the end of the request before, and a byte at a time goes on for ever."""
    door = Door()
    async with serving(door, headers_s=0.3) as server, connected(server) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHo")
        async with asyncio.timeout(60):
            await reader.readuntil(b'{"status":"alive"}')
        dripping = asyncio.create_task(drip(writer))
        try:
            assert statuses(await rest_of(reader)) in ([408], [])
        finally:
            dripping.cancel()
        assert door.metrics.value(Metric.API_CUT, "slow_headers") == 1


async def drip(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"s")
            await writer.drain()
            await asyncio.sleep(0.02)


async def test_no_more_than_some_requests_wait_for_an_earlier_one():
    door = Door()
    door.floors.hold = []
    body = body_of(door)
    first = push(door, f"content-length: {len(body)}").replace(b"connection: close\r\n", b"") + body
    async with serving(door, pipelined=5) as server, connected(server) as (reader, writer):
        writer.write(first + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 200)
        await until(lambda: door.metrics.value(Metric.API_CUT, "pipelined") == 1)
        door.floors.hold[0].set_result(None)
        # those that were taken are answered, in order, and then the connection ends
        assert statuses(await rest_of(reader)) == [201, 200, 200, 200, 200, 200]


async def test_what_is_no_request_does_not_answer_for_the_one_before_it():
    door = Door()
    door.floors.hold = []
    body = body_of(door)
    first = push(door, f"content-length: {len(body)}").replace(b"connection: close\r\n", b"") + body
    async with serving(door) as server, connected(server) as (reader, writer):
        writer.write(first + b"nonsense\r\n\r\n")
        await until(lambda: door.floors.hold)
        door.floors.hold[0].set_result(None)
        assert statuses(await rest_of(reader)) == [201]


# --- who asks for another protocol --------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("coding", ["content-length", "chunked"])
async def test_who_would_rather_speak_http2_is_answered_all_the_same(coding, apart):
    """As Java's client and `curl --http2` ask (RFC 7540 §3.2); the body is not lost, and the connection goes on."""
    door = Door()
    body = body_of(door)
    wish = "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"
    if coding == "chunked":
        field, sent = "transfer-encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        field, sent = f"content-length: {len(body)}", body
    head = push(door, field, *wish).replace(b"connection: close\r\n", b"")
    async with serving(door) as server, connected(server) as (reader, writer):
        for _ in range(3):
            writer.write(head)
            if apart:
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.write(sent)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close, Upgrade\r\nupgrade: websocket\r\n\r\n")
        assert statuses(await rest_of(reader)) == [201, 201, 201, 200]
    assert len(door.floors.pushed) == 3


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed: apt install curl")
async def test_curl_that_would_rather_speak_http2():
    door = Door()
    async with serving(door) as server:
        process = await asyncio.create_subprocess_exec(
            *("curl", "-s", "--http2", "-w", "%{http_code}", "-o", "/dev/null", "--noproxy", "*"),
            *("-H", f"authorization: Bearer {door.app_key}", "-H", "content-type: application/json"),
            *("-d", body_of(door).decode(), f"http://127.0.0.1:{server.port}/v1/push"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    assert out == b"201"
    assert len(door.floors.pushed) == 1


# --- a body that stops, in each door's own words ------------------------------------------------------------------


async def test_a_pushed_body_that_stops_is_a_problem():
    door = Door()
    door.floors.apps["chat"] = msgspec.structs.replace(door.floors.apps["chat"], webpush="open")
    fields = "ttl: 1", "content-encoding: aes128gcm", "content-length: 100"
    async with serving(door, body_idle_s=0.05) as server, connected(server) as (reader, writer):
        writer.write(push(door, *fields, target=f"/push/{door.token}") + b"x")
        head, _, body = (await rest_of(reader)).partition(b"\r\n\r\n")
    assert statuses(head) == [408]
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["title"] == "request_timeout"
    assert door.metrics.value(Metric.API_CUT, "slow_body") == 1
    assert not door.floors.pushed


async def test_at_the_apns_door_it_is_apples_idle_timeout():
    door, sender = Door(), Sender()
    key = ApnsKey(key_id="KEY1", team_id="TEAM1", public_key=sender.public_pem())
    door.floors.apps["chat"] = msgspec.structs.replace(door.floors.apps["chat"], apns_topic="t", apns_keys=[key])
    door.backend.app_changes += 1
    signed = sender.token(headers={"kid": "KEY1"}, aud=None, exp=None, sub=None, iss="TEAM1", iat=int(time.time()))
    number = "8c7e5f3a-0000-4000-8000-000000000001"
    fields = f"authorization: bearer {signed}", "apns-topic: t", f"apns-id: {number}", "content-length: 100"
    said = push(door, *fields, target=f"/3/device/{door.token}").replace(b"authorization: Bearer", b"x: ", 1)
    async with serving(door, body_idle_s=0.05) as server, connected(server) as (reader, writer):
        writer.write(said + b"{")
        head, _, body = (await rest_of(reader)).partition(b"\r\n\r\n")
    assert statuses(head) == [400]
    assert f"apns-id: {number}".encode() in head
    assert json.loads(body) == {"reason": "IdleTimeout"}
    assert not door.floors.pushed


# --- connections end, and answers are whole -----------------------------------------------------------------------


async def test_a_connection_that_was_answered_before_its_body_came_does_not_stay_for_ever():
    door = Door()
    async with serving(door, keep_alive_s=1) as server, connected(server) as (reader, writer):
        writer.write(b"POST /push/nosuchtoken HTTP/1.1\r\nhost: x\r\nttl: 1\r\ncontent-length: 10\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readline()).startswith(b"HTTP/1.1 404")
        writer.write(b"x" * 10)
        await rest_of(reader)
    await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)


async def test_an_answer_does_not_cut_the_next_request_that_is_still_coming():
    door = Door()
    door.floors.hold = []
    body = body_of(door)
    first = push(door, f"content-length: {len(body)}").replace(b"connection: close\r\n", b"") + body
    async with serving(door, linger_s=0.05) as server, connected(server) as (reader, writer):
        writer.write(first + push(door, f"content-length: {len(body)}") + body[:10])
        await until(lambda: door.floors.hold)
        door.floors.hold[0].set_result(None)
        async with asyncio.timeout(60):
            await reader.readuntil(b'"targeted":1}')
        await asyncio.sleep(0.2)  # longer than the linger
        door.floors.hold = None
        writer.write(body[10:])
        assert statuses(await rest_of(reader)) == [201]
    assert len(door.floors.pushed) == 2


async def test_a_bad_body_behind_a_good_request_takes_no_answer_from_it():
    door = Door()
    door.floors.hold = []
    body = body_of(door)
    first = push(door, f"content-length: {len(body)}").replace(b"connection: close\r\n", b"") + body
    async with serving(door) as server, connected(server) as (reader, writer):
        writer.write(first + push(door, "transfer-encoding: chunked") + b"zz\r\nx\r\n")
        await until(lambda: door.floors.hold)
        door.floors.hold[0].set_result(None)
        assert statuses(await rest_of(reader)) == [201]
    assert len(door.floors.pushed) == 1
