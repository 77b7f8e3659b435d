"""What every connector promises, tested against its network's real server; a network says in `Caps` what it can not.

A network's test file subclasses `ConnectorContract` and gives the fixture `net`, a `Network`: a server of its own on
loopback, an account for us, and a peer who uses the network's own client library.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from gateway.model.im import (
    AuthFailed,
    Connector,
    Conversation,
    ConversationKind,
    Credentials,
    Envelope,
    Event,
    Geo,
    Kind,
    MarkRead,
    Media,
    MediaFile,
    Message,
    Person,
    ReadUpTo,
    Rejected,
    Session,
    Transient,
)

#: a picture of one pixel
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc00000030101"
    "00c9fe92ef0000000049454e44ae426082"
)
WAIT_S = 20.0


class Heard(Protocol):
    """What the peer's own client got."""

    text: str
    #: bytes of a file that came with it, or behind its link
    file: bytes
    #: as the peer's library has it, or parsed out of the text; None: no location
    geo: tuple[float, float] | None
    remote_id: str


class Peer(Protocol):
    """Somebody else on the network, with the network's own client library."""

    #: the conversation in which this peer and our account write to each other
    conversation: Conversation

    async def say(self, text: str) -> None: ...

    async def say_file(self, data: bytes, mime: str, name: str) -> None: ...

    async def say_place(self, latitude: float, longitude: float) -> None: ...

    async def hear(self) -> Heard:
        """The next message from our account."""
        ...

    async def read_all(self) -> None:
        """Tell the network that what our account sent was read."""
        ...

    async def hear_read(self) -> str:
        """The next read mark from our account: its remote id, or anything that names the message."""
        ...


class Network(Protocol):
    connector: Connector
    credentials: Credentials
    wrong: Credentials
    peer: Peer
    #: remote id that must be among our contacts; empty where the network has none
    contact: str

    async def stop_server(self) -> None: ...

    async def start_server(self) -> None: ...


class Listener:
    """Reads a session's events one by one."""

    def __init__(self, session: Session) -> None:
        self._events = session.events().__aiter__()
        self.cursor: bytes | None = None

    async def next(self) -> Event:
        event = await asyncio.wait_for(self._events.__anext__(), WAIT_S)
        self.cursor = getattr(event, "cursor", None) or self.cursor
        return event

    async def drain(self) -> None:
        """Read on until the session ends."""
        while True:
            await self.next()

    async def message(self) -> Envelope:
        """The next that somebody else said."""
        while True:
            event = await self.next()
            if isinstance(event, Message) and not event.envelope.sender.is_self:
                return event.envelope

    async def read(self) -> ReadUpTo:
        while True:
            event = await self.next()
            if isinstance(event, ReadUpTo) and not event.by.is_self:
                return event


def outgoing(net: Network, text: str, txn_id: str, **more: object) -> Envelope:
    return Envelope(
        network=net.connector.name,
        conversation=net.peer.conversation,
        sender=Person("", is_self=True),
        text=text,
        txn_id=txn_id,
        **more,  # type: ignore[arg-type]
    )


