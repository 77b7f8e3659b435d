"""The XMPP connector before a real server, prosody, with a peer who uses slixmpp's own plugins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.xmpp import build
from gateway.model.im import Credentials
from gateway.tour.networks.prosody import Prosody
from gateway.tour.networks.xmpp_peer import XmppPeer
from tests.im.contract import ConnectorContract
from tests.im.servers_needed import needs

pytestmark = [pytest.mark.slow, needs("prosody", packages="prosody")]


class Net:
    """Us, alice; our peer, bob."""

    def __init__(self, server: Prosody) -> None:
        self.server = server
        self.connector = build(ConnectorSettings(private_hosts=True, request_s=10))
        self.credentials = self.log_in_as("alice", "alice-pw")
        self.wrong = self.log_in_as("alice", "not it")
        self.contact = server.address("bob")
        self.peer = XmppPeer(self.contact, "bob-pw", server.address("alice"), server.port)

    def log_in_as(self, name: str, password: str) -> Credentials:
        return Credentials(
            {
                "jid": self.server.address(name),
                "password": password,
                "host": "127.0.0.1",
                "port": str(self.server.port),
                "tls": "never",
            }
        )

    async def stop_server(self) -> None:
        await self.peer.close()
        await self.server.stop()

    async def start_server(self) -> None:
        await self.server.start()
        await self.peer.connect()


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    accounts = {"alice": "alice-pw", "bob": "bob-pw", "carol": "carol-pw"}
    server = Prosody(tmp_path, accounts, (("alice", "bob"),))
    await server.start()
    net = Net(server)
    try:
        await net.peer.connect()
        yield net
    finally:
        await net.peer.close()
        await server.stop()


class TestXmpp(ConnectorContract):
    """All that every connector promises."""
