"""TLS at the provider door: ALPN or none, certificates by name, renewed under live connections, mTLS, bad files."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvloop
from api_doubles import Door
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from raw_http2 import RawHttp2

from gateway.api import negotiation, tls_listener
from gateway.api.http_protocol import Limits
from gateway.api.server import ApiServer
from gateway.api.tls import Certificates
from gateway.config.check import conflicts
from gateway.config.sections import Api, Config
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError
from gateway.notifiers.local_tls import Authority, Files, Issued


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def localhost(authority: Authority, tmp_path: Path) -> Files:
    return authority.issue("localhost", "127.0.0.1").write(tmp_path, "localhost")


def with_tls(files: Files, **more: Any) -> dict[str, Any]:
    return {"tls_cert": str(files.cert), "tls_key": str(files.key), "tls_port": 0, **more}


@contextlib.asynccontextmanager
async def serving(door: Door) -> AsyncIterator[ApiServer]:
    server = ApiServer(door.asgi, door.backend, limits=Limits(headers_s=2))
    await server.start()
    try:
        yield server
    finally:
        await server.stop(timeout_s=2)


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def serial_of(server: ApiServer, trust: ssl.SSLContext, name: str = "localhost") -> int:
    """Serial number of the certificate a new connection gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.tls_port, ssl=trust, server_hostname=name)
    der = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(der).serial_number


def serial(files: Files) -> int:
    return x509.load_pem_x509_certificate(files.cert.read_bytes()).serial_number


async def test_both_protocols_over_tls_by_alpn(authority, localhost):
    door = Door(**with_tls(localhost))
    async with serving(door) as server:
        for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
            async with httpx.AsyncClient(
                base_url=f"https://localhost:{server.tls_port}",
                verify=authority.client_context(),
                http2=http2,
                headers={"authorization": f"Bearer {door.app_key}"},
                trust_env=False,
            ) as web:
                answer = await web.post("/v1/push", json=door.to_token())
                assert (answer.status_code, answer.http_version) == (201, version)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as plain:
            assert (await plain.get("/healthz")).status_code == 200


async def test_without_alpn_the_first_bytes_decide(authority, localhost):
    door = Door(**with_tls(localhost))
    async with serving(door) as server:
        trust = authority.client_context()  # says nothing in ALPN
        async with RawHttp2(server.tls_port, trust, "localhost") as client:
            assert (await client.get("/healthz")).status == 200
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.tls_port, ssl=trust, server_hostname="localhost"
        )
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_handshake_that_does_not_come_and_one_that_is_none(authority, localhost):
    door = Door(**with_tls(localhost))
    async with serving(door) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.tls_port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                while await reader.read(100):
                    pass
        writer.close()
        assert await serial_of(server, authority.client_context()) == serial(localhost)


async def test_versions_older_than_the_least_are_refused(authority, localhost):
    door = Door(**with_tls(localhost, tls_min_version="1.3"))
    async with serving(door) as server:
        old = authority.client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await serial_of(server, old)
        assert await serial_of(server, authority.client_context()) == serial(localhost)


async def test_certificates_by_host_name(authority, localhost, tmp_path):
    shop = authority.issue("shop.example").write(tmp_path, "shop")
    wild = authority.issue("*.news.example").write(tmp_path, "wild")
    sni = [f"shop.example={shop.cert}:{shop.key}", f"*.news.example={wild.cert}:{wild.key}"]
    door = Door(**with_tls(localhost, tls_sni=sni))
    async with serving(door) as server:
        trust = authority.client_context()
        assert await serial_of(server, trust, "shop.example") == serial(shop)
        assert await serial_of(server, trust, "SHOP.example") == serial(shop)
        assert await serial_of(server, trust, "a.news.example") == serial(wild)
        assert await serial_of(server, trust, "localhost") == serial(localhost)
        assert await serial_of(server, trust, "127.0.0.1") == serial(localhost)  # no server name at all


async def test_a_new_certificate_is_in_force_without_touching_connections(authority, localhost, tmp_path):
    door = Door(**with_tls(localhost))
    before = serial(localhost)
    async with serving(door) as server, RawHttp2(server.tls_port, authority.client_context(), "localhost") as client:
        assert (await client.get("/healthz")).status == 200
        renewed = authority.issue("localhost", "127.0.0.1").write(tmp_path, "renewed")
        shutil.copy(renewed.cert, localhost.cert)
        shutil.copy(renewed.key, localhost.key)
        assert await serial_of(server, authority.client_context()) == before
        assert server.reload_tls()
        assert await serial_of(server, authority.client_context()) == serial(renewed) != before
        assert (await client.get("/healthz")).status == 200


