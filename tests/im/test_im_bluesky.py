"""The Bluesky connector beside a real PDS, and a peer with the library atproto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from im.contract import WAIT_S, ConnectorContract, Listener, outgoing
from im.servers_needed import needs

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.bluesky import build
from gateway.model.im import (
    Befriend,
    Connector,
    ContactChanged,
    Credentials,
    CursorForgotten,
    Message,
    Rejected,
    Transient,
)
from gateway.tour.networks.bluesky_peer import BlueskyPeer, create_account, follow
from gateway.tour.networks.pds import Pds

pytestmark = [pytest.mark.slow, needs("node", "pds/ready", packages="nodejs npm")]

PASSWORD = "a-password-of-ours"


class BlueskyNetwork:
    def __init__(self, server: Pds, peer: BlueskyPeer, ours: str) -> None:
        self.server, self.peer, self.ours = server, peer, ours
        self.contact = peer.did
        self.connector: Connector = build(ConnectorSettings(private_hosts=True, request_s=10.0, poll_s=0.2))
        self.form = {"server": f"localhost:{server.port}", "tls": "never", "handle": "ours.test"}
        self.credentials = Credentials({**self.form, "password": PASSWORD})
        self.wrong = Credentials({**self.form, "password": "not-this-one"})

    async def stop_server(self) -> None:
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[BlueskyNetwork]:
    server = Pds(tmp_path)
    await server.start()
    try:
        ours = await create_account(server.url, "ours.test", PASSWORD)
        theirs = await create_account(server.url, "peer.test", PASSWORD)
        await follow(server.url, "ours.test", PASSWORD, theirs)
        peer = BlueskyPeer(server.url, "peer.test", PASSWORD, ours)
        await peer.connect()
        yield BlueskyNetwork(server, peer, ours)
        await peer.close()
    finally:
        await server.close()


class TestBluesky(ConnectorContract):
    pass


async def test_an_answer_names_what_it_answers_both_ways(net: BlueskyNetwork) -> None:
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        first = await session.send(outgoing(net, "who is there?", "a1"))
        await asyncio.wait_for(net.peer.hear(), WAIT_S)
        await net.peer.answer(first, "me")
        answer = await listener.message()
        assert (answer.text, answer.reply_to) == ("me", first)
        await session.send(outgoing(net, "good", "a2", reply_to=answer.remote_id))
        assert (await asyncio.wait_for(net.peer.hear(), WAIT_S)).reply_to == answer.remote_id


async def test_what_we_post_elsewhere_comes_and_what_we_post_here_does_not(net: BlueskyNetwork) -> None:
    elsewhere = BlueskyPeer(net.server.url, "ours.test", PASSWORD, net.ours)
    await elsewhere.connect()
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        await session.send(outgoing(net, "from here", "e1"))
        await elsewhere.say("from my telephone")
        while not isinstance(event := await listener.next(), Message):
            pass
    await elsewhere.close()
    assert (event.envelope.text, event.envelope.sender.is_self) == ("from my telephone", True)


async def test_who_is_followed_from_here_is_heard_from_then_on(net: BlueskyNetwork) -> None:
    did = await create_account(net.server.url, "third.test", PASSWORD)
    third = BlueskyPeer(net.server.url, "third.test", PASSWORD, net.ours)
    await third.connect()
    await third.say("long ago")
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        await session.act(Befriend("third.test"))
        while not isinstance(event := await listener.next(), ContactChanged):
            pass
        assert event.remote_id == did
        assert event.contact is not None
        assert event.contact.display == "third.test"
        await third.say("just now")
        assert (await listener.message()).text == "just now"
    await third.close()


async def test_what_a_post_can_not_be_is_rejected(net: BlueskyNetwork) -> None:
    async with net.connector.open(net.credentials, None) as session:
        for text in ("x" * 301, "x" * 3_001, ""):
            with pytest.raises(Rejected):
                await session.send(outgoing(net, text, f"r{len(text)}"))
        with pytest.raises(Rejected):
            await session.act(Befriend("nobody.test"))
        assert await session.send(outgoing(net, "👩‍👩‍👧‍👦" * 100, "r"))


async def test_a_cursor_that_is_none_is_forgotten(net: BlueskyNetwork) -> None:
    with pytest.raises(CursorForgotten):
        async with net.connector.open(net.credentials, b"[7, {}]"):
            pass


async def test_too_many_logins_say_when_to_come_back(tmp_path: Path) -> None:
    server = Pds(tmp_path, has_rate_limits=True)
    await server.start()
    try:
        await create_account(server.url, "ours.test", PASSWORD)
        connector = build(ConnectorSettings(private_hosts=True, request_s=10.0))
        form = {"server": f"localhost:{server.port}", "tls": "never", "handle": "ours.test", "password": PASSWORD}
        with pytest.raises(Transient) as caught:  # noqa: PT012 - one of them
            for _ in range(40):  # 30 in 5 minutes are allowed
                async with connector.open(Credentials(form), None):
                    pass
        assert 0 < caught.value.retry_after_s <= 300
    finally:
        await server.close()
