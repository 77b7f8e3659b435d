"""The Mastodon connector beside a strict server of our own, and a peer with Mastodon.py. Not proven against a live
server: none can be had here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from im.contract import WAIT_S, ConnectorContract, Listener, outgoing
from im.mastodon_server import MastodonServer

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.mastodon import build
from gateway.model.im import (
    Answer,
    AuthFailed,
    Befriend,
    Connector,
    Conversation,
    ConversationKind,
    Credentials,
    CursorForgotten,
    Envelope,
    FriendRequest,
    Kind,
    Message,
    Person,
    Rejected,
    Transient,
)
from gateway.tour.networks.mastodon_peer import MastodonPeer

pytestmark = pytest.mark.slow

HOME = Conversation(ConversationKind.FEED, "home")


class MastodonNetwork:
    contact = "peer"

    def __init__(self, server: MastodonServer, peer: MastodonPeer) -> None:
        self.server, self.peer = server, peer
        self.connector: Connector = build(ConnectorSettings(private_hosts=True, request_s=5.0, poll_s=0.1, threads=4))
        form = {"server": f"127.0.0.1:{server.port}", "tls": "never"}
        self.credentials = Credentials({**form, "token": "token-of-ours"})
        self.wrong = Credentials({**form, "token": "no-token"})

    async def stop_server(self) -> None:
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()


@pytest.fixture
async def net() -> AsyncIterator[MastodonNetwork]:
    server = MastodonServer({"token-of-ours": "ours", "token-of-peer": "peer", "token-of-third": "third"})
    server.follows |= {("ours", "peer"), ("ours", "third")}
    await server.start()
    peer = MastodonPeer(f"http://127.0.0.1:{server.port}", "peer", "token-of-peer", "ours")
    yield MastodonNetwork(server, peer)
    await peer.close()
    await server.stop()
    assert server.faults == []


class TestMastodon(ConnectorContract):
    pass


def post(text: str, txn_id: str, **more: object) -> Envelope:
    return Envelope("mastodon", HOME, Person("", is_self=True), text=text, txn_id=txn_id, **more)  # type: ignore[arg-type]


async def test_posts_of_those_we_follow_are_pushed_and_our_own_are_not(net: MastodonNetwork) -> None:
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        mine = await session.send(post("to all\nof you", "p1"))
        await net.peer.post("<b>not bold</b> & more https://example.org/x")
        event = await listener.next()
        while not isinstance(event, Message):
            event = await listener.next()
        assert event.envelope.conversation == HOME
        assert event.envelope.kind is Kind.POST
        assert event.envelope.text == "<b>not bold</b> & more https://example.org/x"
        assert event.envelope.sender.remote_id == "peer"
        await session.send(post("an answer", "p2", reply_to=event.envelope.remote_id))
    assert net.server.statuses[0]["id"] == mine
    assert net.server.statuses[-1]["in_reply_to_id"] == event.envelope.remote_id


async def test_who_wants_to_follow_is_answered(net: MastodonNetwork) -> None:
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        net.server.ask("third", "ours")
        while not isinstance(request := await listener.next(), FriendRequest):
            pass
        await session.act(Answer(request.by.remote_id, accept=True))
        assert ("third", "ours") in net.server.follows
        with pytest.raises(Rejected):
            await session.act(Befriend("nobody"))


async def test_a_timeline_that_goes_back_no_longer_is_forgotten(net: MastodonNetwork) -> None:
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        await net.peer.post("first")
        await listener.message()
    net.server.kept = 3
    for number in range(5):
        await net.peer.post(f"number {number}")
    with pytest.raises(CursorForgotten):
        async with net.connector.open(net.credentials, listener.cursor):
            pass
    with pytest.raises(CursorForgotten):
        async with net.connector.open(net.credentials, b"[1]"):
            pass


@pytest.mark.parametrize(
    ("odd", "failure"),
    [
        ((429, {"X-RateLimit-Reset": "2999-01-01T00:00:00Z", "X-RateLimit-Remaining": "0"}, b"{}"), Transient),
        ((500, {}, b"oops"), Transient),
        ((200, {}, b"<html>"), Transient),
        ((200, {}, b"[]"), Transient),
        ((200, {}, b'{"id": {}, "acct": 7}'), Transient),
        ((301, {"Location": "http://127.0.0.1:1/"}, b""), Transient),
        ((200, {"Content-Encoding": "gzip"}, b"x"), Transient),
        ((200, {}, b"[" * 100_000), Transient),
        ((401, {}, b'{"error": "revoked"}'), AuthFailed),
        ((422, {}, b'{"error": "no"}'), Rejected),
    ],
)
async def test_odd_answers_are_in_our_words(
    net: MastodonNetwork, odd: tuple[int, dict[str, str], bytes], failure: type[Exception]
) -> None:
    net.server.odd = [odd]
    with pytest.raises(failure) as caught:
        async with net.connector.open(net.credentials, None):
            pass
    if odd[0] == 429:
        assert caught.value.retry_after_s > 0  # type: ignore[attr-defined]


async def test_a_token_that_is_the_name_of_a_file_is_just_a_token(net: MastodonNetwork, tmp_path: Path) -> None:
    """The library would read the file, and send what is in it."""
    path = tmp_path / "secret"
    path.write_text("token-of-ours\n")
    with pytest.raises(AuthFailed):
        async with net.connector.open(Credentials({**net.credentials.values, "token": str(path)}), None):
            pass


async def test_what_is_too_long_is_rejected_and_the_session_goes_on(net: MastodonNetwork) -> None:
    async with net.connector.open(net.credentials, None) as session:
        with pytest.raises(Rejected):
            await session.send(post("x" * 501, "l1"))
        with pytest.raises(Rejected):
            await session.send(post("", "l2"))
        await session.send(outgoing(net, "short", "l3"))
        assert (await asyncio.wait_for(net.peer.hear(), WAIT_S)).text == "short"


async def test_nothing_of_it_is_in_a_log(net: MastodonNetwork, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        await net.peer.say("a secret of ours")
        await listener.message()
        await session.send(outgoing(net, "an answer to it", "q1"))
        with pytest.raises(Rejected):
            await session.act(Befriend("nobody"))
    logged = " ".join(record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn"))
    assert not [word for word in ("secret", "answer", "nobody", "token-of-ours", "/api/v1") if word in logged]


async def test_a_server_that_says_nothing_is_transient_in_time() -> None:
    gone: list[asyncio.Future[None]] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone.append(asyncio.get_running_loop().create_future())
        try:
            await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            gone[0].set_result(None)

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connector = build(ConnectorSettings(private_hosts=True, request_s=0.3, threads=2))
    credentials = Credentials({"server": f"127.0.0.1:{port}", "tls": "never", "token": "t"})
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(Transient):
            async with connector.open(credentials, None):
                pass
    await asyncio.wait_for(gone[0], WAIT_S)
    server.close()
    await server.wait_closed()