async def test_a_changed_file_is_noticed_by_itself_and_a_bad_one_keeps_the_old(authority, localhost, tmp_path):
    door = Door(**with_tls(localhost, tls_reload_s=0.02))
    async with serving(door) as server:
        before = serial(localhost)
        with structlog.testing.capture_logs() as logs:
            localhost.cert.write_text("nonsense")
            await until(lambda: any(entry["event"] == "certificate_reload_failed" for entry in logs))
        assert await serial_of(server, authority.client_context()) == before
        renewed = authority.issue("localhost").write(tmp_path, "renewed")
        shutil.copy(renewed.cert, localhost.cert)
        shutil.copy(renewed.key, localhost.key)
        async with asyncio.timeout(60):
            while await serial_of(server, authority.client_context()) != serial(renewed):
                await asyncio.sleep(0.02)
        localhost.cert.unlink()
        await asyncio.sleep(0.1)
        assert await serial_of(server, authority.client_context()) == serial(renewed)


# --- client certificates ------------------------------------------------------------------------------------------


async def scope_probe(door: Door) -> list[dict[str, Any]]:
    """Scopes of the requests to /healthz from now on."""
    scopes: list[dict[str, Any]] = []
    inner = door.asgi

    async def app(scope, receive, send):
        scopes.append(scope)
        await inner(scope, receive, send)

    door.asgi = app  # type: ignore[assignment]
    return scopes


@pytest.mark.parametrize("http2", [True, False])
async def test_the_clients_certificate_reaches_the_handler(authority, localhost, http2, tmp_path):
    mine = authority.issue(name="provider one")
    door = Door(**with_tls(localhost, tls_client_ca=str(authority.write(tmp_path)), tls_client_auth="optional"))
    scopes = await scope_probe(door)
    async with serving(door) as server:
        url = f"https://localhost:{server.tls_port}/healthz"
        for client in (mine, None):
            async with httpx.AsyncClient(verify=authority.client_context(client), http2=http2, trust_env=False) as web:
                assert (await web.get(url)).status_code == 200
    told, none = (scope["extensions"]["tls"] for scope in scopes)
    assert ssl.PEM_cert_to_DER_cert(told["client_cert_chain"][0]) == ssl.PEM_cert_to_DER_cert(mine.certificate)
    assert told["client_cert_name"] == "CN=provider one"
    assert told["tls_version"] == 0x0304
    assert (none["client_cert_chain"], none["client_cert_name"]) == ([], None)
    assert {scope["scheme"] for scope in scopes} == {"https"}


async def test_a_required_client_certificate_and_one_of_strangers(authority, localhost, tmp_path):
    mine, theirs = authority.issue(name="mine"), Authority("other authority").issue(name="theirs")
    late = authority.issue(name="late", ends_days=-1)
    ca = str(authority.write(tmp_path))
    for mode in ("required", "optional"):
        door = Door(**with_tls(localhost, tls_client_ca=ca, tls_client_auth=mode))
        async with serving(door) as server:
            url = f"https://localhost:{server.tls_port}/healthz"

            async def get(client: Issued | None, url: str = url) -> int:
                async with httpx.AsyncClient(verify=authority.client_context(client), trust_env=False) as web:
                    return (await web.get(url)).status_code

            assert await get(mine) == 200
            for bad in (theirs, late):
                with pytest.raises(httpx.TransportError):
                    await get(bad)
            if mode == "required":
                with pytest.raises(httpx.TransportError):
                    await get(None)
            else:
                assert await get(None) == 200


