"""The floor of K2 does what it says: all streams are written to, and none is left."""

import nats
import pytest

from bench.system.nats_appends import append
from gateway.tour.nats_servers import NatsServers


async def test_the_bare_client_appends_to_all_streams_and_removes_them(nats_servers: NatsServers) -> None:
    answer = await append(nats_servers.urls.split(","), streams=4, size=1_000, seconds=0.3)
    assert answer["messages_per_s"] > 5
    assert answer["bytes_per_s"] == pytest.approx(answer["messages_per_s"] * 1_000)
    assert 0 < answer["p50_ms"] <= answer["p99_ms"]
    client = await nats.connect(nats_servers.urls.split(","))
    names = [info.config.name for info in await client.jetstream().streams_info()]
    await client.close()
    assert not [name for name in names if name and name.startswith("BENCH_")]
