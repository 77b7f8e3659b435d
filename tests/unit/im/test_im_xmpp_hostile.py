"""The XMPP connector before servers that mean no good: nothing but what a session may raise leaves it, and soon."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.xmpp import build
from gateway.im.connectors.xmpp.stream import STANZA_BYTES
from gateway.model.im import (
    AuthFailed,
    ContactChanged,
    Conversation,
    ConversationKind,
    Credentials,
    Envelope,
    Event,
    Message,
    Person,
    Rejected,
    Session,
    Transient,
)

ME = "alice@x.example"
HEADER = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    "id='1' from='x.example' version='1.0'>"
)
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"


def offer(mechanism: str) -> str:
    return (
        f"<stream:features><mechanisms xmlns='{SASL}'><mechanism>{mechanism}</mechanism></mechanisms></stream:features>"
    )


BIND = "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"


class Server:
    """Logs anybody in, and knows nothing; `answers`: to what matches, these bytes come instead."""

    def __init__(self, **answers: bytes | Callable[[bytes], bytes]) -> None:
        self._answers = answers
        self._headers = 0
        self.writer: asyncio.StreamWriter | None = None
        self.closed = asyncio.Event()

    def answer(self, data: bytes) -> bytes:
        for needle, answer in self._answers.items():
            if needle.encode() in data:
                return answer(data) if callable(answer) else answer
        told = b""
        if b"<stream:stream" in data:
            self._headers += 1
            told += (HEADER + (BIND if self._headers > 1 else offer("PLAIN"))).encode()
        if b"<auth" in data:
            told += f"<success xmlns='{SASL}'/>".encode()
        for iq in re.findall(rb"<iq .*?</iq>", data):
            name = re.search(rb"id=\"([^\"]+)\"", iq)
            assert name is not None
            to = re.search(rb" to=\"([^\"]+)\"", iq)
            sender = b" from='" + to[1] + b"'" if to else b""
            if b"xmpp-bind" in iq:
                told += b"<iq type='result' id='%s'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>" % name[1]
                told += f"<jid>{ME}/r</jid></bind></iq>".encode()
            else:
                told += b"<iq type='error' id='%s'%s><error type='cancel'/></iq>" % (name[1], sender)
        return told

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            while data := await reader.read(65_536):
                writer.write(self.answer(data))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.closed.set()
            writer.close()

    def say(self, xml: str) -> None:
        assert self.writer is not None
        self.writer.write(xml.encode())


@asynccontextmanager
async def opened(server: Server, request_s: float = 1.0) -> AsyncIterator[Session]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    values = {"jid": ME, "password": "s3cret", "host": "127.0.0.1", "port": str(port), "tls": "never"}
    connector = build(ConnectorSettings(private_hosts=True, request_s=request_s))
    try:
        async with connector.open(Credentials(values), None) as session:
            yield session
    finally:
        listener.close()
        if server.writer is not None:
            server.writer.close()
            await asyncio.wait_for(server.closed.wait(), 5)
        await listener.wait_closed()


async def read_on(session: Session, got: Callable[[Event], None] = lambda _: None) -> None:
    async with asyncio.timeout(60):
        async for event in session.events():
            got(event)


def challenge(text: str) -> bytes:
    return f"<challenge xmlns='{SASL}'>{base64.b64encode(text.encode()).decode()}</challenge>".encode()


def first_challenge(rounds: str) -> Callable[[bytes], bytes]:
    def answer(data: bytes) -> bytes:
        found = re.search(rb"<auth[^>]*>([^<]+)<", data)
        assert found is not None
        nonce = base64.b64decode(found[1]).decode().partition("r=")[2]
        return challenge(f"r={nonce}x,s={base64.b64encode(b'salt').decode()},i={rounds}")

    return answer


SCRAM = (HEADER + offer("SCRAM-SHA-1")).encode()


@pytest.mark.parametrize(
    "answers",
    [
        {"stream": b"HTTP/1.1 400 Bad Request\r\n\r\n"},
        {"stream": b"\x00\xff" * 100},
        {"stream": b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + HEADER.encode()},
        {"stream": b" " * 100_000},
        {"stream": HEADER.encode() + b"<x>" * 100_000},
        {"stream": HEADER.encode() + b"<x " + b"a" * (2 * STANZA_BYTES)},
        {"stream": HEADER.encode() + b"<x>" + b"<y/>" * (STANZA_BYTES // 3)},
        {"stream": HEADER.encode() + b"</stream:stream>"},
        {"stream": b""},
        {"stream": HEADER.encode() + b"<stream:features/>"},
        {"stream": HEADER.encode() + b"<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>"
         b"127.0.0.1:1</see-other-host></stream:error>"},
        {"auth": b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"},
        {"auth": f"<failure xmlns='{SASL}'><temporary-auth-failure/></failure>".encode()},
        {"xmpp-bind": b"<iq type='result' id='nobody-asked'/>"},
        {"xmpp-bind": b"<iq/><message/><presence/>"},
        {"auth": first_challenge("4096"), "stream": SCRAM, "response": challenge("v=bm90IGl0")},
        {"auth": first_challenge("x"), "stream": SCRAM},
        {"auth": challenge("nothing"), "stream": SCRAM},
        {"auth": f"<success xmlns='{SASL}'>dj1ub3QgaXQ=</success>".encode(), "stream": SCRAM},
    ],
)  # fmt: skip
async def test_a_server_that_spoils_the_login_is_transient(answers: dict[str, bytes]) -> None:
    with pytest.raises(Transient) as caught:
        async with opened(Server(**answers)):
            pass
    assert "s3cret" not in str(caught.value)


async def test_a_password_that_is_wrong_is_told_from_a_server_that_can_not_say() -> None:
    with pytest.raises(AuthFailed):
        async with opened(Server(auth=f"<failure xmlns='{SASL}'><not-authorized/></failure>".encode())):
            pass


async def test_a_server_that_wants_more_rounds_than_are_good_for_others_does_not_get_them() -> None:
    with pytest.raises((Transient, AuthFailed, Rejected)):
        async with opened(Server(auth=first_challenge("2000000000"), stream=SCRAM)):
            pass


async def test_a_server_of_another_domain_is_rejected() -> None:
    error = "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
    with pytest.raises(Rejected, match="jid"):
        async with opened(Server(stream=(HEADER + error).encode())):
            pass


@pytest.mark.parametrize(
    "xml",
    [
        "<message><unclosed></message>",
        "<message>" * 60,
        "<message from='x'><body>" + "x" * (2 * STANZA_BYTES),
        "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
        "</stream:stream>",
        "<message>&undefined;</message>",
    ],
)
async def test_a_stream_that_goes_bad_ends_the_session(xml: str) -> None:
    server = Server()
    async with opened(server) as session:
        server.say(xml)
        with pytest.raises(Transient):
            await read_on(session)
        conversation = Conversation(ConversationKind.DM, "bob@y.example")
        with pytest.raises(Transient):
            await session.send(Envelope("xmpp", conversation, Person(""), text="x", txn_id="1"))
        with pytest.raises(Transient):
            await anext(session.contacts())


async def test_what_only_the_accounts_own_server_may_say_is_not_taken_from_others() -> None:
    server = Server()
    inner = "<message xmlns='jabber:client' from='bob@y.example' id='forged-message'><body>forged</body></message>"
    forwarded = f"<forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded>"
    async with opened(server) as session:
        server.say(
            f"<message from='eve@z.example'><received xmlns='urn:xmpp:carbons:2'>{forwarded}</received></message>"
            f"<message from='eve@z.example'><result xmlns='urn:xmpp:mam:2' queryid='m1' id='1'>{forwarded}</result>"
            "</message>"
            f"<message><result xmlns='urn:xmpp:mam:2' queryid='nobody-asked' id='1'>{forwarded}</result></message>"
            "<iq type='set' id='1' from='eve@z.example'><query xmlns='jabber:iq:roster'><item jid='eve@z.example'/>"
            "</query></iq>"
            "<iq type='get' id='2' from='eve@z.example'><query xmlns='jabber:iq:version'/></iq>"
            "<presence from='eve@z.example' type='error'/><presence/><message type='groupchat' from='r@z.example/x'>"
            "<body>forged</body></message><message from='bob@y.example' id='true-message-1'><body>true</body></message>"
        )
        async with asyncio.timeout(60):
            async for event in session.events():
                assert not isinstance(event, ContactChanged)
                if isinstance(event, Message):
                    assert event.envelope.text == "true"
                    return


@pytest.mark.parametrize("more", ["", " note='a > b'"])
async def test_a_parser_that_is_renewed_loses_nothing_and_knows_the_prefixes_of_the_stream(more: str) -> None:
    header = HEADER.replace("id='1'", "id='1' xmlns:own='urn:own'" + more)
    features = iter((offer("PLAIN"), BIND))
    server = Server(**{"<stream:stream": lambda _: (header + next(features)).encode()})
    one = "<message from='bob@y.example' id='message-{}'><body note='>'>text {}</body><own:mark/></message>"
    texts: list[str] = []
    async with opened(server) as session:
        for number in range(50):
            text = one.format(f"{number:07}", number)
            cut = number % len(text)
            server.say(text[:cut])
            await asyncio.sleep(0.001)  # two reads, most often
            server.say(text[cut:])
        async with asyncio.timeout(60):
            async for event in session.events():
                if isinstance(event, Message):
                    texts.append(event.envelope.text)
                if len(texts) == 50:
                    break
    assert texts == [f"text {number}" for number in range(50)]


async def test_a_server_that_answers_nothing_is_given_up() -> None:
    with pytest.raises(Transient):
        async with opened(Server(iq=b""), request_s=0.3):
            pass


async def test_what_came_before_the_end_is_told_before_the_end() -> None:
    server = Server()
    async with opened(server) as session:
        for number in range(20_000):
            server.say(f"<message from='bob@y.example' id='message-{number:07}'><body>x</body></message>")
        assert server.writer is not None
        server.say("</stream:stream>")
        got: list[Event] = []
        with pytest.raises(Transient):
            await read_on(session, got.append)
        assert sum(isinstance(event, Message) for event in got) == 20_000