async def test_client_certificates_under_a_further_host_name(authority, localhost, tmp_path):
    shop = authority.issue("shop.example").write(tmp_path, "shop")
    mine = authority.issue(name="mine")
    theirs = Authority("other authority").issue(name="theirs")
    settings = {"tls_client_ca": str(authority.write(tmp_path)), "tls_client_auth": "required"}
    door = Door(**with_tls(localhost, tls_sni=[f"shop.example={shop.cert}:{shop.key}"], **settings))
    scopes = await scope_probe(door)
    async with serving(door) as server:
        for client in (mine, theirs, None):
            context = authority.client_context(client)
            try:
                async with RawHttp2(server.tls_port, context, "shop.example") as raw:
                    stream = raw.begin("GET", "/healthz")
                    answer = await raw.answer(stream)
                    assert (answer.status == 200) == (client is mine)
            except (OSError, ssl.SSLError):
                assert client is not mine
    assert [scope["extensions"]["tls"]["client_cert_name"] for scope in scopes] == ["CN=mine"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_outlives_the_authority_it_was_begun_under(authority, localhost, version, tmp_path):
    other = Authority("other authority")
    ca = tmp_path / "clients.pem"
    ca.write_text(authority.pem)
    door = Door(**with_tls(localhost, tls_client_ca=str(ca), tls_client_auth="required"))
    context = authority.client_context(authority.issue(name="mine"))
    context.minimum_version = context.maximum_version = version
    async with serving(door) as server:
        taken, session = await asyncio.to_thread(ask_with, context, server.tls_port, None)
        assert taken
        taken, _ = await asyncio.to_thread(ask_with, context, server.tls_port, session)
        assert taken
        ca.write_text(other.pem)
        assert server.reload_tls()
        for kept in (session, None):
            taken, _ = await asyncio.to_thread(ask_with, context, server.tls_port, kept)
            assert not taken


def ask_with(
    context: ssl.SSLContext, port: int, session: ssl.SSLSession | None, name: str = "localhost"
) -> tuple[bool, ssl.SSLSession | None]:
    """(is it answered? what may be taken up again). Blocking: asyncio's own TLS takes no session."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=name, session=session) as tls,
        ):
            tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return tls.recv(100).startswith(b"HTTP/1.1 200"), tls.session
    except OSError:
        return False, None


async def test_who_only_connects_counts_and_is_bounded(authority, localhost):
    """Handshakes that never come must not take what others need, nor hold up the door's end."""
    door = Door(**with_tls(localhost))
    server = ApiServer(door.asgi, door.backend, limits=Limits(max_connections=5, headers_s=30))
    await server.start()
    silent = [await asyncio.open_connection("127.0.0.1", server.tls_port) for _ in range(5)]
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.tls_port)
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                assert not await reader.read()
        writer.close()
    assert door.metrics.value(Metric.API_CUT, "too_many") == 3
    _, leaving = silent.pop()
    leaving.close()
    await until(lambda: door.metrics.value(Metric.API_CUT, "handshake") == 1)
    assert await serial_of(server, authority.client_context()) == serial(localhost)
    async with asyncio.timeout(20):
        await server.stop(timeout_s=60)
    for _, writer in silent:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


# --- files --------------------------------------------------------------------------------------------------------


