"""The Matrix connector before Synapse, with a peer who uses mautrix: what every connector promises, and what is
Matrix's own."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import pytest
import pytest_asyncio
from im.contract import WAIT_S, ConnectorContract, Listener, gather_bytes, outgoing
from im.servers_needed import needs

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.matrix import build
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
    Message,
    PresenceChanged,
    Rejected,
    Session,
    Transient,
    Typing,
    TypingChanged,
)
from gateway.tour.networks.matrix_peer import MatrixPeer
from gateway.tour.networks.synapse import Synapse

pytestmark = [pytest.mark.slow, needs("synapse/bin/python", packages="python3-venv")]

SETTINGS = ConnectorSettings(private_hosts=True, request_s=10.0)
_numbers = itertools.count(1)
E = TypeVar("E")


class MatrixNetwork:
    """Two new people on a server, with one direct room."""

    def __init__(self, server: Synapse, user: str, peer: MatrixPeer) -> None:
        self.server = server
        self.connector = build(SETTINGS)
        self.user = user
        values = {"user": user, "homeserver": server.url, "tls": "never"}
        self.credentials = Credentials({**values, "password": "pw-of-ours"})
        self.wrong = Credentials({**values, "password": "another"})
        self.peer = peer
        self.contact = peer.user

    async def stop_server(self) -> None:
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Synapse]:
    folder: Path = tmp_path_factory.mktemp("synapse")
    async with Synapse(folder) as synapse:
        yield synapse


@asynccontextmanager
async def build_network(server: Synapse) -> AsyncIterator[MatrixNetwork]:
    number = next(_numbers)
    ours = await server.register(f"ours{number}", "pw-of-ours")
    theirs = await server.register(f"peer{number}", "pw-of-peer")
    async with MatrixPeer(server.url, theirs, "pw-of-peer") as peer:
        await peer.meet(ours)
        net = MatrixNetwork(server, ours, peer)
        async with net.connector.open(net.credentials, None) as session:
            await session.act(Answer(theirs, accept=True))
        yield net


@asynccontextmanager
async def new_peer(net: MatrixNetwork) -> AsyncIterator[MatrixPeer]:
    user = await net.server.register(f"other{next(_numbers)}", "pw-of-other")
    async with MatrixPeer(net.server.url, user, "pw-of-other") as peer:
        yield peer


@pytest.fixture
async def net(server: Synapse) -> AsyncIterator[MatrixNetwork]:
    async with build_network(server) as network:
        yield network


class TestMatrix(ConnectorContract):
    pass


async def next_of(listener: Listener, kind: type[E]) -> E:
    while True:
        event = await listener.next()
        if isinstance(event, kind):
            return event


@asynccontextmanager
async def opened(
    net: MatrixNetwork, cursor: bytes | None = None, **values: str
) -> AsyncIterator[tuple[Session, Listener]]:
    credentials = Credentials({**net.credentials.values, **values})
    async with net.connector.open(credentials, cursor) as session:
        yield session, Listener(session)


class Person:
    """The same account as ours, in another client."""

    def __init__(self, net: MatrixNetwork) -> None:
        self.client = httpx.AsyncClient(base_url=f"{net.server.url}/_matrix/client/v3", trust_env=False, timeout=20.0)
        self._net = net

    async def __aenter__(self) -> httpx.AsyncClient:
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": self._net.user}}
        answer = await self.client.post("/login", json={**login, "password": "pw-of-ours"})
        self.client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()


# --- logins ---


async def test_a_token_logs_in_until_it_is_taken_back(net: MatrixNetwork) -> None:
    async with Person(net) as elsewhere:
        token = elsewhere.headers["authorization"].removeprefix("Bearer ")
        async with opened(net, password="", token=token) as (session, listener):
            assert session.me.remote_id == net.user
            listening = asyncio.create_task(listener.drain())
            await asyncio.sleep(0.2)
            assert (await elsewhere.post("/logout", json={})).is_success
            with pytest.raises(AuthFailed):
                await asyncio.wait_for(listening, WAIT_S)
            with pytest.raises(AuthFailed):
                await session.send(outgoing(net, "nobody", "a1"))
        with pytest.raises(AuthFailed):
            async with opened(net, password="", token=token):
                pass


async def test_there_is_one_device_however_often_it_connects(net: MatrixNetwork) -> None:
    for _ in range(4):
        net.connector = build(SETTINGS)  # as after a restart
        async with opened(net):
            pass
    async with Person(net) as elsewhere:
        devices = (await elsewhere.get("/devices")).json()["devices"]
    assert len([device for device in devices if device["display_name"] == "Heliograph"]) == 1


async def test_a_message_tried_again_after_a_restart_is_one(net: MatrixNetwork) -> None:
    ids = set()
    for _ in range(2):
        net.connector = build(SETTINGS)
        async with opened(net) as (session, _listener):
            ids.add(await session.send(outgoing(net, "once", "over-restarts")))
    assert len(ids) == 1


# --- cursors ---


@pytest.mark.parametrize("cursor", [b"nonsense", b"\xff\xfe", b"", b"x" * 5_000])
async def test_a_cursor_the_server_does_not_know_is_forgotten(net: MatrixNetwork, cursor: bytes) -> None:
    with pytest.raises(CursorForgotten):
        async with opened(net, cursor):
            pass


async def test_a_timeline_that_is_cut_short_is_filled(net: MatrixNetwork) -> None:
    async with opened(net) as (_, listener):
        await net.peer.say("before")
        await listener.message()
        cursor = listener.cursor
    for number in range(270):  # more than a timeline and two pages
        await net.peer.say(f"away {number}")
    async with opened(net, cursor) as (_, listener):
        got = [(await listener.message()).text for _ in range(270)]
        assert got == [f"away {number}" for number in range(270)]
        assert listener.cursor not in (None, cursor)


async def test_who_stops_in_the_middle_gets_it_again(net: MatrixNetwork) -> None:
    async with opened(net) as (_, listener):
        await net.peer.say("before")
        await listener.message()
        cursor = listener.cursor
    for number in range(10):
        await net.peer.say(f"away {number}")
    async with opened(net, cursor) as (_, listener):
        for _ in range(4):
            await listener.message()
        assert listener.cursor is None
    async with opened(net, cursor) as (_, listener):
        assert [(await listener.message()).text for _ in range(10)] == [f"away {number}" for number in range(10)]
        assert listener.cursor is not None


async def test_a_server_killed_while_a_message_goes_out_has_it_once(net: MatrixNetwork) -> None:
    async with opened(net) as (session, _):
        sending = [asyncio.create_task(session.send(outgoing(net, f"now {n}", f"killed-{n}"))) for n in range(8)]
        await asyncio.sleep(0.05)
        await net.stop_server()
        ends = await asyncio.gather(*sending, return_exceptions=True)
    assert any(isinstance(end, Transient) for end in ends)
    assert all(isinstance(end, Transient | str) for end in ends)
    await net.start_server()
    async with opened(net) as (session, _):
        again = [await session.send(outgoing(net, f"now {number}", f"killed-{number}")) for number in range(8)]
    # what the server said it had is the same message still
    assert all(end == again[number] for number, end in enumerate(ends) if isinstance(end, str))
    heard = [(await asyncio.wait_for(net.peer.hear(), WAIT_S)).text for _ in range(8)]
    assert sorted(heard) == sorted(f"now {number}" for number in range(8))


# --- friends and rooms ---


@pytest.mark.parametrize("is_there", [True, False], ids=["at once", "in another session"])
async def test_a_friend_request_is_accepted(net: MatrixNetwork, is_there: bool) -> None:
    async with new_peer(net) as other:
        async with opened(net) as (session, listener):
            await other.meet(net.user)
            request = await next_of(listener, FriendRequest)
            assert request.by.remote_id == other.user
            if is_there:
                await session.act(Answer(other.user, accept=True))
                changed = await next_of(listener, ContactChanged)
                assert changed.contact is not None
                assert (changed.remote_id, changed.contact.is_mutual) == (other.user, True)
            cursor = listener.cursor
        async with opened(net, cursor) as (session, listener):
            if not is_there:
                await session.act(Answer(other.user, accept=True))
                assert (await next_of(listener, ContactChanged)).remote_id == other.user
            await other.say("friends now")
            heard = await listener.message()
            assert (heard.text, heard.conversation) == ("friends now", other.conversation)


async def test_a_friend_who_was_accepted_elsewhere_meanwhile_is_told(net: MatrixNetwork) -> None:
    async with new_peer(net) as other:
        async with opened(net) as (_, listener):
            await net.peer.say("before")
            await listener.message()
            cursor = listener.cursor
        room = await other.meet(net.user)
        async with Person(net) as elsewhere:
            assert (await elsewhere.post(f"/join/{room}", json={})).is_success
            direct = {net.peer.user: [net.peer.room], other.user: [room]}
            assert (await elsewhere.put(f"/user/{net.user}/account_data/m.direct", json=direct)).is_success
        async with opened(net, cursor) as (_, listener):
            changed = await next_of(listener, ContactChanged)
            assert changed.contact is not None
            assert (changed.remote_id, changed.contact.is_mutual) == (other.user, True)


async def test_a_friend_request_is_refused_once(net: MatrixNetwork) -> None:
    async with new_peer(net) as other, opened(net) as (session, listener):
        await other.meet(net.user)
        await next_of(listener, FriendRequest)
        await session.act(Answer(other.user, accept=False))
        assert other.user not in [contact.remote_id async for contact in session.contacts()]
        with pytest.raises(Rejected):
            await session.act(Answer(other.user, accept=True))


async def test_who_writes_to_somebody_that_asks_has_answered(net: MatrixNetwork) -> None:
    async with new_peer(net) as other, opened(net) as (session, _):
        room = await other.meet(net.user)
        await session.send(msgspec.structs.replace(outgoing(net, "yes", "y1"), conversation=other.conversation))
        heard = await asyncio.wait_for(other.hear(), WAIT_S)
        assert (heard.text, heard.room) == ("yes", room)


async def test_befriending_invites_and_is_told_when_they_come(net: MatrixNetwork) -> None:
    async with new_peer(net) as other, opened(net) as (session, listener):
        await session.act(Befriend(other.user, "it is me"))
        await session.act(Befriend(other.user, "it is me"))  # a second try makes no second room
        asked = await next_of(listener, ContactChanged)
        assert asked.contact is not None
        assert not asked.contact.is_mutual
        room = await other.accept()
        came = await next_of(listener, ContactChanged)
        assert came.contact is not None
        assert (came.remote_id, came.contact.is_mutual) == (other.user, True)
        await other.say("hello")
        heard = await listener.message()
        assert (heard.conversation.kind, heard.conversation.remote_id) == (ConversationKind.DM, other.user)
        await session.send(msgspec.structs.replace(outgoing(net, "to you", "b1"), conversation=other.conversation))
        assert (await asyncio.wait_for(other.hear(), WAIT_S)).text == "it is me"
        assert (await asyncio.wait_for(other.hear(), WAIT_S)).text == "to you"
        assert other.room == room
        with pytest.raises(Rejected):
            await session.act(Befriend(net.user))
        with pytest.raises(Rejected):
            await session.act(Befriend("anna"))


async def test_a_friend_with_two_rooms_is_answered_where_they_spoke(net: MatrixNetwork) -> None:
    first = net.peer.room
    async with opened(net) as (session, listener):
        second = await net.peer.meet(net.user)
        await next_of(listener, FriendRequest)
        await session.act(Answer(net.peer.user, accept=True))
        await net.peer.say("in the second")
        newer = await listener.message()
        net.peer.room = first
        await net.peer.say("in the first")
        older = await listener.message()
        assert newer.conversation == older.conversation == net.peer.conversation
        await session.send(outgoing(net, "where you are", "w1"))
        assert (await asyncio.wait_for(net.peer.hear(), WAIT_S)).room == first
        await session.send(outgoing(net, "to that", "w2", reply_to=newer.remote_id))
        assert (await asyncio.wait_for(net.peer.hear(), WAIT_S)).room == second


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "while away"])
async def test_a_friend_who_left_is_asked_again_and_not_written_to_an_empty_room(
    net: MatrixNetwork, is_seen: bool
) -> None:
    async with opened(net) as (session, listener):
        if is_seen:
            await net.peer.leave()
            gone = await next_of(listener, ContactChanged)
            assert gone.contact is not None
            assert not gone.contact.is_mutual
            await session.send(outgoing(net, "are you there", "g1"))
    if not is_seen:
        await net.peer.leave()
        async with opened(net) as (session, _):
            await session.send(outgoing(net, "are you there", "g1"))
    left = net.peer.room
    assert await net.peer.accept() != left


async def test_a_room_is_entered_without_its_history_and_left(net: MatrixNetwork) -> None:
    room = await net.peer.open_room("plaza")
    for number in range(60):
        await net.peer.say_in(room, f"history {number}")
    async with opened(net) as (session, listener):
        await session.act(JoinRoom("#plaza:localhost"))
        await net.peer.say_in(room, "welcome")
        heard = await listener.message()
        assert (heard.text, heard.conversation) == ("welcome", Conversation(ConversationKind.ROOM, room))
        await session.act(LeaveRoom(room))
        await net.peer.say_in(room, "gone")
        await net.peer.say("still here")
        assert (await listener.message()).text == "still here"
        there = msgspec.structs.replace(outgoing(net, "x", "r1"), conversation=heard.conversation)
        with pytest.raises(Rejected):
            await session.send(there)
        with pytest.raises(Rejected):
            await session.act(JoinRoom("#nowhere:localhost"))


async def test_an_encrypted_room_gets_nothing_in_the_clear(net: MatrixNetwork) -> None:
    await net.peer.encrypt()
    async with opened(net) as (session, _):
        with pytest.raises(Rejected, match="encrypted"):
            await session.send(outgoing(net, "secret", "e1"))


# --- messages ---


async def test_edits_replies_and_what_is_taken_back(net: MatrixNetwork) -> None:
    async with opened(net) as (session, listener):
        await net.peer.say("first")
        first = await listener.message()
        await net.peer.edit(first.remote_id, "second")
        edit = await listener.message()
        assert (edit.kind, edit.replaces, edit.text) == (Kind.EDIT, first.remote_id, "second")
        await net.peer.take_back(first.remote_id)
        redaction = await listener.message()
        assert (redaction.kind, redaction.replaces) == (Kind.REDACTION, first.remote_id)
        sent = await session.send(outgoing(net, "mine", "m1", reply_to=first.remote_id))
        heard = await asyncio.wait_for(net.peer.hear(), WAIT_S)
        assert heard.remote_id == sent
        await session.send(outgoing(net, "mine, better", "m2", kind=Kind.EDIT, replaces=sent))
        heard = await asyncio.wait_for(net.peer.hear(), WAIT_S)
        assert "mine, better" in heard.text
        await session.send(outgoing(net, "", "m3", kind=Kind.REDACTION, replaces=sent))
        assert await asyncio.wait_for(net.peer.hear_taken_back(), WAIT_S) == sent


async def test_typing_goes_both_ways_and_presence_is_told(net: MatrixNetwork) -> None:
    async with opened(net) as (session, listener):
        await net.peer.type()
        typing = await next_of(listener, TypingChanged)
        assert (typing.by.remote_id, typing.is_typing, typing.conversation) == (
            net.peer.user,
            True,
            net.peer.conversation,
        )
        await session.act(Typing(net.peer.conversation, True))
        assert net.user in await asyncio.wait_for(net.peer.hear_typing(), WAIT_S)
        await net.peer.go_away("at lunch")
        while (presence := await next_of(listener, PresenceChanged)).text != "at lunch":
            pass
        assert presence.by.remote_id == net.peer.user


async def test_what_we_say_elsewhere_comes_too(net: MatrixNetwork) -> None:
    async with Person(net) as elsewhere, opened(net) as (_, listener):
        path = f"/rooms/{net.peer.room}/send/m.room.message/x1"
        await elsewhere.put(path, json={"msgtype": "m.text", "body": "from my desk"})
        event = await next_of(listener, Message)
        assert event.envelope.sender.is_self
        assert event.envelope.text == "from my desk"


async def test_a_file_that_is_too_large_is_left_there(net: MatrixNetwork) -> None:
    net.connector = build(SETTINGS._replace(media_bytes=1_000))
    async with opened(net) as (session, listener):
        await net.peer.say_file(b"x" * 5_000, "application/pdf", "long.pdf")
        heard = await listener.message()
        assert heard.media[0].size == 5_000
        with pytest.raises(Rejected, match="media_bytes"):
            await gather_bytes(session.fetch(heard.media[0]))


async def test_who_is_asked_to_go_slower_is_told_how_long(tmp_path: Path) -> None:
    async with (
        Synapse(tmp_path, "rc_message: {per_second: 0.2, burst_count: 2}\n") as server,
        build_network(server) as net,
        opened(net) as (session, _),
    ):

        async def hurry() -> None:
            for number in range(5):
                await session.send(outgoing(net, "quick", f"q{number}"))

        with pytest.raises(Transient) as caught:
            await hurry()
        assert 0.5 < caught.value.retry_after_s < 60


async def test_no_text_and_no_address_gets_into_a_log(net: MatrixNetwork, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with opened(net) as (session, listener):
            await net.peer.say("geheimes Wort")
            await listener.message()
            await session.send(outgoing(net, "noch eines", "l1"))
    # the peer's library is not ours
    lines = [record.getMessage() for record in caplog.records if not record.name.startswith(("mau", "aiohttp"))]
    assert not [line for line in lines if any(word in line for word in ("geheim", "noch eines", net.user, "syt_"))]
