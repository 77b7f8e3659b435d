"""The door on a real socket: start and stop, slow and greedy peers, streams, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from api_doubles import Door, error_of

from gateway.api.http_protocol import Limits
from gateway.api.server import ApiServer
from gateway.metrics import Metric


@contextlib.asynccontextmanager
async def serving(door: Door, **limits: float) -> AsyncIterator[ApiServer]:
    server = ApiServer(door.asgi, door.backend, limits=Limits(**limits))  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.stop(timeout_s=2)


@contextlib.asynccontextmanager
async def connected(server: ApiServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def client(door: Door, server: ApiServer, **options) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{server.port}",
        headers={"authorization": f"Bearer {door.app_key}"},
        trust_env=False,
        **options,
    )


def head(door: Door, method: str, path: str, *lines: str) -> bytes:
    first = [f"{method} {path} HTTP/1.1", "host: x", f"authorization: Bearer {door.app_key}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Up to the end of the connection, however it ends."""
    out = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            while data := await reader.read(65_536):
                out += data
    return out


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_free_port_is_taken_and_told_and_given_back():
    door = Door()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serving(door) as server:
        assert server.port > 0
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        async with client(door, server) as web:
            assert (await web.post("/v1/push", json=door.to_token())).status_code == 201
            ready = await web.get("/readyz")
            assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_an_address_that_is_taken_is_said_at_start():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        door = Door()
        door.backend.config.port = other.getsockname()[1]
        server = ApiServer(door.asgi, door.backend)
        with pytest.raises(OSError, match="in use"):
            await server.start()
        await server.stop()


@pytest.mark.parametrize("prelude", [b"", b"POST /v1/push HT", b"GET / HTTP/1.1\r\nx: "])
async def test_headers_that_do_not_come_end_the_connection(prelude):
    door = Door()
    async with serving(door, headers_s=0.05) as server, connected(server) as (reader, writer):
        writer.write(prelude)
        answer = await read_all(reader)
    assert door.metrics.value(Metric.API_CUT, "slow_headers") == 1
    assert answer == b"" if not prelude else b" 408 " in answer.splitlines()[0]


async def test_headers_dripped_in_do_not_prolong_their_time():
    door = Door()
    async with serving(door, headers_s=0.1) as server, connected(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"x: y\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        await read_all(reader)
        dripping.cancel()
        assert loop.time() - start < 5
    assert door.metrics.value(Metric.API_CUT, "slow_headers") == 1


async def test_headers_without_end_are_431():
    door = Door()
    async with serving(door, headers_bytes=2_000) as server, connected(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(30):
                writer.write(b"x: " + b"y" * 100 + b"\r\n")
                await writer.drain()
        answer = await read_all(reader)
    assert door.metrics.value(Metric.API_CUT, "headers_too_large") == 1
    assert not answer or b" 431 " in answer.splitlines()[0]


async def test_a_body_that_stops_coming_ends_the_connection_with_408():
    door = Door()
    async with serving(door, body_idle_s=0.05) as server, connected(server) as (reader, writer):
        writer.write(head(door, "POST", "/v1/push", "content-length: 100") + b'{"target"')
        answer = await read_all(reader)
    assert b" 408 " in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["name"] == "request_timeout"
    assert door.metrics.value(Metric.API_CUT, "slow_body") == 1
    assert not door.floors.pushed


async def test_a_handler_that_takes_its_time_is_no_slow_body():
    door = Door()
    door.floors.hold = []
    async with serving(door, body_idle_s=0.02, headers_s=0.02) as server, client(door, server) as web:
        asked = asyncio.create_task(web.post("/v1/push", json=door.to_token()))
        await until(lambda: door.floors.hold)
        await asyncio.sleep(0.2)
        door.floors.hold[0].set_result(None)
        assert (await asked).status_code == 201


async def test_a_kept_connection_serves_many_requests():
    door = Door()
    async with serving(door, headers_s=0.5, headers_bytes=1_000) as server, client(door, server) as web:
        for _ in range(30):  # more header bytes in all than one request may have
            assert (await web.get("/healthz")).status_code == 200
        await asyncio.sleep(0.6)  # idle longer than headers may take
        assert (await web.get("/healthz")).status_code == 200
    assert door.metrics.value(Metric.API_CUT, "slow_headers") == 0


async def test_a_door_that_will_close_ends_each_connection_with_its_answer():
    door = Door()
    async with serving(door) as server:
        async with connected(server) as (reader, writer):
            writer.write(head(door, "GET", "/healthz"))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b"connection: close" not in answer.lower()
            door.backend.is_leaving = True
            writer.write(head(door, "GET", "/healthz"))
            answer = await read_all(reader)  # to the end of the connection
            assert b"HTTP/1.1 200" in answer
            assert answer.lower().count(b"connection: close") == 1
        async with client(door, server) as web:
            assert [(await web.get("/healthz")).status_code for _ in range(3)] == [200] * 3


async def test_pipelined_requests_are_answered_in_order():
    door = Door()
    async with serving(door) as server, connected(server) as (reader, writer):
        body = json.dumps(door.to_token()).encode()
        one = head(door, "POST", "/v1/push", "content-type: application/json", f"content-length: {len(body)}") + body
        writer.write(one * 3 + head(door, "GET", "/healthz", "connection: close"))
        answer = await read_all(reader)
    assert answer.count(b"HTTP/1.1 201") == 3
    assert answer.rindex(b"HTTP/1.1 200") > answer.rindex(b"HTTP/1.1 201")


async def test_a_body_too_large_is_answered_before_it_is_sent_and_the_connection_lives():
    door = Door(max_body_bytes=1_000)
    async with serving(door) as server, client(door, server) as web:
        answer = await web.post("/v1/push", content=b"x" * 500_000, headers={"content-type": "application/json"})
        assert (answer.status_code, error_of(answer)["name"]) == (413, "payload_too_large")
        assert (await web.post("/v1/push", json=door.to_token())).status_code == 201


async def test_a_body_without_end_is_cut_after_its_413():
    door = Door(max_body_bytes=1_000)
    async with serving(door, linger_bytes=100_000) as server, connected(server) as (reader, writer):
        writer.write(head(door, "POST", "/v1/push", "content-type: application/json", "transfer-encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            while door.metrics.value(Metric.API_CUT, "body_too_large") == 0:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            assert b" 413 " in (await reader.read(1_000)).splitlines()[0]
    await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)
    assert door.metrics.value(Metric.API_CUT, "body_too_large") == 1


async def test_connections_over_the_limit_are_closed_at_once_and_counted():
    door = Door()
    async with serving(door, max_connections=2) as server, connected(server), connected(server):
        await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 2)
        async with connected(server) as (reader, _):
            assert await read_all(reader) == b""
        assert door.metrics.value(Metric.API_CUT, "too_many") == 1
    await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)


async def test_what_is_not_http_gets_400_in_the_one_shape():
    door = Door()
    async with serving(door) as server, connected(server) as (reader, writer):
        writer.write(b"\x03\x05hello\r\n\r\n")
        answer = await read_all(reader)
    assert b" 400 " in answer.splitlines()[0]
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}


