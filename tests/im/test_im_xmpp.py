"""The XMPP connector before a real server, prosody, with a peer who uses slixmpp's own plugins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.xmpp import build
from gateway.im.connectors.xmpp.archive import PAGE
from gateway.model.im import (
    Answer,
    AuthFailed,
    Befriend,
    ContactChanged,
    Conversation,
    ConversationKind,
    Credentials,
    CursorForgotten,
    FriendRequest,
    JoinRoom,
    Kind,
    LeaveRoom,
    MarkRead,
    Media,
    Message,
    Moved,
    PresenceChanged,
    Rejected,
    Transient,
    Typing,
    TypingChanged,
)
from gateway.tour.networks.prosody import DOMAIN, ROOMS, Prosody
from gateway.tour.networks.xmpp_peer import XmppPeer
from tests.im.contract import WAIT_S, ConnectorContract, Listener, outgoing
from tests.im.servers_needed import needs

pytestmark = [pytest.mark.slow, needs("prosody", packages="prosody")]

NO_ADDRESS = Conversation(ConversationKind.DM, "no address @@")
Found = TypeVar("Found")


class Net:
    """Us, alice; our peer, bob."""

    def __init__(self, server: Prosody) -> None:
        self.server = server
        self.connector = build(ConnectorSettings(private_hosts=True, request_s=10))
        self.credentials = self.log_in_as("alice", "alice-pw")
        self.wrong = self.log_in_as("alice", "not it")
        self.contact = server.address("bob")
        self.peer = XmppPeer(self.contact, "bob-pw", server.address("alice"), server.port)

    def log_in_as(self, name: str, password: str) -> Credentials:
        return Credentials(
            {
                "jid": self.server.address(name),
                "password": password,
                "host": "127.0.0.1",
                "port": str(self.server.port),
                "tls": "never",
            }
        )

    async def stop_server(self) -> None:
        await self.peer.close()
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()
        await self.peer.connect()


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    accounts = {"alice": "alice-pw", "bob": "bob-pw", "carol": "carol-pw"}
    server = Prosody(tmp_path, accounts, (("alice", "bob"),))
    await server.start()
    net = Net(server)
    try:
        await net.peer.connect()
        yield net
    finally:
        await net.peer.close()
        await server.stop()


class TestXmpp(ConnectorContract):
    """All that every connector promises."""

    async def test_friends_are_asked_and_answered(self, net: Net) -> None:
        carol = net.server.address("carol")
        stranger = XmppPeer(carol, "carol-pw", net.server.address("alice"), net.server.port)
        await stranger.connect()
        try:
            async with self.open(net) as (session, listener):
                await stranger.ask_friend()
                asked = await find(listener, FriendRequest)
                assert (asked.by.remote_id, asked.text) == (carol, "let me in")
                await session.act(Answer(carol, True))
                await stranger.answer_friend(accept=True)
                while not (contact := (await find(listener, ContactChanged)).contact) or not contact.is_mutual:
                    assert contact is None or contact.remote_id == carol
                assert carol in [contact.remote_id async for contact in session.contacts()]
        finally:
            await stranger.close()

    async def test_who_befriends_needs_no_answer_to_the_answer(self, net: Net) -> None:
        carol = net.server.address("carol")
        stranger = XmppPeer(carol, "carol-pw", net.server.address("alice"), net.server.port)
        await stranger.connect()
        try:
            async with self.open(net) as (session, listener):
                await session.act(Befriend(carol, "it is me"))
                while (await asyncio.wait_for(stranger.seen.get(), WAIT_S))[0] != "presence_subscribe":
                    pass
                await stranger.answer_friend(accept=True)
                while not (contact := (await find(listener, ContactChanged)).contact) or not contact.is_mutual:
                    pass
        finally:
            await stranger.close()

    async def test_typing_and_presence_go_both_ways(self, net: Net) -> None:
        async with self.open(net) as (session, listener):
            await session.act(Typing(net.peer.conversation, True))
            while (await asyncio.wait_for(net.peer.seen.get(), WAIT_S))[0] != "chatstate_composing":
                pass
            await net.peer.type()
            typing = await find(listener, TypingChanged)
            assert (typing.by.remote_id, typing.is_typing) == (net.contact, True)
        while await asyncio.wait_for(net.peer.seen.get(), WAIT_S) != ("unavailable", net.server.address("alice")):
            pass
        async with self.open(net) as (_, listener):
            assert (await find(listener, PresenceChanged)).is_available
            await net.peer.close()
            assert not (await find(listener, PresenceChanged)).is_available

    async def test_what_another_client_of_the_account_sends_is_told(self, net: Net) -> None:
        other = XmppPeer(net.server.address("alice"), "alice-pw", net.contact, net.server.port)
        await other.connect()
        try:
            async with self.open(net) as (_, listener):
                await other.say("from my other device")
                told = await find(listener, Message)
                assert told.envelope.sender.is_self
                assert told.envelope.conversation == net.peer.conversation
                assert told.envelope.text == "from my other device"
        finally:
            await other.close()

    async def test_a_second_try_in_another_session_is_not_shown_twice(self, net: Net) -> None:
        async with self.open(net) as (session, _):
            first = await session.send(outgoing(net, "once", "in doubt"))
        async with self.open(net) as (session, _):
            assert await session.send(outgoing(net, "once", "in doubt")) == first
            await session.send(outgoing(net, "the end", "other"))
        assert [(await net.peer.hear()).text for _ in range(2)] == ["once", "the end"]

    async def test_a_second_try_is_not_shown_twice_however_much_was_said_since(self, net: Net) -> None:
        envelope = msgspec.structs.replace(outgoing(net, "once", "in doubt"), at_ms=time.time_ns() // 1_000_000)
        async with self.open(net) as (session, _):
            first = await session.send(envelope)
        for number in range(4 * PAGE):
            await net.peer.say(f"meanwhile {number}")
        async with self.open(net) as (session, _):
            assert await session.send(envelope) == first
            await session.send(outgoing(net, "the end", "other"))
        assert [(await net.peer.hear()).text for _ in range(2)] == ["once", "the end"]

    async def test_a_server_killed_in_the_middle_gets_each_message_once(self, net: Net) -> None:
        results: list[str | BaseException] = []
        envelopes = [outgoing(net, f"number {number}", f"k{number}") for number in range(40)]
        async with self.open(net) as (session, _):
            sends = [asyncio.create_task(session.send(envelope)) for envelope in envelopes]
            await sends[5]
            await net.server.kill()
            results = await asyncio.gather(*sends, return_exceptions=True)
            assert all(isinstance(result, str | Transient) for result in results)
        await net.peer.close()
        await net.start_server()
        async with self.open(net) as (session, _):
            for envelope in envelopes:
                await session.send(envelope)
            await session.send(outgoing(net, "the end", "k-end"))
        heard: list[str] = []
        while "the end" not in heard:
            heard.append((await net.peer.hear()).text)
        assert len(heard) == len(set(heard))

    async def test_an_archive_that_forgot_is_said(self, net: Net) -> None:
        with pytest.raises(CursorForgotten):
            async with self.open(net, b'["gone-from-there",{}]'):
                pass
        with pytest.raises(CursorForgotten):
            async with self.open(net, b"\xff"):
                pass

    async def test_more_than_a_page_comes_in_order(self, net: Net) -> None:
        async with self.open(net) as (_, listener):
            await net.peer.say("before")
            await listener.message()
            cursor = listener.cursor
        for number in range(130):
            await net.peer.say(f"away {number}")
        async with self.open(net, cursor) as (_, listener):
            assert [(await listener.message()).text for _ in range(130)] == [f"away {number}" for number in range(130)]

    async def test_replies_edits_and_what_is_taken_back(self, net: Net) -> None:
        async with self.open(net) as (session, listener):
            await net.peer.say("a question")
            asked = await listener.message()
            answer = await session.send(outgoing(net, "an answer", "r1", reply_to=asked.remote_id))
            await session.send(outgoing(net, "a better answer", "r2", kind=Kind.EDIT, replaces=answer))
            assert [(await net.peer.hear()).text for _ in range(2)] == ["an answer", "a better answer"]
            await net.peer.say_xml(
                f"<message to='{net.server.address('alice')}' type='chat' id='edited-0001'><body>a good question</body>"
                f"<replace xmlns='urn:xmpp:message-correct:0' id='{asked.remote_id}'/></message>"
            )
            edited = await listener.message()
            assert (edited.kind, edited.replaces, edited.text) == (Kind.EDIT, asked.remote_id, "a good question")
            await net.peer.say_xml(
                f"<message to='{net.server.address('alice')}' type='chat' id='retracted-01'><body>gone</body>"
                f"<retract xmlns='urn:xmpp:message-retract:1' id='{asked.remote_id}'/></message>"
            )
            gone = await listener.message()
            assert (gone.kind, gone.replaces, gone.text) == (Kind.REDACTION, asked.remote_id, "")

    async def test_what_the_server_does_not_take_is_rejected(self, net: Net) -> None:
        nobody = Conversation(ConversationKind.DM, net.server.address("nobody"))
        async with self.open(net) as (session, _):
            with pytest.raises(Rejected, match="service-unavailable"):
                await session.send(msgspec.structs.replace(outgoing(net, "hello?", "n1"), conversation=nobody))
            with pytest.raises(Rejected, match="conversation"):
                await session.send(msgspec.structs.replace(outgoing(net, "x", "n2"), conversation=NO_ADDRESS))
            assert await session.send(outgoing(net, "it goes on \x00\x0b\ud800", "n3"))
            assert "it goes on" in (await net.peer.hear()).text

    async def test_a_text_as_long_as_the_caps_say_goes_through(self, net: Net) -> None:
        text = "ü" * (net.connector.caps.text_bytes // 2)
        async with self.open(net) as (session, listener):
            await session.send(outgoing(net, text, "l1"))
            assert (await net.peer.hear()).text == text
            await net.peer.say(text)
            assert (await listener.message()).text == "ü" * 16_384
            with pytest.raises(Rejected, match="text"):
                await session.send(outgoing(net, text + "!", "l2"))

    async def test_files_of_a_link_that_may_not_be_followed_are_rejected(self, net: Net) -> None:
        async with self.open(net) as (session, _):
            for link in ("ftp://localhost/x", "http://[::1", f"http://localhost:{net.server.http_port}/nothing/x.png"):
                with pytest.raises(Rejected, match="media"):
                    await anext(session.fetch(Media(link)))
            with pytest.raises(Transient):
                await anext(session.fetch(Media("http://127.0.0.1:1/x.png")))

    async def test_a_crowd_that_nobody_reads_holds_up_the_network_and_not_memory(self, net: Net) -> None:
        async with self.open(net) as (session, listener):
            for number in range(1_500):
                await net.peer.say(f"crowd {number}")
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await find(listener, Moved)
            got = [(await listener.message()).text for _ in range(1_500)]
            assert got == [f"crowd {number}" for number in range(1_500)]
            assert await session.send(outgoing(net, "and all is well", "c1"))


class TestXmppRooms:
    """Alice and bob in a room."""

    async def test_a_room_is_entered_and_comes_back_without_gap_or_duplicate(self, net: Net) -> None:
        room = f"tea@{ROOMS}"
        peer = XmppPeer(net.contact, "bob-pw", net.server.address("alice"), net.server.port, room)
        await net.peer.close()
        await peer.connect()
        try:
            async with net.connector.open(net.credentials, None) as session:
                listener = Listener(session)
                await session.act(JoinRoom(room))
                await peer.say("welcome")
                heard = await listener.message()
                assert (heard.text, heard.conversation) == ("welcome", Conversation(ConversationKind.ROOM, room))
                assert (heard.sender.display, heard.sender.remote_id) == ("peer", f"{room}/peer")
                said = msgspec.structs.replace(outgoing(net, "thank you", "m1"), conversation=heard.conversation)
                remote_id = await session.send(said)
                assert await session.send(said) == remote_id == (await peer.hear()).room_id
                await session.act(MarkRead(heard.conversation, heard.remote_id))
                assert await peer.hear_read() == heard.remote_id
                await peer.read_all()
                assert (await listener.read()).remote_id == remote_id
                cursor = listener.cursor
            for number in range(40):
                await peer.say(f"away {number}")
            async with net.connector.open(net.credentials, cursor) as session:
                listener = Listener(session)
                got = [(await listener.message()).text for _ in range(40)]
                await peer.say("after")
                got.append((await listener.message()).text)
                assert got == [f"away {number}" for number in range(40)] + ["after"]
                assert await session.send(said) == remote_id
                await session.send(msgspec.structs.replace(said, text="the end", txn_id="m2"))
                assert (await peer.hear()).text == "the end"
            # the bookmark brings it back where there is no cursor
            async with net.connector.open(net.credentials, None) as session:
                listener = Listener(session)
                while b"tea@" not in (await find(listener, Moved)).cursor:
                    pass
                await peer.say("here again?")
                assert (await listener.message()).text == "here again?"
                await session.act(LeaveRoom(room))
                with pytest.raises(Rejected, match="room"):
                    await session.send(msgspec.structs.replace(said, txn_id="m3"))
        finally:
            await peer.close()

    async def test_what_is_no_room_is_rejected(self, net: Net) -> None:
        async with net.connector.open(net.credentials, None) as session:
            for room in ("", "no room", net.server.address("nobody") + "/x"):
                with pytest.raises(Rejected):
                    await session.act(JoinRoom(room))
            with pytest.raises(Rejected):
                await session.act(JoinRoom(f"tea@nothing.{DOMAIN}"))


class TestXmppLogin:
    async def test_over_tls_with_scram_and_not_where_the_certificate_is_anothers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certificate, key = make_certificate(tmp_path, DOMAIN)
        server = Prosody(tmp_path, {"alice": "alice-pw"}, certificate=certificate, key=key, is_hashed=True)
        await server.start()
        try:
            form = {"jid": "alice@localhost", "password": "alice-pw", "host": "127.0.0.1"}
            started = Credentials(form | {"port": str(server.port)})
            direct = Credentials(form | {"port": str(server.direct_port), "tls": "direct"})
            never = Credentials(form | {"port": str(server.port), "tls": "never"})
            strange = build(ConnectorSettings(private_hosts=True, request_s=5))
            for credentials in (started, direct):
                with pytest.raises(Transient, match="certificate"):
                    async with strange.open(credentials, None):
                        pass
            monkeypatch.setenv("SSL_CERT_FILE", certificate)
            connector = build(ConnectorSettings(private_hosts=True, request_s=5))
            for credentials in (started, direct):
                async with connector.open(credentials, None) as session:
                    assert session.me.remote_id == "alice@localhost"
                wrong = Credentials({**credentials.values, "password": "not it"})
                with pytest.raises(AuthFailed):
                    async with connector.open(wrong, None):
                        pass
            with pytest.raises((Rejected, Transient)):
                async with connector.open(never, None):
                    pass
        finally:
            await server.stop()

    async def test_a_server_without_tls_gets_no_password(self, net: Net) -> None:
        values = {**net.credentials.values, "tls": "required"}
        with pytest.raises(Rejected, match="tls"):
            async with net.connector.open(Credentials(values), None):
                pass

    async def test_a_private_server_is_refused(self, net: Net) -> None:
        with pytest.raises(Rejected, match="public"):
            async with build(ConnectorSettings()).open(net.credentials, None):
                pass


async def find(listener: Listener, kind: type[Found]) -> Found:
    while True:
        event = await listener.next()
        if isinstance(event, kind):
            return event


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    """Signed by itself: files of the certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "server.crt", folder / "server.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(pem), str(key_pem)
