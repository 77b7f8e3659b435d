"""The Matrix connector before Synapse, with a peer who uses mautrix: what every connector promises, and what is
Matrix's own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from im.contract import ConnectorContract
from im.servers_needed import needs

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.matrix import build
from gateway.model.im import Answer, Credentials
from gateway.tour.networks.matrix_peer import MatrixPeer
from gateway.tour.networks.synapse import Synapse

pytestmark = [pytest.mark.slow, needs("synapse/bin/python", packages="python3-venv")]

SETTINGS = ConnectorSettings(private_hosts=True, request_s=10.0)
_numbers = itertools.count(1)


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


@pytest.fixture
async def net(server: Synapse) -> AsyncIterator[MatrixNetwork]:
    number = next(_numbers)
    ours = await server.register(f"ours{number}", "pw-of-ours")
    theirs = await server.register(f"peer{number}", "pw-of-peer")
    async with MatrixPeer(server.url, theirs, "pw-of-peer") as peer:
        await peer.meet(ours)
        net = MatrixNetwork(server, ours, peer)
        async with net.connector.open(net.credentials, None) as session:
            await session.act(Answer(theirs, accept=True))
        yield net


class TestMatrix(ConnectorContract):
    pass