async def test_a_batch_is_answered_while_it_is_sent():
    door = Door()
    async with serving(door) as server, connected(server) as (reader, writer):
        writer.write(
            head(door, "POST", "/v1/push/batch", "content-type: application/x-ndjson", "transfer-encoding: chunked")
        )
        for index in range(3):
            line = json.dumps(door.to_token()).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            async with asyncio.timeout(60):
                answer = await reader.readuntil(b'"targeted":1}\n')
            assert b'"index":%d' % index in answer
        writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(60):
            assert await reader.readuntil(b"0\r\n\r\n")
    assert len(door.floors.pushed) == 3


async def test_a_large_batch_from_a_client_that_reads_last():
    door = Door()
    async with serving(door) as server, client(door, server) as web:
        answer = await web.post("/v1/push/batch", json=[door.to_token()] * 10_000, timeout=60)
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [r["index"] for r in results] == list(range(10_000))
    assert {r["status"] for r in results} == {201}


async def test_the_event_stream_over_a_socket_resumes_where_it_was_cut():
    door = Door(heartbeat_s=0.05)
    async with serving(door) as server, client(door, server, timeout=20) as web:
        first = door.floors.settle("chat")

        async def take(cursor: str, count: int) -> list[int]:
            got: list[int] = []
            async with web.stream("GET", "/v1/receipts/stream", headers={"last-event-id": cursor}) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        got.append(json.loads(line[6:])["cursor"])
                        if len(got) == count:
                            return got
            return got

        assert await take("0", 1) == [first]
        more = [door.floors.settle("chat") for _ in range(3)]
        assert await take(str(first), 3) == more
        await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 0)


async def test_a_stream_reader_that_reads_nothing_is_cut_off():
    door = Door(heartbeat_s=0.05)
    for _ in range(20_000):
        door.floors.settle("chat")
    async with serving(door, write_stall_s=0.1) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", server.port))
        await loop.sock_sendall(sock, head(door, "GET", "/v1/receipts/stream?after=0"))
        await until(lambda: door.metrics.value(Metric.API_CUT, "slow_reader") == 1)
        await until(lambda: door.metrics.value(Metric.API_WATCHERS) == 0)
        sock.close()


async def test_stop_ends_streams_and_waiting_requests_and_lets_pushes_finish():
    door = Door()
    door.floors.hold = []
    async with serving(door) as server, client(door, server, timeout=20) as web:
        pushing = asyncio.create_task(web.post("/v1/push", json=door.to_token()))
        polling = asyncio.create_task(web.get("/v1/receipts?wait=30"))

        async def watch() -> str:
            async with web.stream("GET", "/v1/receipts/stream") as answer:
                return "".join([text async for text in answer.aiter_text()])

        watching = asyncio.create_task(watch())
        await until(lambda: door.floors.hold and len(door.floors.wakes) == 2)
        stopping = asyncio.create_task(server.stop(timeout_s=15))
        assert (await polling).status_code == 200
        assert "retry:" in await watching
        assert not pushing.done()
        door.floors.hold[0].set_result(None)
        assert (await pushing).status_code == 201
        await asyncio.wait_for(stopping, 10)


async def test_the_first_request_of_a_connection_made_before_the_stop_is_answered():
    door = Door()
    async with serving(door) as server, connected(server) as (reader, writer), connected(server) as (silent, _):
        await until(lambda: door.metrics.gauges.get((Metric.API_CONNECTIONS, ""), 0) == 2)
        listening = server._server.servers[0]
        stopping = asyncio.create_task(server.stop())
        await until(lambda: not listening.is_serving())
        writer.write(head(door, "GET", "/healthz"))
        assert b"HTTP/1.1 200" in await read_all(reader)
        assert await read_all(silent) == b""
        await stopping


async def test_stop_has_a_bound():
    door = Door()
    door.floors.hold = []
    async with serving(door) as server, client(door, server) as web:
        pushing = asyncio.create_task(web.post("/v1/push", json=door.to_token()))
        await until(lambda: door.floors.hold)
        await asyncio.wait_for(server.stop(timeout_s=0.2), 5)
        with pytest.raises(httpx.HTTPError):
            (await pushing).raise_for_status()
