"""The mail connector before servers that mean harm: silent, endless, lying, or talking nonsense; nothing leaves it but
the words of a connector, in time, and no thread stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.mail import build, link
from gateway.model.im import (
    AuthFailed,
    Connector,
    Conversation,
    ConversationKind,
    Credentials,
    CursorForgotten,
    Envelope,
    MarkRead,
    Media,
    Message,
    Moved,
    Person,
    ReadUpTo,
    Rejected,
    Session,
    Transient,
)

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Talk = Callable[[Reader, Writer], Awaitable[None]]
LIMIT_S = 0.5
NOTHING = b"* SEARCH\r\nTAG OK done\r\n"


@asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.wait_closed()


def connector(**more: object) -> Connector:
    values: dict[str, object] = {"private_hosts": True, "request_s": LIMIT_S, "media_bytes": 100_000, **more}
    return build(ConnectorSettings(**values))  # type: ignore[arg-type]


def form(port: int, **more: str) -> Credentials:
    values = {"address": "me@x.example", "password": "pw", "imap_host": "127.0.0.1", "smtp_host": "127.0.0.1"}
    return Credentials({**values, "imap_port": str(port), "smtp_port": str(port), "tls": "never", **more})


class Imap:
    """A server that answers each command with what the test says, else as a mailbox with one mail would."""

    def __init__(self, **answers: bytes | None) -> None:
        #: by word of the command; None: it hangs up
        self.answers = answers
        self.seen: list[bytes] = []

    def asked(self, word: bytes) -> int:
        return sum(word in line for line in self.seen)

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        writer.write(b"* OK [CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN] hello\r\n")
        while line := await reader.readline():
            self.seen.append(line)
            tag, _, rest = line.strip().partition(b" ")
            word = rest.upper().split(b" ")[0 if not rest.upper().startswith(b"UID ") else 1].decode()
            if word in self.answers:
                answer = self.answers[word]
                if answer is None:
                    return
                writer.write(answer.replace(b"TAG", tag))
                if word == "IDLE" and answer.startswith(b"+"):
                    await reader.readline()
                    writer.write(tag + b" OK done\r\n")
            elif word == "AUTHENTICATE":
                writer.write(b"+ \r\n")
                await reader.readline()
                writer.write(tag + b" OK in\r\n")
            elif word == "CAPABILITY":
                writer.write(b"* CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN\r\n" + tag + b" OK done\r\n")
            elif word == "SELECT":
                writer.write(
                    b"* 1 EXISTS\r\n* OK [UIDVALIDITY 7] ok\r\n* OK [UIDNEXT 9] ok\r\n" + tag + b" OK done\r\n"
                )
            elif word == "SEARCH":
                writer.write(b"* SEARCH 8\r\n" + tag + b" OK done\r\n")
            elif word == "IDLE":
                writer.write(b"+ idling\r\n")
                await reader.readline()
                writer.write(tag + b" OK done\r\n")
            else:
                writer.write(tag + b" OK done\r\n")
            await writer.drain()


@asynccontextmanager
async def session(cursor: bytes | None = b"7.8", **answers: bytes | None) -> AsyncIterator[Session]:
    async with server(Imap(**answers)) as port, connector().open(form(port), cursor) as opened:
        yield opened


async def fails(talk: Talk, expected: type[Exception], **more: str) -> None:
    async with asyncio.timeout(5), server(talk) as port:
        with pytest.raises(expected) as raised:
            async with connector().open(form(port, **more), None):
                pass
        assert "pw" not in str(raised.value)
        assert "me@" not in str(raised.value)


async def silent(_: Reader, writer: Writer) -> None:
    await asyncio.sleep(60)


async def dripping(_: Reader, writer: Writer) -> None:
    while True:
        writer.write(b"*")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless_line(_: Reader, writer: Writer) -> None:
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def endless_answers(_: Reader, writer: Writer) -> None:
    writer.write(b"* OK hello\r\n")
    while True:
        writer.write(b"* 1 EXISTS\r\n" * 5_000)
        await writer.drain()


async def huge_literal(_: Reader, writer: Writer) -> None:
    writer.write(b"* OK {99999999999}\r\n")
    await asyncio.sleep(60)


async def hangs_up(_: Reader, writer: Writer) -> None:
    return


async def other_protocol(_: Reader, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await asyncio.sleep(60)


async def bye(_: Reader, writer: Writer) -> None:
    writer.write(b"* BYE too busy, me@x.example\r\n")


@pytest.mark.parametrize(
    "talk", [silent, dripping, endless_line, endless_answers, huge_literal, hangs_up, other_protocol, bye]
)
async def test_a_server_that_speaks_no_imap_is_transient(talk: Talk) -> None:
    await fails(talk, Transient)


@pytest.mark.parametrize("tls", ["tls", "starttls"])
@pytest.mark.parametrize("talk", [silent, hangs_up, other_protocol, endless_answers])
async def test_and_so_it_is_where_tls_is_asked_for(talk: Talk, tls: str) -> None:
    await fails(talk, Transient, tls=tls)


async def test_no_password_is_said_where_starttls_is_not_offered() -> None:
    imap = Imap(STARTTLS=b"TAG BAD no\r\n")
    await fails(imap, Transient, tls="starttls")
    assert not any(b"AUTHENTICATE" in line or b"LOGIN" in line.upper() for line in imap.seen)


async def test_what_comes_in_the_clear_behind_starttls_is_not_taken() -> None:
    await fails(Imap(STARTTLS=b"TAG OK go\r\n* CAPABILITY IMAP4rev1 EVIL\r\n"), Transient, tls="starttls")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"TAG NO [AUTHENTICATIONFAILED] no me@x.example pw\r\n", AuthFailed),
        (b"TAG NO whatever\r\n", AuthFailed),
        (b"TAG NO [UNAVAILABLE] later\r\n", Transient),
        (b"TAG NO [INUSE] later\r\n", Transient),
        (b"TAG NO [LIMIT] too many\r\n", Transient),
        (b"TAG NO [PRIVACYREQUIRED] tls\r\n", Rejected),
        (None, Transient),
        (b"nonsense\r\n", Transient),
    ],
)
async def test_answers_to_a_login(answer: bytes | None, expected: type[Exception]) -> None:
    await fails(Imap(AUTHENTICATE=answer), expected)


async def test_a_server_that_forbids_plain_passwords_is_rejected() -> None:
    await fails(Imap(CAPABILITY=b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nTAG OK done\r\n"), Rejected)


async def test_a_mailbox_made_anew_is_forgotten() -> None:
    with pytest.raises(CursorForgotten):
        async with session(b"6.8"):
            pass


@pytest.mark.parametrize(
    "answer", [b"TAG NO no inbox\r\n", b"TAG OK done\r\n", None, b"* OK [UIDVALIDITY x] y\r\nTAG OK done\r\n"]
)
async def test_no_inbox_is_transient(answer: bytes | None) -> None:
    with pytest.raises(Transient):
        async with session(SELECT=answer):
            pass


@pytest.mark.parametrize(
    "answer",
    [
        b"* 1 FETCH (UID 8 BODYSTRUCTURE (",
        b"* 1 FETCH (UID 8 BODYSTRUCTURE NIL BODY[HEADER]<0> NIL)\r\nTAG OK done\r\n",
        b"* 1 FETCH (UID 8 BODYSTRUCTURE " + b"(" * 5_000 + b")" * 5_000 + b")\r\nTAG OK done\r\n",
        b"* 1 FETCH (UID 8 FLAGS)\r\nTAG OK done\r\n",
        b"* 1 FETCH UID\r\nTAG OK done\r\n",
        b'* 1 FETCH (UID 8 INTERNALDATE "never" BODY[HEADER]<0> {3}\r\nx\r\n)\r\nTAG OK\r\n',
        b"* 1 FETCH (UID 8 BODY[] {99999999}\r\nx",
        b"* 1 FETCH (UID 99999999999999999999 X Y)\r\nTAG OK done\r\n",
        b"TAG NO [EXPUNGEISSUED] gone\r\n",
        b"TAG BAD what\r\n",
        b"* 8 FETCH (UID 8 \xff \xfe)\r\nTAG OK done\r\n",
        b"\r\n\r\n",
    ],
)
async def test_a_mail_that_can_not_be_read_is_said_and_the_next_one_is_not_held_up(answer: bytes) -> None:
    async with asyncio.timeout(8):
        try:
            async with session(FETCH=answer) as opened:
                event = await _next(opened)
        except Transient:
            return
    assert event.cursor == b"7.9"  # type: ignore[union-attr]
    if isinstance(event, Message):
        assert event.envelope.remote_id == "7.8@imap.invalid"
        assert event.envelope.text


async def test_random_answers_give_no_other_exception() -> None:
    chance = random.Random(7)
    words = rb'* 1 FETCH ( ) UID 8 BODY[HEADER]<0> NIL " BODYSTRUCTURE + SEARCH EXISTS \Seen FLAGS BYE'.split()
    words += [b"{3}\r\n", b"\r\n", b"\xff", b"TAG OK done\r\n", b"TAG NO no\r\n"]
    for _ in range(25):
        garbage = b" ".join(chance.choices(words, k=chance.randrange(1, 30))) + b"\r\nTAG OK done\r\n"
        word = chance.choice(["FETCH", "SEARCH", "SELECT", "IDLE"])
        try:
            async with asyncio.timeout(6), session(**{word: garbage}) as opened:
                events = opened.events().__aiter__()
                async with asyncio.timeout(0.05):
                    while True:
                        await anext(events)
        except (Transient, TimeoutError):
            continue


async def test_a_file_that_is_larger_than_said_is_refused() -> None:
    async with session(
        FETCH=b"* 1 FETCH (UID 8 BODY[2]<0> {262144}\r\n" + b"A" * 262_144 + b")\r\nTAG OK done\r\n"
    ) as opened:
        with pytest.raises(Rejected, match="larger"):
            async for _ in opened.fetch(Media("7.8/2/")):
                pass
        for ref in ("", "6.8/2/", "7.8/../2/", "7.8/2]/base64"):
            with pytest.raises(Rejected):
                await anext(opened.fetch(Media(ref)).__aiter__())


@pytest.mark.parametrize("remote_id", ["", 'x> (OR "', "x\r\nA LOGOUT", "6.8@imap.invalid", "ü"])
async def test_ids_that_are_none_are_rejected_and_never_said(remote_id: str) -> None:
    imap = Imap(SEARCH=b"* SEARCH\r\nTAG OK done\r\n")
    async with server(imap) as port, connector().open(form(port), None) as opened:
        with pytest.raises(Rejected):
            await opened.act(MarkRead(Conversation(ConversationKind.DM, "b@x.example"), remote_id))
    assert not any(b"LOGOUT" in line for line in imap.seen)


async def test_accounts_of_a_hung_server_do_not_hold_up_others() -> None:
    slow = connector(threads=2, request_s=1.0)
    async with server(silent) as hung, server(Imap()) as good:
        stuck = [asyncio.create_task(_open(slow, form(hung))) for _ in range(6)]
        await asyncio.sleep(0.1)
        begun = asyncio.get_running_loop().time()
        for _ in range(5):  # a try that finds no thread is Transient, and one soon does
            try:
                await _open(slow, form(good))
                break
            except Transient:
                continue
        assert asyncio.get_running_loop().time() - begun < 4.5
        assert all(isinstance(done, Transient) for done in await asyncio.gather(*stuck, return_exceptions=True))


class SlowImap(Imap):
    """Takes its time for each search."""

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        write = writer.write

        def write_late(data: bytes) -> None:
            if data.startswith(b"* SEARCH"):
                asyncio.get_running_loop().call_later(0.8, write, data)
            else:
                write(data)

        writer.write = write_late  # type: ignore[method-assign]
        await super().__call__(reader, writer)


async def test_servers_that_are_slow_on_purpose_leave_others_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_HEAVY_S", 0.3)
    shared = connector(threads=4, request_s=5.0)
    async with server(SlowImap(SEARCH=NOTHING, IDLE=b"TAG BAD no\r\n")) as slow, server(Imap()) as good:
        tasks = [asyncio.create_task(_search_for_ever(shared, form(slow))) for _ in range(12)]
        await asyncio.sleep(3)  # each was slow once
        # one of them in its way would cost request_s
        async with asyncio.timeout(4):
            for _ in range(5):
                await _open(shared, form(good))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _search_for_ever(opened: Connector, credentials: Credentials) -> None:
    async with opened.open(credentials, None) as slow:
        while True:
            with contextlib.suppress(Rejected):
                await slow.act(MarkRead(Conversation(ConversationKind.DM, "b@x.example"), "x@y"))


async def _open(opened: Connector, credentials: Credentials) -> None:
    async with opened.open(credentials, None):
        pass


async def test_waiting_for_news_holds_no_thread_and_a_request_calls_it_off() -> None:
    few = connector(threads=1)
    async with (
        server(Imap(SEARCH=NOTHING)) as port,
        few.open(form(port), None) as one,
        few.open(form(port), None) as two,
    ):
        waits = [asyncio.create_task(_next(each)) for each in (one, two)]
        await asyncio.sleep(0.2)
        for _ in range(3):
            with pytest.raises(Rejected, match="no such mail"):
                await one.act(MarkRead(Conversation(ConversationKind.DM, "b@x.example"), "x@y"))
        assert not any(wait.done() for wait in waits)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    assert sum(thread.name.startswith("im-mail") for thread in threading.enumerate()) < 40


async def _next(opened: Session) -> object:
    """Behind the word of where to go on, which comes at once."""
    events = opened.events().__aiter__()
    assert isinstance(await anext(events), Moved)
    return await anext(events)


async def test_waiting_begins_anew_before_a_server_hangs_up() -> None:
    imap = Imap(SEARCH=NOTHING)
    async with server(imap) as port, connector(idle_s=0.1).open(form(port), None) as opened:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        waiting = asyncio.create_task(_next(opened))
        async with asyncio.timeout(60):
            while imap.asked(b"IDLE") < 4:
                await asyncio.sleep(0.005)
        # no sooner than it has to, but for what is on its way
        assert imap.asked(b"IDLE") <= (loop.time() - begun) / 0.1 + 2
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_server_without_idle_is_asked_now_and_then() -> None:
    imap = Imap(SEARCH=NOTHING, CAPABILITY=b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nTAG OK done\r\n")
    async with server(imap) as port, connector(request_s=0.2).open(form(port), None) as opened:
        waiting = asyncio.create_task(_next(opened))
        async with asyncio.timeout(60):
            while imap.asked(b"NOOP") < 2:
                await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert imap.asked(b"IDLE") == 0


async def test_news_behind_the_answer_to_idle_is_not_overslept() -> None:
    """In one piece with it: no selector tells of what is read already."""
    done = b"+ idling\r\n* 1 FETCH (FLAGS (\\Seen))\r\n"
    row = b"* 1 FETCH (UID 8 BODY[HEADER.FIELDS (MESSAGE-ID FROM)] {32}\r\nFrom: b@x.y\r\nMessage-ID: <m@y>\r\n)\r\n"
    imap = Imap(SEARCH=NOTHING, IDLE=done, FETCH=row + b"TAG OK done\r\n")
    async with server(imap) as port, connector().open(form(port), None) as opened:
        event = await asyncio.wait_for(_next(opened), 3)
    assert isinstance(event, ReadUpTo)
    assert (event.conversation.remote_id, event.remote_id) == ("b@x.y", "m@y")


async def test_a_login_without_sasl_says_what_was_typed_and_no_more() -> None:
    imap = Imap(CAPABILITY=b"* CAPABILITY IMAP4rev1\r\nTAG OK done\r\n")
    async with server(imap) as port:
        await _open(connector(), form(port, user='a" x\\', password='p"w\\ (x'))
    (line,) = [line for line in imap.seen if b"LOGIN" in line]
    assert line.endswith(b'LOGIN "a\\" x\\\\" "p\\"w\\\\ (x"\r\n')


async def test_a_peer_that_is_no_address_is_no_command() -> None:
    imap = Imap(SEARCH=b"* SEARCH 8\r\nTAG OK done\r\n")
    async with server(imap) as port, connector().open(form(port), None) as opened:
        await opened.act(MarkRead(Conversation(ConversationKind.DM, 'x"\r\nA LOGOUT\r\n'), "m@y"))
    assert not any(b"LOGOUT" in line for line in imap.seen)
    assert any(b"STORE 8" in line for line in imap.seen)


async def test_a_login_that_is_cancelled_leaves_no_connection() -> None:
    async with server(silent) as port:
        for wait_s in (0.0, 0.01, 0.1):
            task = asyncio.create_task(_open(connector(), form(port)))
            await asyncio.sleep(wait_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_cancelled_request_leaves_nothing_half_said() -> None:
    async with session(SEARCH=b"") as opened:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await opened.act(MarkRead(Conversation(ConversationKind.DM, "b@x.example"), "x@y"))
        with pytest.raises(Transient):
            await opened.act(MarkRead(Conversation(ConversationKind.DM, "b@x.example"), "x@y"))


async def test_nothing_of_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with session() as opened:
        with pytest.raises(Rejected):
            await opened.act(MarkRead(Conversation(ConversationKind.DM, "secret@x.example"), ""))
        await anext(opened.events().__aiter__())
    assert not any(word in record.getMessage() for record in caplog.records for word in ("secret", "me@", "pw", "UID"))


async def test_what_fails_when_nobody_waits_any_more_is_not_logged() -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))

    async def give_up(port: int) -> None:
        opening = asyncio.create_task(_open(connector(request_s=5.0), form(port)))
        await asyncio.sleep(0.2)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)

    async with server(dripping) as port:
        await give_up(port)
        await asyncio.sleep(0.1)
    gc.collect()
    assert told == []


async def test_private_hosts_are_not_reached() -> None:
    public = build(ConnectorSettings(request_s=LIMIT_S))
    with pytest.raises(Rejected, match="private_hosts"):
        async with public.open(form(1), None):
            pass


async def test_an_smtp_server_that_speaks_none_is_transient() -> None:
    envelope = Envelope("mail", Conversation(ConversationKind.DM, "b@x.example"), Person("", is_self=True), text="x")
    for talk in (silent, hangs_up, dripping, endless_line, other_protocol):
        async with server(Imap()) as imap, server(talk) as smtp, asyncio.timeout(8):
            await _fails_to_send(form(imap, smtp_port=str(smtp)), envelope)


async def _fails_to_send(credentials: Credentials, envelope: Envelope) -> None:
    async with connector().open(credentials, None) as opened:
        with pytest.raises(Transient):
            await opened.send(envelope)