def refused(**settings: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Certificates(Api(**settings), Metrics(process=False))
    return caught.value


def test_files_that_can_not_be_used_are_named(authority, localhost, tmp_path):
    other = authority.issue("localhost").write(tmp_path, "other")
    expired = authority.issue("localhost", ends_days=-1).write(tmp_path, "expired")
    future = authority.issue("localhost", begins_days=5).write(tmp_path, "future")
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(localhost.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    cases = [
        ({"tls_cert": str(tmp_path / "none.pem")}, "cannot read"),
        ({"tls_cert": str(localhost.key)}, "holds no certificate in PEM"),
        ({"tls_key": str(tmp_path / "none.key")}, "cannot read"),
        ({"tls_key": str(other.key)}, "does not belong to"),
        ({"tls_key": str(localhost.cert)}, "holds no private key in PEM"),
        ({"tls_key": str(locked)}, "has a password"),
        ({"tls_cert": str(expired.cert), "tls_key": str(expired.key)}, "ended on"),
        ({"tls_cert": str(future.cert), "tls_key": str(future.key)}, "is not valid before"),
        ({"tls_sni": ["shop.example"]}, "is not host=certificate:key"),
        ({"tls_client_auth": "required", "tls_client_ca": str(tmp_path / "none.pem")}, "no readable file"),
    ]
    for change, words in cases:
        error = refused(**(with_tls(localhost) | change))
        assert words in error.message
        assert error.field.startswith("api.tls_")


async def test_a_gateway_does_not_start_with_a_bad_certificate(tmp_path, authority):
    expired = authority.issue("localhost", ends_days=-1).write(tmp_path, "expired")
    door = Door(**with_tls(expired))
    server = ApiServer(door.asgi, door.backend)
    with pytest.raises(ConfigError, match="ended on"):
        await server.start()
    await server.stop()


def test_remaining_time_is_a_metric_and_soon_a_warning(authority, tmp_path):
    soon = authority.issue("localhost", ends_days=5).write(tmp_path)
    metrics = Metrics(process=False)
    with structlog.testing.capture_logs() as logs:
        certificates = Certificates(Api(**with_tls(soon)), metrics)
        certificates.report()
    assert 4 * 86_400 < metrics.value(Metric.API_TLS_CERTIFICATE_SECONDS, "default") <= 5 * 86_400
    assert [entry["days_left"] for entry in logs if entry["event"] == "certificate_expires_soon"] == [4]


def test_one_that_ended_holds_up_no_others_renewal(authority, tmp_path, clock):
    ending = authority.issue("localhost", ends_days=1).write(tmp_path, "ending")
    shop = authority.issue("shop.example").write(tmp_path, "shop")
    settings = with_tls(ending, tls_sni=[f"shop.example={shop.cert}:{shop.key}"])
    certificates = Certificates(Api(**settings), Metrics(process=False), clock=clock)
    before = certificates.choose("shop.example")
    clock.now_s += 2 * 86_400
    with structlog.testing.capture_logs() as logs:
        certificates.report()
        certificates.report()
    assert [entry["certificate"] for entry in logs if entry["event"] == "certificate_expired"] == ["default"]
    authority.issue("shop.example", ends_days=90).write(tmp_path, "shop")
    with structlog.testing.capture_logs() as logs:
        assert not certificates.reload()
    assert [entry["certificate"] for entry in logs if entry["event"] == "certificate_reload_failed"] == ["default"]
    assert certificates.choose("shop.example").ends_s > before.ends_s + 50 * 86_400
    authority.issue("localhost", ends_days=90).write(tmp_path, "ending")
    assert certificates.reload()
    assert certificates.choose(None).ends_s > clock.now_s


async def test_a_new_authority_of_clients_is_in_force_under_a_name_whose_certificate_ended(
    authority, localhost, tmp_path, clock
):
    other = Authority("other authority")
    ca = tmp_path / "clients.pem"
    ca.write_text(authority.pem)
    short = authority.issue("short.example", ends_days=1).write(tmp_path, "short")
    sni = [f"short.example={short.cert}:{short.key}"]
    door = Door(**with_tls(localhost, tls_sni=sni, tls_client_ca=str(ca), tls_client_auth="required"))
    async with serving(door) as server:
        assert server._certificates is not None
        server._certificates._clock = clock
        clock.now_s += 2 * 86_400
        ca.write_text(other.pem)
        assert not server.reload_tls()  # short.example's has ended
        for of, is_taken in ((authority, False), (other, True)):
            for name in ("short.example", "localhost"):
                context = authority.client_context(of.issue(name="mine"))
                answered = await asyncio.to_thread(ask_with, context, server.tls_port, None, name)
                assert answered[0] == is_taken, name


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Clock:
    def __init__(self) -> None:
        self.now_s = time.time()

    def __call__(self) -> float:
        return self.now_s


def test_settings_that_contradict_each_other(localhost):
    def fields(**settings: Any) -> set[str]:
        config = Config()
        config.api = Api(**settings)
        return {field for field, _ in conflicts(config)}

    assert fields() == set()
    assert fields(**with_tls(localhost, tls_port=7481)) == set()
    both = Config()
    both.api = Api(**with_tls(localhost, tls_port=7443))
    both.edge.tls_port = 7443
    assert "api.tls_port" in {field for field, _ in conflicts(both)}
    assert fields(tls_cert="x") == {"api.tls_key"}
    assert fields(**with_tls(localhost) | {"tls_port": 7480}) == {"api.tls_port"}
    assert fields(tls_client_auth="required", tls_client_ca="x") == {"api.tls_cert"}
    assert fields(**with_tls(localhost, tls_client_auth="required")) == {"api.tls_client_ca"}
    assert fields(public_urls=["https://push.example", "http://h:80"]) == set()
    assert fields(public_urls=["https://push.example/"]) == {"api.public_urls"}


# --- the door closes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpn", [[], ["http/1.1"], ["h2"]])
@pytest.mark.parametrize("tunnel", [False, True])
def test_who_shakes_hands_as_the_door_closes_is_answered_and_holds_nothing_up(
    authority, localhost, alpn, tunnel, monkeypatch
):
    for room in (negotiation, tls_listener):
        monkeypatch.setattr(room, "FIRST_WORDS_S", 1.5)  # a quarter is short where other tests run beside
    uvloop.run(late_handshake(authority, localhost, alpn, tunnel=tunnel))


async def late_handshake(authority: Authority, localhost: Files, alpn: list[str], *, tunnel: bool) -> None:
    """The loop is a gateway's own: what connects there is of other kinds than asyncio's."""
    door = Door(**with_tls(localhost))
    server = ApiServer(door.asgi, door.backend)
    await server.start()
    context = authority.client_context(alpn=alpn)
    hello = b"CONNECT localhost:443 HTTP/1.1\r\nhost: localhost\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port if tunnel else server.tls_port)
    if tunnel:
        writer.write(hello)
        await reader.readuntil(b"\r\n\r\n")
    else:
        await until(lambda: server._tls_listener is not None and server._tls_listener._handshakes)
    stopping = asyncio.create_task(server.stop(timeout_s=30))
    await asyncio.sleep(0)
    await writer.start_tls(context, server_hostname="localhost")
    if alpn != ["h2"]:
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with asyncio.timeout(20):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    async with asyncio.timeout(20):
        await stopping
    writer.close()
