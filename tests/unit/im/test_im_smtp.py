"""Mails out: what each answer of a server means, codes by mail (D1), mail from own mailboxes (D15)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from gateway.config.im_section import Im
from gateway.im.messaging.own_mailbox import OwnMailbox
from gateway.im.smtp import SmtpServer, send_mail
from gateway.im.ust.code_by_mail import CodesByMail
from gateway.model.errors import ConfigError, InvalidField, MailUnavailable
from gateway.model.im import (
    AuthFailed,
    Conversation,
    ConversationKind,
    Envelope,
    Media,
    MediaFile,
    Person,
    Rejected,
    Transient,
)
from gateway.notifiers.local_tls import Authority

MAIL = b"Subject: x\r\n\r\nhello\r\n"


class Answers:
    """A server that answers as the test says."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.mails: list[tuple[str, list[str], bytes]] = []

    async def handle_MAIL(self, _s: Any, _se: Any, envelope: Any, address: str, _o: Any) -> str:
        envelope.mail_from = address
        return self.answers.get("MAIL", "250 OK")

    async def handle_RCPT(self, _s: Any, _se: Any, envelope: Any, address: str, _o: Any) -> str:
        envelope.rcpt_tos.append(address)
        return self.answers.get("RCPT", "250 OK")

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:
        if self.answers.get("DATA") == "hang up":
            server.transport.abort()
            return "250 never heard"
        if self.answers.get("DATA") == "silent":
            await asyncio.sleep(60)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return self.answers.get("DATA", "250 OK")


def _login(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: LoginPassword) -> AuthResult:
    return AuthResult(success=data.password == b"right", handled=False)


@asynccontextmanager
async def served(handler: Answers, *, listen_ssl: ssl.SSLContext | None = None, **more: Any) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    links: list[SMTP] = []

    def make() -> SMTP:
        links.append(SMTP(handler, hostname="mx.test", loop=loop, **more))
        return links[-1]

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=listen_ssl)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for link in links:
            if link.transport is not None:
                link.transport.abort()  # type: ignore[attr-defined]
            await asyncio.gather(*filter(None, [link._handler_coroutine]), return_exceptions=True)
        await server.wait_closed()


async def send(port: int, **more: str) -> None:
    server = SmtpServer("127.0.0.1", port, **{"tls": "never", **more})
    await send_mail(server, "a@x.example", ["b@x.example"], MAIL, request_s=0.5)


@pytest.mark.parametrize(
    ("command", "answer", "expected"),
    [
        ("MAIL", "450 later", Transient),
        ("MAIL", "550 no", Rejected),
        ("MAIL", "530 authenticate first", Transient),
        ("RCPT", "451 greylisted b@x.example", Transient),
        ("RCPT", "550 no such user b@x.example", Rejected),
        ("DATA", "452 full", Transient),
        ("DATA", "552 too large", Rejected),
        ("DATA", "554 spam", Rejected),
        ("DATA", "421 going down", Transient),
        ("DATA", "299 what", Transient),
    ],
)
async def test_four_is_for_now_and_five_for_good(command: str, answer: str, expected: type[Exception]) -> None:
    async with served(Answers(**{command: answer})) as port:
        with pytest.raises(expected) as raised:
            await send(port)
    assert "b@x" not in str(raised.value)


@pytest.mark.parametrize("trouble", ["hang up", "silent"])
async def test_who_hangs_up_behind_the_mail_may_have_it(trouble: str) -> None:
    async with served(Answers(DATA=trouble)) as port:
        with pytest.raises(Transient) as raised:
            await send(port)
    assert raised.value.is_in_doubt


async def test_a_server_that_is_not_there_has_it_not() -> None:
    async with served(Answers()) as port:
        pass
    with pytest.raises(Transient) as raised:
        await send(port)
    assert not raised.value.is_in_doubt


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_nothing_is_said_in_the_clear_where_tls_is_asked_for(tls: str) -> None:
    handler = Answers()
    async with served(handler) as port:
        with pytest.raises(Transient):
            await send(port, tls=tls, user="u", password="right")
    assert handler.mails == []


async def test_credentials() -> None:
    handler = Answers()
    async with served(handler, authenticator=_login, auth_require_tls=False) as port:
        await send(port, user="u", password="right")
        with pytest.raises(AuthFailed):
            await send(port, user="u", password="wrong")
    assert [mail[:2] for mail in handler.mails] == [("a@x.example", ["b@x.example"])]


