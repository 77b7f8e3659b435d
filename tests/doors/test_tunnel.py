"""CONNECT at the plain provider door: it leads to this gateway under a name its certificates bear, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from api_doubles import Door
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.http_protocol import Limits
from gateway.api.server import ApiServer
from gateway.api.tls import Certificates
from gateway.api.tunnel import MAX_HEAD_BYTES, parse_host
from gateway.config.sections import Api
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError
from gateway.notifiers.local_tls import Authority

APPLE = "api.push.apple.com"


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> dict[str, Any]:
    """Settings: one certificate for localhost, one for Apple's name, one for all names below another."""
    localhost = authority.issue("localhost").write(tmp_path, "localhost")
    apple = authority.issue(APPLE).write(tmp_path, "apple")
    wild = authority.issue("*.push.example").write(tmp_path, "wild")
    other = authority.issue("something.else").write(tmp_path, "other")
    sni = [
        f"{APPLE}={apple.cert}:{apple.key}",
        f"*.push.example={wild.cert}:{wild.key}",
        f"misnamed.example={other.cert}:{other.key}",
    ]
    return {"tls_cert": str(localhost.cert), "tls_key": str(localhost.key), "tls_port": 0, "tls_sni": sni}


@contextlib.asynccontextmanager
async def serving(door: Door, **limits: Any) -> AsyncIterator[ApiServer]:
    server = ApiServer(door.asgi, door.backend, limits=Limits(**{"headers_s": 20, **limits}))
    await server.start()
    try:
        yield server
    finally:
        await server.stop(timeout_s=20)


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(port: int, said: bytes) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """(head of the answer, and the connection)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    async with asyncio.timeout(60):
        return await reader.readuntil(b"\r\n\r\n"), reader, writer


def connect(host: str, more: str = "") -> bytes:
    # as aioapns says it
    return f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


@pytest.mark.parametrize("http2", [True, False])
@pytest.mark.parametrize("host", [APPLE, "eu.push.example", "localhost"])
async def test_a_client_with_a_proxy_setting_reaches_the_gateway_under_the_name_it_knows(authority, tls, host, http2):
    await reach(authority, tls, host, http2=http2)


def test_the_same_on_the_loop_that_a_gateway_runs_on(authority, tls):
    uvloop.run(reach(authority, tls, APPLE, http2=True))


async def reach(authority: Authority, tls: dict[str, Any], host: str, *, http2: bool) -> None:
    door = Door(**tls)
    async with (
        serving(door) as server,
        httpx.AsyncClient(
            proxy=f"http://127.0.0.1:{server.port}", verify=authority.client_context(), http2=http2, trust_env=False
        ) as web,
    ):
        for _ in range(2):  # the same connection
            answer = await web.post(
                f"https://{host}/v1/push", json=door.to_token(), headers={"authorization": f"Bearer {door.app_key}"}
            )
            assert (answer.status_code, answer.http_version) == (201, "HTTP/2" if http2 else "HTTP/1.1")
        assert door.metrics.value(Metric.API_CONNECTIONS) == 1
    await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)


@pytest.mark.parametrize(
    "host", ["api.sandbox.push.apple.com", "a.b.push.example", "push.example", "misnamed.example", "127.0.0.1", "[::1]"]
)
async def test_any_other_name_is_refused_and_leads_to_nowhere(tls, host):
    door = Door(**tls)
    async with serving(door) as server:
        head, reader, writer = await ask(server.port, connect(host))
        assert head.startswith(b"HTTP/1.1 403 ")
        async with asyncio.timeout(60):
            error = json.loads(await reader.read())["error"]  # and the connection ends
        writer.close()
        assert error["name"] == "forbidden"
        assert host not in error["message"]
        assert door.metrics.value(Metric.API_CUT, "tunnel_refused") == 1


async def test_without_certificates_there_is_no_tunnel():
    async with serving(Door()) as server:
        head, _, writer = await ask(server.port, connect("localhost"))
        assert head.startswith(b"HTTP/1.1 403 ")
        writer.close()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"CONNECT localhost HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT localhost:https HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT localhost:443 HTTP/2.0\r\n\r\n", 400),
        (b"CONNECT https://localhost:443 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT localhost:443\nHost: localhost HTTP/1.1\r\n\r\n", 400),
        (connect("localhost") + b"\x16\x03\x01", 400),
        (connect("localhost") + b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT localhost:443 HTTP/1.1\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES, 431),
    ],
)
async def test_what_is_no_connect_request(tls, said, status):
    door = Door(**tls)
    async with serving(door) as server:
        head, _, writer = await ask(server.port, said)
        assert head.startswith(b"HTTP/1.1 %d " % status)
        writer.close()
        await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)


async def test_a_tunnel_leads_to_no_second_one(authority, tls):
    async with serving(Door(**tls)) as server:
        head, reader, writer = await ask(server.port, connect("localhost"))
        assert head == b"HTTP/1.1 200 Connection established\r\n\r\n"
        await writer.start_tls(authority.client_context(), server_hostname="localhost")
        writer.write(connect("localhost"))
        async with asyncio.timeout(60):
            answer = await reader.readline()
        assert answer.split()[1][:1] == b"4"
        writer.close()


async def test_who_comes_byte_by_byte(authority, tls):
    async with serving(Door(**tls)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for byte in connect(APPLE):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 Connect")
        await writer.start_tls(authority.client_context(), server_hostname=APPLE)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize("then", [b"GET / HTTP/1.1\r\n\r\n", b"", b"\x16\x03\x01"])
async def test_who_begins_no_tls_in_it_is_cut_off_and_counted(tls, then):
    """Plain text; a peer that goes; a handshake that begins and does not go on."""
    door = Door(**tls)
    async with serving(door, headers_s=2 if len(then) == 3 else 20) as server:
        _, _, writer = await ask(server.port, connect(APPLE))
        if then:
            writer.write(then)
        else:
            writer.close()
        await until(lambda: door.metrics.value(Metric.API_CUT, "handshake") == 1)
        await until(lambda: door.metrics.value(Metric.API_CONNECTIONS) == 0)
        writer.close()


async def test_a_head_that_does_not_end_is_cut_off(tls):
    door = Door(**tls)
    async with serving(door, headers_s=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"CONNECT localhost:443 HTTP/1.1\r\n")
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                assert not await reader.read()
        assert door.metrics.value(Metric.API_CUT, "slow_headers") == 1
        writer.close()


async def test_a_door_that_closes_waits_for_no_handshake(tls):
    door = Door(**tls)
    async with serving(door) as server:
        _, reader, writer = await ask(server.port, connect(APPLE))
        async with asyncio.timeout(60):
            await server.stop(timeout_s=60)
            with contextlib.suppress(ConnectionError):
                assert not await reader.read()
        writer.close()
    assert door.metrics.value(Metric.API_CONNECTIONS) == 0


async def test_a_client_certificate_counts_in_a_tunnel(authority, tls, tmp_path):
    ca = authority.write(tmp_path)
    door = Door(**tls, tls_client_ca=str(ca), tls_client_auth="required")
    async with serving(door) as server:
        for issued, passes in ((authority.issue(name="mine"), True), (None, False)):
            context = authority.client_context()
            if issued is not None:
                files = issued.write(tmp_path, "mine")
                context.load_cert_chain(files.cert, files.key)
            async with httpx.AsyncClient(
                proxy=f"http://127.0.0.1:{server.port}", verify=context, http2=True, trust_env=False
            ) as web:
                if passes:
                    assert (await web.get(f"https://{APPLE}/healthz")).status_code == 200
                else:
                    with pytest.raises((httpx.TransportError, ssl.SSLError)):
                        await web.get(f"https://{APPLE}/healthz")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    files = Authority().issue("push.example", "*.push.example").write(tmp_path_factory.mktemp("tls"))
    return Certificates(Api(tls_cert=str(files.cert), tls_key=str(files.key)), Metrics())


@given(st.one_of(st.binary(max_size=200), st.text(max_size=60).map(lambda text: connect(text) if text else b"")))
@example(connect("PUSH.example."))
@example(connect("a.push.example"))
@example(connect("push.example\r\nx"))
def test_nothing_but_its_own_names_is_taken(certificates, head):
    try:
        host = parse_host(head, certificates)
    except GatewayError:
        return
    assert host == "push.example" or host.removesuffix(".push.example").count(".") == 0
    assert head.endswith(b"\r\n\r\n")
