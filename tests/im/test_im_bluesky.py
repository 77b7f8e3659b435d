"""The Bluesky connector beside a real PDS, and a peer with the library atproto."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from im.contract import WAIT_S, ConnectorContract, Listener, outgoing
from im.servers_needed import needs

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.bluesky import build
from gateway.im.connectors.bluesky.form import parse_login
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
_numbers = itertools.count(1)


class BlueskyNetwork:
    """`number`: accounts are of one test, the server is of all."""

    def __init__(self, server: Pds, number: int) -> None:
        self.server, self.number = server, number
        self.handle, self.theirs, self.third = (f"{name}{number}.test" for name in ("ours", "peer", "third"))
        self.connector: Connector = build(ConnectorSettings(private_hosts=True, request_s=10.0, poll_s=0.2))
        self.form = {"server": f"localhost:{server.port}", "tls": "never", "handle": self.handle}
        self.credentials = Credentials({**self.form, "password": PASSWORD})
        self.wrong = Credentials({**self.form, "password": "not-this-one"})

    async def begin(self) -> None:
        self.ours = await create_account(self.server.url, self.handle, PASSWORD)
        theirs = self.contact = await create_account(self.server.url, self.theirs, PASSWORD)
        await follow(self.server.url, self.handle, PASSWORD, theirs)
        self.peer = await self.join(self.theirs)

    async def join(self, handle: str) -> BlueskyPeer:
        peer = BlueskyPeer(self.server.url, handle, PASSWORD, self.ours)
        await peer.connect()
        return peer

    async def stop_server(self) -> None:
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pds]:
    """Slow to start, and it is bound to no loop."""
    made = Pds(tmp_path_factory.mktemp("pds"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.close())


@pytest.fixture
async def net(server: Pds) -> AsyncIterator[BlueskyNetwork]:
    made = BlueskyNetwork(server, next(_numbers))
    await made.begin()
    yield made
    await made.peer.close()


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
    elsewhere = await net.join(net.handle)
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        await session.send(outgoing(net, "from here", "e1"))
        await elsewhere.say("from my telephone")
        while not isinstance(event := await listener.next(), Message):
            pass
    await elsewhere.close()
    assert (event.envelope.text, event.envelope.sender.is_self) == ("from my telephone", True)


async def test_who_is_followed_from_here_is_heard_from_then_on(net: BlueskyNetwork) -> None:
    did = await create_account(net.server.url, net.third, PASSWORD)
    third = await net.join(net.third)
    await third.say("long ago")
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        await session.act(Befriend(net.third))
        while not isinstance(event := await listener.next(), ContactChanged):
            pass
        assert event.remote_id == did
        assert event.contact is not None
        assert event.contact.display == net.third
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


async def test_nothing_of_it_is_in_a_log(net: BlueskyNetwork, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with net.connector.open(net.credentials, None) as session:
        await session.send(outgoing(net, "a secret of ours", "q1"))
        with pytest.raises(Rejected):
            await session.act(Befriend("nobody.test"))
    logged = " ".join(record.getMessage() for record in caplog.records)
    assert not [word for word in ("secret", "nobody", PASSWORD, net.ours, "/xrpc/") if word in logged]


async def test_a_cursor_that_is_none_is_forgotten(net: BlueskyNetwork) -> None:
    with pytest.raises(CursorForgotten):
        async with net.connector.open(net.credentials, b"[7, {}]"):
            pass


async def test_tokens_that_a_server_no_longer_takes_are_no_hindrance(net: BlueskyNetwork) -> None:
    login = parse_login(net.credentials)
    async with net.connector.open(net.credentials, None):
        pass
    tokens = net.connector._tokens  # type: ignore[attr-defined]
    handle, did, access, refresh, endpoint = tokens.take(login).split(":::")
    assert PASSWORD not in repr(tokens)
    head, body, seal = access.split(".")
    tokens.keep(login, ":::".join((handle, did, f"{head}.{body}.{seal[::-1]}", refresh, endpoint)))
    async with net.connector.open(net.credentials, None) as session:
        assert await session.send(outgoing(net, "back by password", "b1"))


async def test_who_comes_back_needs_no_login_and_too_many_logins_say_when(tmp_path: Path) -> None:
    server = Pds(tmp_path, has_rate_limits=True)
    await server.start()
    try:
        await create_account(server.url, "ours.test", PASSWORD)
        settings = ConnectorSettings(private_hosts=True, request_s=10.0)
        connector = build(settings)
        form = {"server": f"localhost:{server.port}", "tls": "never", "handle": "ours.test", "password": PASSWORD}
        for _ in range(40):  # 30 logins in 5 minutes are allowed: who was here before comes back without one
            async with connector.open(Credentials(form), None):
                pass
        with pytest.raises(Transient) as caught:  # noqa: PT012 - one of them
            for _ in range(40):
                async with build(settings).open(Credentials(form), None):
                    pass
        assert 0 < caught.value.retry_after_s <= 300
    finally:
        await server.close()
