"""Three real NATS servers for all tests of a session; fleets of different names do not see each other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from far_scene import Fleet, Open

from gateway.config.cluster_section import Cluster
from gateway.tour.nats_servers import NatsServers

_fleets = itertools.count(1)


@pytest.fixture(scope="session")
def nats_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    servers = NatsServers(tmp_path_factory.mktemp("nats"))
    # in a thread: who asks for them first may run in a loop already
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(lambda: asyncio.run(servers.start())).result()
            yield servers
        finally:
            thread.submit(lambda: asyncio.run(servers.close())).result()


@pytest.fixture
def fleet_settings(nats_servers: NatsServers) -> Callable[..., Cluster]:
    """Settings of a node of a fleet of its own; the same fleet for each call in one test."""
    name = f"fleet{next(_fleets)}"

    def build(**settings: object) -> Cluster:
        cluster = Cluster(
            url=nats_servers.urls, monitors=nats_servers.monitors, name=name, node="a", beat_s=0.1, lease_s=1.0
        )
        for key, value in settings.items():
            setattr(cluster, key, value)
        return cluster

    return build


@pytest.fixture
async def open_fleet(tmp_path: Path) -> AsyncIterator[Open]:
    fleets: list[Fleet] = []

    async def build(**options: object) -> Fleet:
        path = tmp_path / f"fleet-{len(fleets)}"
        path.mkdir()
        fleet = await Fleet(path, **options).__aenter__()  # type: ignore[arg-type]
        fleets.append(fleet)
        return fleet

    yield build
    for fleet in fleets:
        await fleet.__aexit__()
