"""The connection to NATS as it is read natively, under nats-py's client: on the loop of asyncio and on uvloop, with TLS
and without, to a real server, and to one that sends what is no NATS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nats.aio.client import Client
from nats_rig import INFO, connected, heard

from gateway.cluster.jetstream import JetStream, NobodyThere
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.nats_transport import UNTAKEN_BYTES, NatsTransport, publish, read_natively
from gateway.config.cluster_section import Cluster
from gateway.tour.nats_servers import HOST, NatsServers

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param  # type: ignore[no-any-return]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of a server on loopback, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "server.pem", folder / "server.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.fixture(params=["plain", "tls"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    extra, tls_ca = "", ""
    if request.param == "tls":
        cert_file, key_file = make_certificate(tmp_path)
        extra, tls_ca = f'tls {{ cert_file: "{cert_file}"\n key_file: "{key_file}" }}\n', str(cert_file)
    servers = NatsServers(tmp_path, 1, extra=extra)
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(lambda: asyncio.run(servers.start())).result()
            yield Cluster(url=servers.urls, name="f", node="a", tls_ca=tls_ca)
        finally:
            thread.submit(lambda: asyncio.run(servers.close())).result()


def test_messages_of_any_size_come_whole_and_in_order(run: Run, settings: Cluster) -> None:
    async def scene() -> None:
        link = NatsLink(settings, purpose="test")
        await link.connect()
        assert isinstance(link.nats._transport, NatsTransport)
        queue: asyncio.Queue[tuple[str, bytes, dict[str, str] | None]] = asyncio.Queue()

        async def hear(message: Any) -> None:
            queue.put_nowait((message.subject, message.data, message.headers))

        await link.nats.subscribe("of.*", cb=hear)
        sent: list[tuple[str, bytes, dict[str, str] | None]] = []
        for place, size in enumerate((0, 1, 100, 32_767, 32_768, 200_000, 0, 3_000_000, 5)):
            headers = {"Place": str(place)} if place % 2 else None
            sent.append((f"of.{place}", bytes([place]) * size, headers))
            await link.nats.publish(sent[-1][0], sent[-1][1], headers=headers)
        assert await heard(queue, len(sent)) == sent
        answer = asyncio.ensure_future(link.nats.request("of.nobody.here", b"", timeout=5))
        with pytest.raises(Exception, match="no responders"):
            await answer
        await link.close()

    run(scene())


def test_what_is_published_in_pieces_comes_whole_between_others(run: Run, settings: Cluster) -> None:
    async def scene() -> None:
        link = NatsLink(settings, purpose="test")
        await link.connect()
        came: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(message: Any) -> None:
            came.put_nowait(message.data)

        await link.nats.subscribe("in.pieces", cb=hear)
        sent = [bytes([place]) * size for place, size in enumerate((4_095, 4_096, 1, 1_000_000, 0, 300_000))]
        for place, payload in enumerate(sent):
            await publish(link.nats, "in.pieces", payload)
            if place == 3:
                await link.nats.flush(5)
        assert await heard(came, len(sent)) == sent
        with pytest.raises(ValueError, match="larger"):
            await publish(link.nats, "in.pieces", bytes(link.nats.max_payload + 1))
        await link.nats.flush(5)
        await link.close()

    run(scene())


def test_what_is_heard_directly_comes_in_order_and_once_and_again_after_a_loss(run: Run, settings: Cluster) -> None:
    async def scene() -> None:
        link = NatsLink(settings, purpose="test")
        await link.connect()
        came: asyncio.Queue[bytes] = asyncio.Queue()
        by_callback: list[Any] = []

        async def hear(message: Any) -> None:
            by_callback.append(message)

        link.hear_directly("straight", came.put_nowait)
        subscription = await link.nats.subscribe("straight", cb=hear)
        await link.nats.publish("straight", b"1")
        await link.nats.publish("straight", b"2" * 100_000)
        assert await heard(came, 2) == [b"1", b"2" * 100_000]
        back = asyncio.Event()
        link.watch(lambda up: back.set() if up else None)
        await link.move()
        async with asyncio.timeout(60):
            await back.wait()
        await link.nats.publish("straight", b"3")
        assert await heard(came, 1) == [b"3"]
        await subscription.unsubscribe()
        await link.nats.publish("straight", b"4")
        await link.nats.flush(5)
        assert came.empty()
        assert not by_callback
        await link.close()

    run(scene())


async def hear_asks(client: Client) -> asyncio.Queue[Any]:
    """What is asked of "ask", once the server knows that there is somebody."""
    came: asyncio.Queue[Any] = asyncio.Queue()

    async def hear(message: Any) -> None:
        came.put_nowait(message)

    await client.subscribe("ask", cb=hear)
    for _ in range(2):  # a PING is written at once, a SUB a turn later
        await client.flush(5)
    return came


def test_requests_of_any_size_get_their_own_answer(run: Run, settings: Cluster) -> None:
    async def scene() -> None:
        link, other = NatsLink(settings, purpose="test"), Client()
        await link.connect()
        tls = ssl.create_default_context(cafile=settings.tls_ca) if settings.tls_ca else None
        await other.connect(settings.url, tls=tls)
        came = await hear_asks(other)
        js = JetStream(link, timeout_s=20)
        sent = [(bytes([place]) * size, place % 2) for place, size in enumerate((0, 1, 4_095, 4_096, 300_000, 900_000))]
        asked = [
            asyncio.ensure_future(js.request("ask", body, {"Place": str(place), "Odd": " a\r\nb "} if odd else None))
            for place, (body, odd) in enumerate(sent)
        ]
        messages = await heard(came, len(sent))
        assert [message.data for message in messages] == [body for body, _ in sent]
        assert [message.headers for message in messages] == [
            {"Place": str(place), "Odd": "a  b"} if odd else None for place, (_, odd) in enumerate(sent)
        ]
        for place, message in reversed(list(enumerate(messages))):
            await message.respond(b'{"place":%d}' % place)
        assert [said["place"] for said in await asyncio.gather(*asked)] == list(range(len(sent)))
        with pytest.raises(NobodyThere):
            await js.request("of.nobody.here", b"", {"A": "b"})
        await other.close()
        await link.close()

    run(scene())


def test_an_answer_that_comes_after_a_loss_is_heard_and_a_fresh_client_asks_too(run: Run, settings: Cluster) -> None:
    async def scene() -> None:
        link, other = NatsLink(settings, purpose="test"), Client()
        await link.connect()
        await other.connect(settings.url, tls=link._tls() if settings.tls_ca else None)
        came = await hear_asks(other)
        js = JetStream(link, timeout_s=20)
        back = asyncio.Event()
        link.watch(lambda up: back.set() if up else None)
        for lose in (link.move, link.nats.close, link.move):  # the same client, a fresh one, and that one again
            asked = asyncio.ensure_future(js.request("ask", b"1"))
            (message,) = await heard(came, 1)
            life = link.life
            back.clear()
            await lose()
            async with asyncio.timeout(60):
                await back.wait()
            if link.life == life:
                await message.respond(b'{"n":1}')
                assert await asked == {"n": 1}
            else:
                asked.cancel()
            assert len(link.nats._subs) == (link.life == life)
        await other.close()
        await link.close()

    run(scene())


async def until_closed(client: Client) -> None:
    async with asyncio.timeout(60):
        while not client.is_closed:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n", b"MSG a 1 3\r\nabcdef\r\n", b"MSG a 1 999999999\r\n"]
)
def test_a_server_that_sends_what_is_no_nats_is_left(run: Run, said: bytes) -> None:
    async def scene() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(1_000):  # until it hangs up
                    pass

        async with connected(answer) as (client, _):
            await until_closed(client)

    run(scene())


def test_a_server_that_goes_is_noticed(run: Run) -> None:
    async def scene() -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"MSG a 1 100\r\nabc")

        async with connected(answer) as (client, errors):
            await until_closed(client)
            assert "EOF" in str(await heard(errors, 1))

    run(scene())


def test_what_is_not_taken_stops_the_reading(run: Run) -> None:
    """A turn that lasts long: what came meanwhile stays below the bound and one read."""

    async def scene() -> None:
        piece = b"MSG a 1 65536\r\n" + b"x" * 65_536 + b"\r\n"

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(500):
                writer.write(piece)
                await writer.drain()
            writer.write(b"MSG b 1 3\r\nend\r\n")
            await writer.drain()
            await end.wait()

        taken, most = 0, 0
        end = asyncio.Event()
        async with connected(answer) as (client, _):

            async def process(_sid: int, subject: bytes, _reply: bytes, payload: bytes, _header: bytes | None) -> None:
                nonlocal taken, most
                connection = client._transport._connection
                if not taken:
                    while not connection.is_paused:
                        await asyncio.sleep(0.001)
                most = max(most, connection.reader.waiting_bytes)
                taken += len(payload)
                if subject == b"b":
                    end.set()

            client._process_msg = process
            async with asyncio.timeout(60):
                await end.wait()
        assert taken == 500 * 65_536 + 3
        assert UNTAKEN_BYTES < most <= UNTAKEN_BYTES + 65_536

    run(scene())


def test_a_message_that_is_not_understood_does_not_end_the_reading(run: Run) -> None:
    async def scene() -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await begun.wait()
            writer.write(b"MSG a 1 3\r\nbad\r\nMSG a 1 4\r\ngood\r\n")
            await over.wait()

        begun, over = asyncio.Event(), asyncio.Event()
        came: asyncio.Queue[bytes] = asyncio.Queue()
        async with connected(answer) as (client, _):

            def hear(payload: bytes) -> None:
                if payload == b"bad":
                    raise RuntimeError("of a handler")
                came.put_nowait(payload)

            client._ps.directly[b"a"] = hear
            await client.subscribe("a")
            begun.set()
            assert await heard(came, 1) == [b"good"]
            over.set()

    run(scene())


def test_a_pong_that_nobody_waits_for_any_more_does_not_end_the_reading(run: Run) -> None:
    async def scene() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await late.wait()
            writer.write(b"PONG\r\n")
            while True:
                line = await reader.readline()
                if line == b"PING\r\n":
                    pings.append(line)
                    if len(pings) > 1:
                        writer.write(b"PONG\r\n")
                elif not line:
                    return

        late, pings = asyncio.Event(), list[bytes]()
        async with connected(answer) as (client, _):
            with pytest.raises(TimeoutError):
                await client.flush(0.05)
            late.set()
            await client.flush(10)
            assert client.is_connected

    run(scene())


def test_a_server_that_hangs_up_at_once_is_tried_again(run: Run) -> None:
    """As one does that has no room for more connections, or is about to end."""

    async def scene() -> None:
        tries = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tries
            tries += 1
            writer.write(INFO)
            if 1 < tries < 6:
                writer.write(b"-ERR 'maximum connections exceeded'\r\n")
            else:
                while (line := await reader.readline()) not in (b"PING\r\n", b""):
                    pass
                writer.write(b"PONG\r\n")
                if tries == 6:
                    with contextlib.suppress(ConnectionResetError):
                        while line := await reader.readline():
                            if line == b"PING\r\n":
                                writer.write(b"PONG\r\n")
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(serve, HOST, 0)
        client = Client()
        assert read_natively(client) is not None
        back = asyncio.Event()

        async def on_back() -> None:
            back.set()

        async def on_error(_: BaseException) -> None:
            pass

        await client.connect(
            f"nats://{HOST}:{server.sockets[0].getsockname()[1]}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.01,  # type: ignore[arg-type]
            reconnected_cb=on_back,
            error_cb=on_error,
        )
        async with asyncio.timeout(30):
            await back.wait()
        assert tries == 6
        await client.close()
        server.close()
        await server.wait_closed()

    run(scene())


def test_what_came_before_tls_is_not_read_as_if_it_had_come_inside(run: Run, tmp_path: Path) -> None:
    cert_file, key_file = make_certificate(tmp_path)

    async def scene() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert_file, key_file)
        said: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            info = INFO.replace(b'"headers"', b'"tls_required":true,"headers"')
            writer.write(info + b"PONG\r\nMSG a 1 4\r\nEVIL\r\n")
            await writer.start_tls(context)
            while line := await reader.readline():
                said.append(line)
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
                if line.startswith(b"SUB"):
                    writer.write(b"MSG a 1 4\r\ngood\r\n")
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(serve, HOST, 0)
        client = Client()
        assert read_natively(client, needs_tls=True) is not None
        client_context = ssl.create_default_context(cafile=str(cert_file))
        await client.connect(
            f"nats://{HOST}:{server.sockets[0].getsockname()[1]}", tls=client_context, allow_reconnect=False
        )
        came: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(message: Any) -> None:
            came.put_nowait(message.data)

        await client.subscribe("a", cb=hear)
        assert await heard(came, 1) == [b"good"]
        await client.close()
        server.close()
        await server.wait_closed()

    run(scene())


def test_nothing_is_said_to_a_server_that_asks_for_no_tls_where_the_configuration_does(run: Run) -> None:
    async def scene() -> None:
        said: list[bytes] = []
        over = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(INFO)
            said.append(await reader.read())
            writer.close()
            over.set()

        server = await asyncio.start_server(serve, HOST, 0)
        client = Client()
        assert read_natively(client, needs_tls=True) is not None
        url = f"nats://{HOST}:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ConnectionError, match="does not ask for TLS"):
            await client.connect(url, tls=ssl.create_default_context(), allow_reconnect=False)
        await client.close()
        async with asyncio.timeout(60):
            await over.wait()
        assert said == [b""]
        server.close()
        await server.wait_closed()

    run(scene())


def test_a_try_that_failed_leaves_no_connection_behind(run: Run) -> None:
    async def scene() -> None:
        ends: asyncio.Queue[bytes] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionResetError):
                ends.put_nowait(await reader.read())  # and says nothing
            writer.close()

        server = await asyncio.start_server(serve, HOST, 0)
        transport = NatsTransport()
        uri = urlparse(f"nats://{HOST}:{server.sockets[0].getsockname()[1]}")
        for _ in range(3):
            await transport.connect(uri, 0, 5)
        await heard(ends, 2)
        transport.close()
        await transport.wait_closed()
        await heard(ends, 1)
        server.close()
        await server.wait_closed()

    run(scene())


def test_a_certificate_that_is_not_good_is_not_taken(run: Run, tmp_path: Path) -> None:
    cert_file, key_file = make_certificate(tmp_path)
    servers = NatsServers(tmp_path, 1, extra=f'tls {{ cert_file: "{cert_file}"\n key_file: "{key_file}" }}\n')

    async def scene() -> None:
        await servers.start()
        client = Client()
        assert read_natively(client) is not None
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.connect(servers.urls, tls=ssl.create_default_context(), allow_reconnect=False)
        await servers.close()

    run(scene())


def test_a_release_that_is_made_otherwise_reads_as_it_does() -> None:
    class Another:
        _transport = None

    assert read_natively(Another()) is None  # type: ignore[arg-type]
