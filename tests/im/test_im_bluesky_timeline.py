"""The Bluesky connector where the server has a timeline: a real PDS, which asks an AppView of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from im.appview_stub import AppView
from im.contract import WAIT_S, Listener, outgoing
from im.servers_needed import needs

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.bluesky import build
from gateway.model.im import Connector, Credentials, CursorForgotten, Transient
from gateway.tour.networks.bluesky_peer import BlueskyPeer, create_account
from gateway.tour.networks.pds import Pds

pytestmark = [pytest.mark.slow, needs("node", "pds/ready", packages="nodejs npm")]

PASSWORD = "a-password-of-ours"


class Net(NamedTuple):
    connector: Connector
    credentials: Credentials
    peer: BlueskyPeer
    appview: AppView


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    appview = AppView()
    await appview.start()
    server = Pds(tmp_path, appview.url)
    await server.start()
    try:
        appview.pds = server.url
        ours = await create_account(server.url, "ours.test", PASSWORD)
        theirs = await create_account(server.url, "peer.test", PASSWORD)
        appview.authors = {theirs: "Peer", ours: "Ours"}
        peer = BlueskyPeer(server.url, "peer.test", PASSWORD, ours)
        await peer.connect()
        connector = build(ConnectorSettings(private_hosts=True, request_s=10.0, poll_s=0.2))
        form = {"server": f"localhost:{server.port}", "tls": "never", "handle": "ours.test", "password": PASSWORD}
        yield Net(connector, Credentials(form), peer, appview)
        await peer.close()
    finally:
        await server.close()
        await appview.stop()


async def test_the_timeline_is_pushed_and_goes_on_without_gap_or_duplicate(net: Net) -> None:
    await net.peer.say("long ago")
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        assert [contact.display async for contact in session.contacts()] == ["Peer", "Ours"]
        await session.send(outgoing(net, "our own", "t1"))  # type: ignore[arg-type]
        assert (await asyncio.wait_for(net.peer.hear(), WAIT_S)).text == "our own"
        await net.peer.say("before")
        heard = await listener.message()
        assert (heard.text, heard.sender.display) == ("before", "Peer")
    assert net.appview.asked > 2
    for number in range(60):  # more than a page
        await net.peer.say(f"away {number}")
    async with net.connector.open(net.credentials, listener.cursor) as session:
        listener = Listener(session)
        got = [(await listener.message()).text for _ in range(60)]
        await net.peer.say("after")
        got.append((await listener.message()).text)
    assert got == [f"away {number}" for number in range(60)] + ["after"]


async def test_a_timeline_that_is_away_is_transient_and_one_that_is_new_is_said(net: Net) -> None:
    async with net.connector.open(net.credentials, None) as session:
        listener = Listener(session)
        await net.peer.say("once")
        await listener.message()
        net.appview.is_away = True
        with pytest.raises(Transient):
            await listener.drain()
    with pytest.raises(Transient):
        async with net.connector.open(net.credentials, listener.cursor):
            pass
    async with net.connector.open(net.credentials, None) as session:
        other = Listener(session)
        await net.peer.say("twice")
        # nobody is followed in the records: only our own would come, but the cursor is of records
        await session.send(outgoing(net, "mine", "t2"))  # type: ignore[arg-type]
        await other.next()
    net.appview.is_away = False
    with pytest.raises(CursorForgotten):
        async with net.connector.open(net.credentials, other.cursor):
            pass
