"""The IRC connector beside Debian's ngircd, and a peer with the library `irc`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from im.contract import WAIT_S, ConnectorContract, Listener, outgoing
from im.servers_needed import needs

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.irc import build
from gateway.model.im import (
    Connector,
    Conversation,
    ConversationKind,
    Credentials,
    Envelope,
    JoinRoom,
    LeaveRoom,
    Moved,
    Person,
    Rejected,
    Transient,
)
from gateway.tour.networks.irc_peer import IrcPeer
from gateway.tour.networks.ngircd import ROOM, Ngircd

pytestmark = [pytest.mark.slow, needs("ngircd", packages="ngircd")]

PASSWORD = "open-sesame"


class IrcNetwork:
    contact = ""

    def __init__(self, server: Ngircd, peer: IrcPeer) -> None:
        self.server, self.peer = server, peer
        self.connector: Connector = build(ConnectorSettings(private_hosts=True, request_s=5.0, irc_line_s=0.1))
        form = {"server": "127.0.0.1", "port": str(server.port), "tls": "never", "nick": "Ours"}
        self.form = {**form, "server_password": PASSWORD}
        self.credentials = Credentials(self.form)
        self.wrong = Credentials({**form, "server_password": "sesame-open"})

    async def stop_server(self) -> None:
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[IrcNetwork]:
    server = Ngircd(tmp_path, PASSWORD)
    await server.start()
    peer = IrcPeer(server.port, "peer", "Ours", PASSWORD)
    await peer.connect()
    yield IrcNetwork(server, peer)
    await peer.close()
    await server.stop()


@pytest.fixture
async def room(net: IrcNetwork) -> AsyncIterator[IrcPeer]:
    peer = IrcPeer(net.server.port, "inroom", ROOM, PASSWORD)
    await peer.connect()
    yield peer
    await peer.close()


class TestIrc(ConnectorContract):
    pass


def opened(net: IrcNetwork, **more: str) -> contextlib.AbstractAsyncContextManager:
    return net.connector.open(Credentials({**net.form, **more}), None)


def to(conversation: Conversation, text: str) -> Envelope:
    return Envelope(network="irc", conversation=conversation, sender=Person("", is_self=True), text=text)


async def heard(peer: IrcPeer) -> tuple[str, str]:
    got = await asyncio.wait_for(peer.hear(), WAIT_S)
    return got.how, got.text


async def test_rooms_of_the_form_are_joined_at_once(net: IrcNetwork, room: IrcPeer) -> None:
    async with opened(net, channels=ROOM) as session:
        await room.say("hello all")
        got = await Listener(session).message()
        assert got.conversation == room.conversation
        assert got.sender.display == "inroom"
        assert await session.send(to(room.conversation, "hello room"))
        assert await heard(room) == ("pubmsg", "hello room")


async def test_a_room_that_is_joined_later_is_in_the_cursor(net: IrcNetwork, room: IrcPeer) -> None:
    async with opened(net) as session:
        listener = Listener(session)
        await session.act(JoinRoom(ROOM))
        assert isinstance(await listener.next(), Moved)
    async with net.connector.open(net.credentials, listener.cursor) as session:
        listener = Listener(session)
        await room.say("still here?")
        assert (await listener.message()).text == "still here?"
        await session.act(LeaveRoom(ROOM))
        assert isinstance(await listener.next(), Moved)
        with pytest.raises(Rejected, match="room"):
            await session.act(LeaveRoom(ROOM))


async def test_who_is_not_there_is_rejected(net: IrcNetwork) -> None:
    async with opened(net) as session:
        with pytest.raises(Rejected, match="nobody of this name"):
            await session.send(to(Conversation(ConversationKind.DM, "nobody"), "hello?"))
        # the next one is not taken for it
        assert await session.send(outgoing(net, "you then", "n2"))


async def test_a_nick_in_use_becomes_another(net: IrcNetwork) -> None:
    async with opened(net) as first, opened(net) as second:
        assert first.me.remote_id == "ours"
        assert second.me.remote_id == "ours_"


async def test_a_long_text_arrives_whole_in_several_lines(net: IrcNetwork) -> None:
    text = ("wörter 世界 " * 90).strip()
    async with opened(net) as session:
        await session.send(outgoing(net, text, "l1"))
        # a space at the end of a line is lost on the way
        got: list[str] = []
        while len(got) < len(text.split()):
            got += (await heard(net.peer))[1].split()
    assert got == text.split()


async def test_actions_and_queries_of_other_clients(net: IrcNetwork) -> None:
    async with opened(net) as session:
        listener = Listener(session)
        await session.send(outgoing(net, "/me waves", "a1"))
        assert await heard(net.peer) == ("action", "waves")
        await net.peer.say("\x01ACTION waves back\x01")
        assert (await listener.message()).text == "/me waves back"
        await net.peer.say("\x01VERSION\x01")
        assert await heard(net.peer) == ("ctcpreply", "VERSION Heliograph")
        await net.peer.say("\x01PING 42\x01")
        assert await heard(net.peer) == ("ctcpreply", "PING 42")
        await net.peer.say_raw("NOTICE Ours :mind the gap")
        assert (await listener.message()).text == "mind the gap"


async def test_who_is_killed_is_disconnected(net: IrcNetwork) -> None:
    async with opened(net) as session:
        await net.peer.say_raw("OPER boss boss")
        await net.peer.say_raw("KILL Ours :away with you")
        with pytest.raises(Transient):
            await Listener(session).drain()


async def test_a_flood_is_paced_and_arrives_whole(net: IrcNetwork) -> None:
    async with opened(net) as session:
        for number in range(20):
            await session.send(outgoing(net, f"line {number}", f"f{number}"))
        got = [(await heard(net.peer))[1] for _ in range(20)]
    assert got == [f"line {number}" for number in range(20)]


async def test_a_server_that_dies_while_we_say_something(net: IrcNetwork) -> None:
    async with opened(net) as session:
        sending = asyncio.create_task(session.send(outgoing(net, "word " * 700, "k1")))
        await asyncio.wait_for(net.peer.hear(), WAIT_S)
        await net.stop_server()
        with pytest.raises(Transient) as caught:
            await sending
        assert caught.value.is_in_doubt
        with pytest.raises(Transient) as caught:
            await session.send(outgoing(net, "too late", "k2"))
        assert not caught.value.is_in_doubt
    await net.start_server()


async def test_what_nobody_reads_stays_at_the_server(net: IrcNetwork) -> None:
    connector = build(ConnectorSettings(private_hosts=True, request_s=5.0, events=4))
    async with connector.open(net.credentials, None) as session:
        for number in range(40):
            await net.peer.say(f"number {number}")
        listener = Listener(session)
        got = [(await listener.message()).text for _ in range(40)]
    assert got == [f"number {number}" for number in range(40)]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, secret


async def test_tls_is_for_the_name_that_was_typed_and_nothing_is_said_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    server = Ngircd(tmp_path, PASSWORD, (certificate, key))
    await server.start()
    try:
        settings = ConnectorSettings(private_hosts=True, request_s=2.0)
        form = {"server": "localhost", "port": str(server.tls_port), "nick": "Ours", "server_password": PASSWORD}
        stranger = build(settings)
        with pytest.raises(Transient, match="trusted"):
            async with stranger.open(Credentials(form), None):
                pass
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        friend = build(settings)
        async with friend.open(Credentials(form), None) as session:
            assert session.me.remote_id == "ours"
        # another name than the certificate's
        with pytest.raises(Transient, match="trusted"):
            async with friend.open(Credentials({**form, "server": "127.0.0.1"}), None):
                pass
        # the port that speaks no TLS
        with pytest.raises(Transient, match=r"trusted|connection|answer"):
            async with friend.open(Credentials({**form, "port": str(server.port)}), None):
                pass
    finally:
        await server.stop()
