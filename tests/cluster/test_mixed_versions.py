"""A fleet is upgraded node by node: versions one apart work together, and one that is two apart stays out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.client import Device
from gateway.tour.fleet_home import FleetHome, Loopback, NotStarted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
VERSIONS = {"g1": 1, "g2": 2, "g3": 3}


class Mixed(Loopback):
    def command(self, name: str) -> Sequence[str]:
        if name not in VERSIONS:
            return ()  # a NATS server
        return [sys.executable, str(Path(__file__).with_name("another_version.py")), str(VERSIONS[name])]


async def test_versions_one_apart_push_to_each_others_devices_and_two_apart_is_refused(tmp_path: Path) -> None:
    settings = ("cluster.lease_s=1.5", "cluster.beat_s=0.3")
    home = FleetHome(tmp_path, nodes=3, nats=1, partitions=8, settings=settings, ground=Mixed())
    newest = home.nodes.pop()
    async with home:
        seen: asyncio.Queue[str] = asyncio.Queue()
        operator = {"authorization": f"Bearer {home.admin_key()}"}
        made = await home.http.post(f"{home.nodes[0].api}/v1/apps", headers=operator, json={"name": "shop"})
        assert made.status_code == 201, made.text
        provider = {"authorization": f"Bearer {made.json()['key']}"}
        for at in home.nodes:
            for account in range(6):  # of all, some have their owner at the other node
                device = Device(*at.devices)
                async with device:
                    registered = await device.register(
                        "shop", "1.0", account=f"{at.name}-{account}", on_message=lambda m: seen.put_nowait(m.title)
                    )
                    for entry in home.nodes:
                        title = f"{entry.name} to {at.name} {account}"
                        push = {"target": {"token": registered.token}, "title": title}
                        answer = await home.http.post(f"{entry.api}/v1/push", headers=provider, json=push)
                        assert answer.status_code == 201, answer.text
                        async with asyncio.timeout(60):
                            assert await seen.get() == title
        await newest.spawn()
        with pytest.raises(NotStarted, match="versions between"):
            await newest.until_serving()
        assert await newest.terminate() == 2