async def gather_bytes(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


class ConnectorContract:
    @asynccontextmanager
    async def open(self, net: Network, cursor: bytes | None = None) -> AsyncIterator[tuple[Session, Listener]]:
        opened: AbstractAsyncContextManager[Session] = net.connector.open(net.credentials, cursor)
        async with opened as session:
            yield session, Listener(session)

    async def test_it_logs_in_and_knows_who_it_is(self, net: Network) -> None:
        async with self.open(net) as (session, _):
            assert session.me.remote_id
            assert session.me.is_self

    async def test_wrong_credentials_are_auth_failed(self, net: Network) -> None:
        with pytest.raises(AuthFailed):
            async with net.connector.open(net.wrong, None):
                pass

    async def test_a_server_that_is_not_there_is_transient(self, net: Network) -> None:
        await net.stop_server()
        with pytest.raises(Transient):
            async with net.connector.open(net.credentials, None):
                pass
        await net.start_server()

    async def test_contacts(self, net: Network) -> None:
        async with self.open(net) as (session, _):
            if not net.connector.caps.contacts:
                with pytest.raises(Rejected):
                    await anext(session.contacts())
                return
            contacts = [contact.remote_id async for contact in session.contacts()]
        assert net.contact in contacts

    async def test_what_a_peer_says_arrives_with_its_source(self, net: Network) -> None:
        async with self.open(net) as (_, listener):
            await net.peer.say("grüß dich, 世界 👋")
            heard = await listener.message()
        assert heard.text == "grüß dich, 世界 👋"
        assert heard.network == net.connector.name
        assert heard.conversation == net.peer.conversation
        assert heard.remote_id
        assert heard.at_remote_ms > 0

    async def test_what_is_sent_arrives_at_the_peer(self, net: Network) -> None:
        async with self.open(net) as (session, _):
            remote_id = await session.send(outgoing(net, "ein Gruß zurück ✓", "t1"))
            heard = await asyncio.wait_for(net.peer.hear(), WAIT_S)
        assert remote_id
        assert "ein Gruß zurück ✓" in heard.text

    async def test_a_second_try_is_not_shown_twice(self, net: Network) -> None:
        if not net.connector.caps.idempotent:
            return
        async with self.open(net) as (session, _):
            first = await session.send(outgoing(net, "once", "same"))
            again = await session.send(outgoing(net, "once", "same"))
            await session.send(outgoing(net, "the end", "other"))
            texts = [(await asyncio.wait_for(net.peer.hear(), WAIT_S)).text for _ in range(2)]
        assert first == again
        assert texts == ["once", "the end"]

    async def test_it_resumes_without_gap_or_duplicate(self, net: Network) -> None:
        if not net.connector.caps.resumes:
            return
        async with self.open(net) as (_, listener):
            await net.peer.say("before")
            assert (await listener.message()).text == "before"
            cursor = listener.cursor
        for number in range(25):
            await net.peer.say(f"away {number}")
        async with self.open(net, cursor) as (_, listener):
            got = [(await listener.message()).text for _ in range(25)]
            await net.peer.say("after")
            got.append((await listener.message()).text)
        assert got == [f"away {number}" for number in range(25)] + ["after"]

    async def test_a_first_session_in_which_nothing_comes_tells_where_to_go_on(self, net: Network) -> None:
        if not net.connector.caps.resumes:
            return
        async with self.open(net) as (_, listener):
            while listener.cursor is None:
                await listener.next()
        await net.peer.say("while you were away")
        async with self.open(net, listener.cursor) as (_, listener):
            assert (await listener.message()).text == "while you were away"

    async def test_a_killed_server_is_transient_and_nothing_is_lost(self, net: Network) -> None:
        async with self.open(net) as (session, listener):
            await net.peer.say("first")
            assert (await listener.message()).text == "first"
            await net.stop_server()
            with pytest.raises(Transient):
                await listener.drain()
            with pytest.raises(Transient):
                await session.send(outgoing(net, "into the void", "t2"))
        await net.start_server()

    async def test_a_file_from_a_peer_can_be_fetched(self, net: Network) -> None:
        if not net.connector.caps.media:
            return
        async with self.open(net) as (session, listener):
            await net.peer.say_file(PNG, "image/png", "dot.png")
            heard = await listener.message()
            while not heard.media:
                heard = await listener.message()
            data = await asyncio.wait_for(gather_bytes(session.fetch(heard.media[0])), WAIT_S)
        assert heard.media[0].mime == "image/png"
        assert data == PNG

    async def test_a_file_reaches_the_peer(self, net: Network, tmp_path: Path) -> None:
        path = tmp_path / "dot.png"
        path.write_bytes(PNG)
        media = Media("m1", "image/png", len(PNG), "dot.png", width=1, height=1)
        file = MediaFile(media, str(path), "https://push.example/m/abc")
        async with self.open(net) as (session, _):
            envelope = outgoing(net, "", "t3", kind=Kind.MEDIA, media=(media,))
            await session.send(envelope, [file])
            heard = await asyncio.wait_for(net.peer.hear(), WAIT_S)
            if not net.connector.caps.media:
                assert file.link in heard.text
                return
            assert heard.file == PNG

    async def test_a_place_reaches_the_peer_and_comes_back(self, net: Network) -> None:
        async with self.open(net) as (session, listener):
            place = outgoing(net, "", "t4", kind=Kind.LOCATION, geo=Geo(48.2010, 16.3695))
            await session.send(place)
            heard = await asyncio.wait_for(net.peer.hear(), WAIT_S)
            assert heard.geo == (48.2010, 16.3695)
            if net.connector.caps.location:
                await net.peer.say_place(-33.86, 151.21)
                answer = await listener.message()
                assert answer.geo is not None
                assert (answer.geo.latitude, answer.geo.longitude) == (-33.86, 151.21)

    async def test_read_marks_go_both_ways(self, net: Network) -> None:
        if not net.connector.caps.read_marks:
            return  # it is rejected, see below
        async with self.open(net) as (session, listener):
            await net.peer.say("read me")
            heard = await listener.message()
            await session.act(MarkRead(heard.conversation, heard.remote_id))
            assert await asyncio.wait_for(net.peer.hear_read(), WAIT_S)
            if net.peer.conversation.kind is ConversationKind.DM and net.connector.name != "mail":
                sent = await session.send(outgoing(net, "and you me", "t5"))
                await asyncio.wait_for(net.peer.hear(), WAIT_S)
                await net.peer.read_all()
                assert (await listener.read()).remote_id == sent

    async def test_what_a_network_can_not_do_is_rejected(self, net: Network) -> None:
        async with self.open(net) as (session, _):
            if not net.connector.caps.read_marks:
                with pytest.raises(Rejected):
                    await session.act(MarkRead(net.peer.conversation, "1"))

    async def test_it_disconnects_and_connects_again(self, net: Network) -> None:
        for number in range(3):
            async with self.open(net) as (session, listener):
                await net.peer.say("again")
                assert (await listener.message()).text == "again"
                assert await session.send(outgoing(net, "and again", f"t6.{number}"))
                await asyncio.wait_for(net.peer.hear(), WAIT_S)
