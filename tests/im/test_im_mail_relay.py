"""Our own domain behind a real OpenSMTPD, which hands mails on by LMTP or SMTP (D14); codes (D1) and mails from own
mailboxes (D15) out through it to people whose mails a real Dovecot keeps."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from im.servers_needed import needs
from unit.im.im_mail_doubles import ALICE, Log, People, Shelf

from gateway.config.im_section import Im
from gateway.im.messaging.mail_intake import MailIntake
from gateway.im.messaging.mail_listener import MailDoor
from gateway.im.messaging.own_mailbox import OwnMailbox
from gateway.im.ust.code_by_mail import CodesByMail
from gateway.metrics import Metrics
from gateway.model.errors import StoreUnavailable
from gateway.model.im import Conversation, ConversationKind, Envelope, Person
from gateway.tour.networks.mail_peer import MailPeer
from gateway.tour.networks.mail_server import MailServer, free_port, is_root

pytestmark = [
    pytest.mark.slow,
    needs(
        *("dovecot", "smtpd", "/usr/lib/dovecot/lmtp") if is_root() else ("root",),
        packages="dovecot-imapd dovecot-lmtpd opensmtpd (as root)",
    ),
]
OWN = "own.example"


class Setup(NamedTuple):
    server: MailServer
    door: MailDoor
    log: Log
    peer: MailPeer
    settings: Im

    def relay(self, mail: bytes, to: str = f"alice@{OWN}") -> None:
        with smtplib.SMTP("127.0.0.1", self.server.ports["smtp"], timeout=20) as client:
            client.sendmail(self.peer.address, [to], mail)

    async def delivered(self, count: int) -> list[str]:
        async with asyncio.timeout(30):
            while len(self.log.items) < count:
                await asyncio.sleep(0.05)
        return [item.envelope.text for _, item in self.log.items if item.envelope is not None]


@pytest.fixture(params=["lmtp", "smtp"])
async def setup(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    port, is_lmtp = free_port(), request.param == "lmtp"
    async with MailServer(tmp_path / "mail", relay=(OWN, port), by_lmtp=is_lmtp) as server:
        log, metrics = Log(), Metrics(process=False)
        settings = Im(
            mail_domain=OWN,
            mail_port=port,
            mail_lmtp=is_lmtp,
            smtp_host="127.0.0.1",
            smtp_port=server.ports["smtp"],
            smtp_tls="never",
            smtp_from=f"codes@{OWN}",
        )
        intake = MailIntake(settings, People(), Shelf(), log, metrics, lambda: 1)  # type: ignore[arg-type]
        door = MailDoor(settings, intake, metrics)
        await door.start()
        try:
            yield Setup(server, door, log, MailPeer(server), settings)
        finally:
            await door.close()


async def test_a_mail_comes_through_a_real_server_by_lmtp(setup: Setup) -> None:
    await asyncio.to_thread(setup.relay, b"From: bob@mail.test\r\nSubject: x\r\n\r\nfirst\r\n..dots\r\n")
    assert await setup.delivered(1) == ["first\n..dots"]
    ((user, item),) = setup.log.items
    assert user == ALICE
    assert item.envelope is not None
    assert item.envelope.remote_id.endswith("@mail.test")  # the server gives one where there is none


async def test_many_mails_through_it_are_there_once(setup: Setup) -> None:
    def send() -> None:
        for number in range(30):
            setup.relay(b"From: bob@mail.test\r\nMessage-ID: <%d@x>\r\n\r\nmail %d\r\n" % (number, number))

    await asyncio.to_thread(send)
    assert sorted(await setup.delivered(30)) == sorted(f"mail {number}" for number in range(30))


@pytest.mark.parametrize("setup", ["smtp"], indirect=True)
async def test_a_mail_for_nobody_goes_back_to_its_sender(setup: Setup) -> None:
    await asyncio.to_thread(setup.relay, b"From: bob@mail.test\r\n\r\nx\r\n", f"nobody@{OWN}")
    bounce = await setup.peer.hear()
    assert "nobody@own.example" in bounce.raw.decode()
    assert "5.1.1" in bounce.raw.decode()
    assert setup.log.items == []


async def test_a_mail_that_could_not_be_kept_stays_with_the_server(setup: Setup) -> None:
    setup.log.trouble = StoreUnavailable()
    await asyncio.to_thread(setup.relay, b"From: bob@mail.test\r\n\r\nkept there\r\n")
    await asyncio.sleep(1)
    assert setup.log.items == []
    setup.log.trouble = None
    await asyncio.to_thread(setup.server.flush)
    assert await setup.delivered(1) == ["kept there"]


async def test_a_code_reaches_a_mailbox(setup: Setup) -> None:
    await CodesByMail(setup.settings).send(setup.peer.address, "314159")
    letter = await setup.peer.hear()
    assert "314159" in letter.text
    assert "314159" in letter.subject


async def test_a_mail_from_an_own_mailbox_arrives_and_its_answer_too(setup: Setup) -> None:
    to = Conversation(ConversationKind.DM, setup.peer.address)
    mail = Envelope("mail", to, Person("", is_self=True), subject="Grüße", text="schöne Grüße", txn_id="t")
    remote_id = await OwnMailbox(setup.settings).send("alice", mail)
    letter = await setup.peer.hear()
    assert (letter.remote_id, letter.text, letter.subject) == (remote_id, "schöne Grüße", "Grüße")
    assert b"From: alice@own.example" in letter.raw
    answer = f"From: bob@mail.test\r\nIn-Reply-To: <{remote_id}>\r\n\r\nthanks\r\n".encode()
    await asyncio.to_thread(setup.relay, answer)
    assert await setup.delivered(1) == ["thanks"]
    envelope = setup.log.items[0][1].envelope
    assert envelope is not None
    assert envelope.reply_to == remote_id
