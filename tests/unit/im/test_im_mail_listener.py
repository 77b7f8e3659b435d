"""The door for mails to our own domain (D14), before `smtplib` and before senders that mean harm."""

from __future__ import annotations

import asyncio
import logging
import smtplib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any, NamedTuple

import pytest
import uvloop
from hypothesis import HealthCheck, given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from im_mail_doubles import ALICE, BOB, Log, People, Shelf

from gateway.config.im_section import Im
from gateway.im.messaging import mail_listener
from gateway.im.messaging.mail_intake import MailIntake
from gateway.im.messaging.mail_listener import MailDoor
from gateway.metrics import Metric, Metrics
from gateway.model.errors import ConfigError, QueueFull, StoreUnavailable
from gateway.model.im import Kind

NOW_MS = 1_795_760_000_000
MAIL = b"From: Zoe <zoe@else.example>\r\nSubject: hi\r\nMessage-ID: <1@else.example>\r\n\r\nhello\r\n"


class Door(NamedTuple):
    door: MailDoor
    people: People
    shelf: Shelf
    log: Log
    metrics: Metrics

    def count(self, metric: Metric, label: str) -> float:
        return self.metrics.counters.get((metric, label), 0)

    @property
    def texts(self) -> list[str]:
        return [item.envelope.text for _, item in self.log.items if item.envelope is not None]

    async def talk(self, work: Callable[[smtplib.SMTP], Any], *, lmtp: bool = False) -> Any:
        """`work` with a client of the standard library, in a thread."""

        def run() -> Any:
            kind = smtplib.LMTP if lmtp else smtplib.SMTP
            with kind("127.0.0.1", self.door.port) as client:
                return work(client)

        return await asyncio.wait_for(asyncio.to_thread(run), 20)

    async def send(self, mail: bytes, to: str = "alice@own.example") -> Any:
        return await self.talk(lambda client: client.sendmail("zoe@else.example", [to], mail))


@asynccontextmanager
async def opened(**more: Any) -> AsyncIterator[Door]:
    values = {"mail_domain": "own.example", "mail_port": 0, "mail_bytes": 100_000, "mail_s": 5.0, **more}
    people, shelf, log, metrics = People(), Shelf(), Log(), Metrics(process=False)
    config = Im(**values)
    intake = MailIntake(config, people, shelf, log, metrics, lambda: NOW_MS)  # type: ignore[arg-type]
    door = MailDoor(config, intake, metrics)
    await door.start()
    try:
        yield Door(door, people, shelf, log, metrics)
    finally:
        await door.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with opened() as made:
        yield made


