"""A node that another has taken the name of ends by itself and says why; the fleet goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.tour.fleet_home import FleetHome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def test_a_node_that_slept_past_its_lease_and_finds_its_name_taken_ends_and_says_so(tmp_path: Path) -> None:
    settings = ("cluster.lease_s=1.5", "cluster.beat_s=0.3")
    async with FleetHome(tmp_path, nodes=2, nats=1, partitions=4, settings=settings) as home:
        first, second = home.nodes
        second.pause()
        # one of the same name, on a folder and ports of its own
        second.settings = [each for each in second.settings if not each.startswith("cluster.node=")]
        stand_in = type(second)("g2-again", tmp_path / "g2-again", second.host)
        stand_in.settings = [*second.settings, "cluster.node=g2"]
        home.nodes.append(stand_in)
        await stand_in.spawn()
        await stand_in.until_serving()
        second.resume()
        async with asyncio.timeout(30):
            while second.is_running:
                await asyncio.sleep(0.05)
        assert "cluster.node" in second.last_words()
        assert await second.terminate() == 2
        home.nodes.remove(second)
        await home.until_ready()
        status = await home.http.get(f"{first.api}/readyz")
        assert status.status_code == 200, json.dumps(status.json())
