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