async def raw(door: Door, *lines: bytes, quiet_s: float = 0.3) -> bytes:
    """All that it answers to what is written at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.door.port)
    got = b""
    try:
        for line in lines:
            writer.write(line)
        await writer.drain()
        while True:
            async with asyncio.timeout(quiet_s):
                piece = await reader.read(65_536)
            if not piece:
                return got + b"<closed>"
            got += piece
    except TimeoutError:
        return got
    except ConnectionError:
        return got + b"<closed>"
    finally:
        writer.close()


BEGIN = b"EHLO x\r\nMAIL FROM:<zoe@else.example>\r\nRCPT TO:<alice@own.example>\r\nDATA\r\n"


async def test_a_mail_for_a_mailbox_here_is_in_the_log_with_its_source(door: Door) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Zoë <Zoe@Else.example>", "alice@own.example", "Grüße"
    mail["Message-ID"], mail["In-Reply-To"] = "<2@else.example>", "<1@own.example>"
    mail.set_content("grüß dich\n.\n..dots\n")
    mail.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="a.png")
    mail.add_attachment(b"MZ", maintype="application", subtype="x-msdownload", filename="a.exe")
    assert await door.talk(lambda client: client.send_message(mail)) == {}
    ((user, item),) = door.log.items
    envelope = item.envelope
    assert user == ALICE
    assert envelope is not None
    assert (envelope.network, envelope.kind, envelope.subject) == ("mail", Kind.MAIL, "Grüße")
    assert (envelope.sender.remote_id, envelope.sender.display) == ("zoe@else.example", "Zoë")
    assert (envelope.remote_id, envelope.reply_to) == ("2@else.example", "1@own.example")
    assert envelope.text == "grüß dich\n.\n..dots\n[1 files or parts of this mail were not taken]"
    assert [(media.ref, media.mime, media.name) for media in envelope.media] == [("m1", "image/png", "a.png")]
    assert door.shelf.files[0][2] == b"\x89PNG"
    assert door.count(Metric.IM_MAILS, "taken") == 1
    assert door.count(Metric.IM_MAIL_FILES, "refused") == 1


@pytest.mark.parametrize(
    ("address", "code", "label"),
    [
        ("nobody@own.example", 550, "unknown"),
        ("alice@other.example", 550, "relay"),
        ("alice", 550, "relay"),
        ("alice%other.example@own.example", 550, "unknown"),
        ("@own.example:zoe@else.example", 550, "relay"),
        ('"alice x"@own.example', 550, "unknown"),
    ],
)
async def test_nothing_is_taken_for_others(door: Door, address: str, code: int, label: str) -> None:
    def work(client: smtplib.SMTP) -> int:
        client.ehlo()
        client.mail("zoe@else.example")
        return client.docmd(f"RCPT TO:<{address}>")[0]

    got = await door.talk(work)
    assert got in (code, 553)
    assert got == 553 or door.count(Metric.IM_MAILS, label) == 1
    assert door.log.items == []


@pytest.mark.parametrize("address", ["ALICE@OWN.EXAMPLE", "alice+shop@own.example", '"alice"@own.example'])
async def test_a_mailbox_has_more_than_one_writing(door: Door, address: str) -> None:
    await door.send(MAIL, address)
    assert door.texts == ["hello"]


async def test_a_second_try_is_not_there_twice(door: Door) -> None:
    await door.send(MAIL)
    await door.send(MAIL)
    await door.send(b"Received: by another\r\n" + MAIL)
    without_id = b"From: z@else.example\r\n\r\nno id\r\n"
    await door.send(without_id)
    await door.send(b"Received: x\r\n" + without_id)
    assert door.texts == ["hello", "no id"]


@pytest.mark.parametrize("trouble", [StoreUnavailable(), QueueFull(), RuntimeError("secret")])
async def test_it_says_come_back_where_it_could_not_be_kept(door: Door, trouble: Exception) -> None:
    door.log.trouble = trouble
    with pytest.raises(smtplib.SMTPDataError) as raised:
        await door.send(MAIL)
    assert raised.value.smtp_code == 451
    assert b"secret" not in raised.value.smtp_error  # type: ignore[operator]


async def test_it_says_come_back_where_the_store_can_not_tell_whose_it_is(door: Door) -> None:
    door.people.trouble = StoreUnavailable()
    with pytest.raises(smtplib.SMTPRecipientsRefused) as raised:
        await door.send(MAIL)
    assert raised.value.recipients["alice@own.example"][0] == 451


async def test_yes_is_said_only_when_it_is_durable(door: Door) -> None:
    door.log.is_slow = asyncio.Event()
    sending = asyncio.create_task(door.send(MAIL))
    done, _ = await asyncio.wait([sending], timeout=0.3)
    assert not done
    door.log.is_slow.set()
    assert await sending == {}


async def test_what_is_too_large_is_refused_before_and_behind_its_bytes(door: Door) -> None:
    with pytest.raises(smtplib.SMTPSenderRefused) as before:
        await door.send(MAIL + b"x" * 200_000)
    assert before.value.smtp_code == 552
    got = await raw(door, BEGIN, b"x" * 150_000 + b"\r\n.\r\nQUIT\r\n")
    assert b"552 5.3.4" in got
    assert b"221" in got
    assert door.log.items == []


async def test_what_never_ends_is_cut_and_not_kept(door: Door) -> None:
    for piece in (b"x" * 1_000_000, b"x\r\n" * 300_000):
        got = await raw(door, BEGIN, piece, quiet_s=2)
        assert got.endswith(b"<closed>")
    assert door.count(Metric.IM_MAIL_CUT, "endless") == 2


async def test_who_is_slow_is_cut() -> None:
    async with opened(mail_s=0.3) as door:
        got = await raw(door, BEGIN, b"half", quiet_s=2)
        assert got.endswith(b"<closed>")
        assert (await raw(door, b"EHLO x\r\n", quiet_s=2)).endswith(b"<closed>")


async def test_a_long_line_is_a_line(door: Door) -> None:
    await raw(door, BEGIN, b"\r\n" + b"y" * 90_000 + b"\r\n.\r\n", quiet_s=1)
    assert door.texts == ["y" * 32_768]


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\n\n.\n\n"])
async def test_only_one_thing_ends_a_mail(door: Door, end: bytes) -> None:
    smuggled = end + b"MAIL FROM:<admin@own.example>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\n\r\nfake\r\n.\r\n"
    await raw(door, BEGIN, b"Subject: x\r\n\r\nreal" + smuggled, quiet_s=0.5)
    assert all(user == ALICE for user, _ in door.log.items)
    assert len(door.log.items) == 1


async def test_a_mail_that_goes_in_a_circle_is_refused(door: Door) -> None:
    with pytest.raises(smtplib.SMTPDataError) as raised:
        await door.send(b"Received: x\r\n" * 51 + MAIL)
    assert raised.value.smtp_code == 554
    await door.send(b"Received: x\r\n" * 50 + MAIL)
    assert door.texts == ["hello"]


async def test_connections_are_bounded() -> None:
    async with opened(mail_connections=2) as door:
        first = [await asyncio.open_connection("127.0.0.1", door.door.port) for _ in range(2)]
        for reader, _ in first:
            assert (await reader.readline()).startswith(b"220")
        assert (await raw(door)).startswith(b"421")
        for _, writer in first:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await raw(door)).startswith(b"220")
        assert door.count(Metric.IM_MAIL_CUT, "too_many") == 1


def test_on_the_loop_of_the_gateway_too_many_are_sent_away_and_a_close_cuts_who_is_there() -> None:
    told: list[str] = []

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        async with opened(mail_connections=1, mail_s=60.0) as door:
            reader, writer = await asyncio.open_connection("127.0.0.1", door.door.port)
            assert (await reader.readline()).startswith(b"220")
            got = await raw(door)
            assert got.startswith(b"421")
            assert got.endswith(b"<closed>")
            async with asyncio.timeout(2):
                await door.door.close()
            writer.close()

    uvloop.run(scene())
    assert told == []


async def test_mails_at_once_are_bounded() -> None:
    async with opened(mail_at_once=1) as door:
        _, writer = await asyncio.open_connection("127.0.0.1", door.door.port)
        writer.write(BEGIN)
        await asyncio.sleep(0.2)
        assert b"451 4.3.2" in await raw(door, BEGIN)
        writer.close()
        await asyncio.sleep(0.1)
        await door.send(MAIL)
        assert door.count(Metric.IM_MAILS, "busy") == 1


async def test_nobody_keeps_others_out_by_being_there_or_by_sending_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_listener, "_PATIENCE_S", 0.2)
    async with opened(mail_connections=3, mail_at_once=2) as door:
        there = [await asyncio.open_connection("127.0.0.1", door.door.port) for _ in range(2)]
        there[0][1].write(BEGIN + b"a byte now and then")
        there[1][1].write(BEGIN + b"another")
        silent = await asyncio.open_connection("127.0.0.1", door.door.port)
        await asyncio.sleep(0.4)
        await door.send(MAIL)
        await door.send(MAIL.replace(b"<1@", b"<2@"))
        assert len(door.texts) == 2
        assert (await asyncio.wait_for(silent[0].read(), 2)).startswith(b"220")
        assert door.count(Metric.IM_MAIL_CUT, "idle") == door.count(Metric.IM_MAIL_CUT, "slow") == 1
        for _, writer in (*there, silent):
            writer.close()


async def test_users_can_not_be_read_off_quickly(door: Door) -> None:
    asked = b"".join(b"RCPT TO:<n%d@own.example>\r\n" % number for number in range(50))
    got = await raw(door, b"EHLO x\r\nMAIL FROM:<z@else.example>\r\n", asked)
    assert got.count(b"550 5.1.1") == 9
    assert b"421" in got
    assert got.endswith(b"<closed>")


async def test_a_flood_of_commands_or_lines_lets_others_have_their_turn(door: Door) -> None:
    longest, stop = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not stop.is_set():
            begun = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - begun)

    watching = asyncio.create_task(watch())
    await raw(door, b"EHLO x\r\n" + b"NOOP\r\n" * 11_000, quiet_s=1)
    await raw(door, BEGIN, b"\r\n" * 40_000 + b"\r\n.\r\n", quiet_s=1)
    stop.set()
    await watching
    assert longest < 0.1
    assert len(door.log.items) == 1


async def test_recipients_of_one_mail_are_bounded(door: Door) -> None:
    asked = b"RCPT TO:<alice@own.example>\r\n" * 101
    got = await raw(door, b"EHLO x\r\nMAIL FROM:<>\r\n", asked)
    assert got.count(b"250 2.1.5") == 100
    assert got.count(b"452 4.5.3") == 1


async def test_no_commands_but_those_that_bring_a_mail(door: Door) -> None:
    got = await raw(
        door, b"EHLO x\r\n", *(name + b" x\r\n" for name in (b"AUTH PLAIN", b"VRFY alice", b"EXPN", b"STARTTLS"))
    )
    assert b"AUTH" not in got.replace(b'"AUTH"', b"")
    assert b"SIZE 100000" in got
    assert got.count(b"500 ") == 4


async def test_lmtp_answers_for_each_recipient() -> None:
    async with opened(mail_lmtp=True) as door:
        door.log.trouble, door.log.trouble_of = StoreUnavailable(), BOB
        begin = b"LHLO x\r\nMAIL FROM:<>\r\n"
        begin += b"".join(b"RCPT TO:<%s@own.example>\r\n" % name for name in (b"bob", b"no", b"alice"))
        got = await raw(door, b"EHLO x\r\n", begin + b"DATA\r\n" + MAIL + b".\r\nQUIT\r\n")
        assert got.split(b"End data")[1].split(b"\r\n")[1:] == [
            b"451 4.3.0 come back later",
            b"250 2.0.0 OK",
            b"221 Bye",
            b"<closed>",
        ]
        assert got.startswith(b"220")
        assert b'500 Error: command "EHLO" not recognized' in got
        large = await raw(door, begin + b"DATA\r\n" + b"x" * 150_000 + b"\r\n.\r\n")
        assert large.count(b"552 5.3.4") == 2


async def test_in_smtp_all_is_sent_again_and_nobody_gets_it_twice(door: Door) -> None:
    door.log.trouble, door.log.trouble_of = StoreUnavailable(), BOB
    to = ["alice@own.example", "bob@own.example"]
    with pytest.raises(smtplib.SMTPDataError):
        await door.talk(lambda client: client.sendmail("z@else.example", to, MAIL))
    door.log.trouble = None
    await door.talk(lambda client: client.sendmail("z@else.example", to, MAIL))
    assert [user for user, _ in door.log.items] == [ALICE, BOB]


async def test_a_close_lets_what_is_being_kept_be_kept() -> None:
    async with opened() as door:
        door.log.is_slow = asyncio.Event()
        sending = asyncio.create_task(raw(door, BEGIN, MAIL + b".\r\n", quiet_s=2))
        await asyncio.sleep(0.3)
        closing = asyncio.create_task(door.door.close())
        await asyncio.sleep(0.1)
        assert not closing.done()
        door.log.is_slow.set()
        await closing
        assert (await sending).endswith(b"<closed>")
        assert door.texts == ["hello"]


async def test_a_door_needs_a_domain() -> None:
    with pytest.raises(ConfigError, match="domain"):
        async with opened(mail_domain=""):
            pass


async def test_nothing_of_a_mail_is_logged(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await door.send(MAIL)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        await door.send(MAIL, "nobody@own.example")
    words = ("zoe", "alice", "nobody", "hello", "127.0.0.1")
    assert not any(word in record.getMessage() for record in caplog.records for word in words)


@with_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(st.binary(max_size=80), st.sampled_from([BEGIN, b"\r\n.\r\n", b"RSET\r\n", b"MAIL FROM:<", b"\r\n"]))
    )
)
def test_any_bytes_do_no_harm(pieces: list[bytes]) -> None:
    async def work() -> None:
        async with opened(mail_s=0.5) as door:
            await raw(door, *pieces, quiet_s=0.02)
            await door.send(MAIL)
            assert "hello" in door.texts

    asyncio.run(work())