@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_tls_and_a_password_behind_it(tls: str, tmp_path: Path) -> None:
    authority = Authority()
    files = authority.issue("localhost").write(tmp_path)
    ours, theirs = authority.client_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(files.cert, files.key)
    handler = Answers()
    more: dict[str, Any] = {"listen_ssl": theirs} if tls == "tls" else {"tls_context": theirs, "require_starttls": True}
    async with served(handler, authenticator=_login, auth_require_tls=tls != "tls", **more) as port:
        good = SmtpServer("localhost", port, tls, "u", "right")
        await send_mail(good, "a@x.example", ["b@x.example"], MAIL, request_s=2.0, context=ours)
        wrong = good._replace(password="w")
        with pytest.raises(AuthFailed):
            await send_mail(wrong, "a@x.example", ["b@x.example"], MAIL, request_s=2.0, context=ours)
        with pytest.raises(Transient):  # a certificate that nobody vouches for
            await send_mail(good, "a@x.example", ["b@x.example"], MAIL, request_s=2.0)
    assert len(handler.mails) == 1


@pytest.mark.parametrize("evil", ["b@x.example>\r\nRCPT TO:<v@x.example", "b@x\nDATA"])
async def test_an_address_is_no_command(evil: str) -> None:
    handler = Answers()
    async with served(handler) as port:
        with pytest.raises(Rejected):
            await send_mail(SmtpServer("127.0.0.1", port, "never"), "a@x.example", [evil], MAIL, request_s=0.5)
    assert handler.mails == []


def settings(port: int, **more: Any) -> Im:
    values = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_tls": "never", "smtp_from": "codes@own.example"}
    return Im(**{**values, "mail_domain": "own.example", "request_s": 0.5, **more})


async def test_a_code_comes_by_mail() -> None:
    handler = Answers()
    async with served(handler) as port:
        await CodesByMail(settings(port)).send("b@x.example", "271828")
    ((sender, recipients, raw),) = handler.mails
    mail = message_from_bytes(raw, policy=default)
    assert (sender, recipients) == ("codes@own.example", ["b@x.example"])
    assert "271828" in mail["Subject"]
    assert "271828" in mail.get_content()  # type: ignore[attr-defined]
    assert "10 minutes" in mail.get_content()  # type: ignore[attr-defined]


async def test_a_code_that_does_not_go_is_an_error_without_it() -> None:
    for answers, expected in (({"RCPT": "550 no"}, InvalidField), ({"RCPT": "450 no"}, MailUnavailable)):
        async with served(Answers(**answers)) as port:
            with pytest.raises(expected) as raised:
                await CodesByMail(settings(port)).send("b@x.example", "271828")
        assert "271828" not in str(raised.value)
        assert "b@x" not in str(raised.value)
    with pytest.raises(InvalidField):
        await CodesByMail(settings(1)).send("b@x\r\nBcc: v@x", "271828")
    with pytest.raises(MailUnavailable):
        await CodesByMail(settings(1)).send("b@x.example", "271828")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("smtp_host", ""),
        ("smtp_tls", "perhaps"),
        ("smtp_from", "nobody"),
        ("smtp_password_file", "/nowhere/at/all"),
    ],
)
def test_settings_that_are_not_enough_are_named(field: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        CodesByMail(settings(25, smtp_user="u", **{field: value}))
    assert raised.value.field == f"im.{field}"


async def test_a_mail_from_an_own_mailbox(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\x89PNG")
    (tmp_path / "password").write_text("right\n")
    handler = Answers()
    envelope = Envelope(
        "mail",
        Conversation(ConversationKind.DM, "b@x.example"),
        Person("", is_self=True),
        subject="s",
        text="t",
        txn_id="1",
    )
    file = MediaFile(Media("m", "image/png", 4, "a.png"), str(tmp_path / "f"), "")
    more = {"smtp_user": "u", "smtp_password_file": str(tmp_path / "password")}
    async with served(handler, authenticator=_login, auth_require_tls=False) as port:
        mailbox = OwnMailbox(settings(port, **more))
        ids = [await mailbox.send("alice", envelope, [file]) for _ in range(2)]
        (tmp_path / "password").write_text("wrong")
        with pytest.raises(Transient, match="smtp_user"):
            await OwnMailbox(settings(port, **more)).send("alice", envelope)
        for local_part in ("", "a b", "a@b", "x\r\n"):
            with pytest.raises(Rejected):
                await mailbox.send(local_part, envelope)
        with pytest.raises(Rejected):
            await mailbox.send("alice", envelope, [file._replace(path=str(tmp_path / "gone"))])
    assert ids[0] == ids[1]
    assert ids[0].endswith("@own.example")
    assert [mail[0] for mail in handler.mails] == ["alice@own.example"] * 2
    assert f"<{ids[0]}>".encode() in handler.mails[0][2]


def test_an_own_mailbox_needs_a_domain() -> None:
    with pytest.raises(ConfigError, match="domain"):
        OwnMailbox(settings(25, mail_domain=""))
