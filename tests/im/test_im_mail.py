"""The mail connector before a real Dovecot and OpenSMTPD: what every connector promises, and what is mail's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from im.contract import WAIT_S, ConnectorContract, Listener, gather_bytes, outgoing
from im.servers_needed import needs

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.mail import build
from gateway.model.im import (
    AuthFailed,
    Connector,
    Credentials,
    CursorForgotten,
    Kind,
    Media,
    MediaFile,
    ReadUpTo,
    Rejected,
    Transient,
)
from gateway.tour.networks.mail_peer import MailPeer
from gateway.tour.networks.mail_server import PASSWORD, MailServer, is_root

pytestmark = [
    pytest.mark.slow,
    needs(
        *("dovecot", "smtpd", "/usr/lib/dovecot/lmtp") if is_root() else ("root",),
        packages="dovecot-imapd dovecot-lmtpd opensmtpd (as root)",
    ),
]


@dataclass
class MailNetwork:
    server: MailServer
    connector: Connector
    credentials: Credentials
    wrong: Credentials
    peer: MailPeer
    contact: str = ""

    async def stop_server(self) -> None:
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()

    def with_form(self, **changed: str) -> Credentials:
        return Credentials({**self.credentials.values, **changed})


@pytest.fixture
async def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MailNetwork]:
    async with MailServer(tmp_path / "mail") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        form = {
            "address": server.address("alice"),
            "password": PASSWORD,
            "imap_host": "127.0.0.1",
            "imap_port": str(server.ports["imap"]),
            "smtp_host": "127.0.0.1",
            "smtp_port": str(server.ports["smtp"]),
            "tls": "never",
        }
        yield MailNetwork(
            server,
            build(ConnectorSettings(private_hosts=True, request_s=5.0, text_bytes=4_096, media_bytes=2_000_000)),
            Credentials(form),
            Credentials({**form, "password": "another"}),
            MailPeer(server),
        )


class TestMail(ConnectorContract):
    """The contract, and what is mail's own."""

    @pytest.mark.parametrize(("tls", "port"), [("tls", "imaps"), ("starttls", "imap")])
    async def test_it_speaks_tls(self, net: MailNetwork, tls: str, port: str) -> None:
        form = net.with_form(tls=tls, imap_host="localhost", imap_port=str(net.server.ports[port]))
        async with net.connector.open(form, None) as session:
            listener = Listener(session)
            for text in ("over TLS", "again"):  # the second while IDLE waits behind TLS
                await net.peer.say(text)
                assert (await listener.message()).text == text
        with pytest.raises(AuthFailed):
            async with net.connector.open(Credentials({**form.values, "password": "another"}), None):
                pass

    async def test_a_certificate_that_is_not_good_is_not_taken(
        self, net: MailNetwork, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        strict = build(ConnectorSettings(private_hosts=True, request_s=5.0))
        port = str(net.server.ports["imaps"])
        with pytest.raises(Transient, match="certificate"):
            async with strict.open(net.with_form(tls="tls", imap_host="localhost", imap_port=port), None):
                pass

    async def test_answers_hold_on_to_what_they_answer(self, net: MailNetwork) -> None:
        async with self.open(net) as (session, listener):
            await net.peer.say("a question?")
            question = await listener.message()
            sent = await session.send(outgoing(net, "an answer", "a1", reply_to=question.remote_id, subject="Re: x"))
            heard = await asyncio.wait_for(net.peer.hear(), WAIT_S)
        assert question.subject == "Von Bob: grüße"
        assert question.sender.display == "Bob Bäcker"
        assert (heard.remote_id, heard.reply_to, heard.subject) == (sent, question.remote_id, "Re: x")

    async def test_a_second_try_has_the_same_id(self, net: MailNetwork) -> None:
        async with self.open(net) as (session, _):
            assert await session.send(outgoing(net, "x", "same")) == await session.send(outgoing(net, "x", "same"))
            ids = {(await asyncio.wait_for(net.peer.hear(), WAIT_S)).remote_id for _ in range(2)}
        assert len(ids) == 1

    async def test_what_is_read_elsewhere_is_told(self, net: MailNetwork) -> None:
        async with self.open(net) as (_, listener):
            await net.peer.say("one")
            first = await listener.message()
            await net.peer.say("two")
            await listener.message()
            waiting = asyncio.create_task(listener.next())
            await asyncio.sleep(0.3)
            await net.peer.read_ours(f"<{first.remote_id}>")
            event = await waiting
        assert isinstance(event, ReadUpTo)
        assert event.by.is_self
        assert (event.conversation, event.remote_id) == (first.conversation, first.remote_id)

    async def test_a_mailbox_that_was_made_anew_is_said(self, net: MailNetwork) -> None:
        with pytest.raises(CursorForgotten):
            async with net.connector.open(net.credentials, b"1.1"):
                pass

    async def test_a_large_mailbox_begins_now_and_comes_back_whole(self, net: MailNetwork) -> None:
        async with self.open(net) as (_, listener):
            await net.peer.say("first")
            await listener.message()
            cursor = listener.cursor
        await net.server.fill("alice", 2_000)
        begun = time.monotonic()
        async with self.open(net) as (_, listener):
            await net.peer.say("new")
            assert (await listener.message()).text == "new"
        assert time.monotonic() - begun < 10
        async with self.open(net, cursor) as (_, listener):
            got = [(await listener.message()).text for _ in range(2_001)]
        assert got == [f"old {number}" for number in range(2_000)] + ["new"]

    @pytest.mark.parametrize("name", ["malformed", "no headers", "deep", "long lines", "nul", "broken structure"])
    async def test_a_malformed_mail_comes_and_the_next_one_too(self, net: MailNetwork, name: str) -> None:
        mails = {
            "malformed": b"From: <<>>\nSubject: =?x?q?=\nContent-Type: multipart/mixed; boundary=\n\n--\nx",
            "no headers": b"\n\njust a body",
            "deep": b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(200)),
            "long lines": b"Subject: " + b"x" * 200_000 + b"\nX-Y: " + b"z" * 100_000 + b"\n\nbody",
            "nul": b"Subject: a\0b\nContent-Type: text/plain; charset=\0\n\nx\0y",
            "broken structure": b'Content-Type: text/plain; name="\\"; x*0*=\xff\n\n\xff\xfe',
        }
        async with self.open(net) as (_, listener):
            await net.server.put("alice", mails[name])
            await net.peer.say("the next")
            first = await listener.message()
            assert first.remote_id
            assert first.kind is Kind.MAIL
            assert (await listener.message()).text == "the next"

    async def test_files_in_pieces_and_too_large_ones(self, net: MailNetwork, tmp_path: Path) -> None:
        data = bytes(range(256)) * 4_000  # a megabyte
        async with self.open(net) as (session, listener):
            await net.peer.say_file(data, "application/octet-stream", "../grüße.bin")
            heard = await listener.message()
            assert [media.name for media in heard.media] == ["grüße.bin"]
            assert await gather_bytes(session.fetch(heard.media[0])) == data
            await net.peer.say_file(data * 3, "application/octet-stream", "large.bin")
            large = await listener.message()
            with pytest.raises(Rejected, match="larger"):
                await gather_bytes(session.fetch(large.media[0]))
            (tmp_path / "f").write_bytes(data)
            media = Media("m", "application/octet-stream", len(data), "back.bin")
            back = outgoing(net, "", "f1", kind=Kind.MEDIA, media=(media,))
            await session.send(back, [MediaFile(media, str(tmp_path / "f"), "")])
            assert (await asyncio.wait_for(net.peer.hear(), WAIT_S)).file == data

    async def test_a_server_killed_in_the_middle_of_a_file(self, net: MailNetwork) -> None:
        data = bytes(1_400_000)
        async with self.open(net) as (session, listener):
            await net.peer.say_file(data, "application/octet-stream", "f")
            heard = await listener.message()
            pieces = session.fetch(heard.media[0])
            await anext(pieces)
            await net.stop_server()
            with pytest.raises(Transient):
                await gather_bytes(pieces)
        await net.start_server()
        async with self.open(net) as (session, _):
            assert await gather_bytes(session.fetch(heard.media[0])) == data

    async def test_a_file_is_fetched_and_a_mail_marked_while_it_waits_for_news(self, net: MailNetwork) -> None:
        async with self.open(net) as (session, listener):
            await net.peer.say_file(b"x" * 1_000, "image/png", "a.png")
            heard = await listener.message()
            waiting = asyncio.create_task(listener.message())
            for _ in range(20):
                assert len(await gather_bytes(session.fetch(heard.media[0]))) == 1_000
            await net.peer.say("news")
            assert (await waiting).text == "news"

    async def test_a_mail_is_on_its_way_to_the_device_at_once(self, net: MailNetwork) -> None:
        async with self.open(net) as (_, listener):
            waiting = asyncio.create_task(listener.message())
            await asyncio.sleep(0.3)
            begun = time.monotonic()
            await net.peer.say("quick")
            assert (await waiting).text == "quick"
        assert time.monotonic() - begun < 5

    async def test_a_mail_to_nobody_is_rejected_or_comes_back(self, net: MailNetwork) -> None:
        async with self.open(net) as (session, _):
            nobody = outgoing(net, "x", "n1")
            elsewhere = nobody.conversation.__class__(nobody.conversation.kind, "x@elsewhere.example")
            with pytest.raises(Rejected):
                await session.send(type(nobody)("mail", elsewhere, nobody.sender, text="x"))
