"""Providers at any node of a real fleet: three nodes, three NATS servers, devices everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bare_device import BareDevice

from gateway.cluster.assignment import rank
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Config
from gateway.fleet.node import FleetNode
from gateway.model.frames import FrameType

PARTITIONS = 4
PATIENCE_S = 60.0


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            said = condition()
            if said if isinstance(said, bool) else await said:
                return
            await asyncio.sleep(0.02)


class Real:
    """Nodes by name, and what providers do."""

    def __init__(self) -> None:
        self.nodes: list[FleetNode] = []
        self.key = ""
        self.admin = ""

    def client(self, node: int, *, key: str = "") -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.nodes[node].api.port}",
            headers={"authorization": f"Bearer {key or self.key}"},
            timeout=PATIENCE_S,
        )

    async def settled(self) -> None:
        """Each node has what is its by the names; nothing is handed over any more."""
        names = [node.members.me().name for node in self.nodes]
        wanted = [rank(partition, names)[0] for partition in range(PARTITIONS)]

        def is_so() -> bool:
            return all(
                set(node.cores) == {p for p, name in enumerate(wanted) if name == node.members.me().name}
                for node in self.nodes
            )

        await until(is_so)

    def device(self, node: int) -> BareDevice:
        return BareDevice(self.nodes[node].edge.port)


@pytest.fixture
async def fleet(tmp_path: Path, fleet_settings: Callable[..., Cluster]) -> AsyncIterator[Real]:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 48)
    secret.chmod(0o600)
    real = Real()
    try:
        for name in ("a", "b", "c"):
            config = Config()
            config.cluster = fleet_settings(node=name, partitions=PARTITIONS, secret_file=str(secret), standbys=0)
            config.store.path = str(tmp_path / name)
            config.edge.port = config.api.port = 0
            config.edge.drain_s = 0.1
            real.nodes.append(await FleetNode.start(config))
        await real.settled()
        await until(lambda: all(not node.readiness() for node in real.nodes))
        real.admin = real.nodes[0].admin_key_file.read_text().strip()
        async with real.client(1, key=real.admin) as operator:
            made = await operator.post("/v1/apps", json={"name": "shop"})
            assert made.status_code == 201, made.text
            real.key = made.json()["key"]
        yield real
    finally:
        for node in real.nodes:
            await node.stop()


@pytest.mark.slow
async def test_providers_and_devices_at_any_node(fleet: Real) -> None:
    devices = [fleet.device(at % 3) for at in range(9)]
    tokens = []
    for device in devices:
        await device.login()
        tokens.append(await device.register(alias="ann"))
    # each push through another node than the device's
    ids = []
    for at, token in enumerate(tokens):
        async with fleet.client((at + 1) % 3) as http:
            pushed = await http.post("/v1/push", json={"target": {"token": token}, "title": f"n{at}"})
            assert pushed.status_code == 201, pushed.text
            ids.append(pushed.json()["id"])
    for at, device in enumerate(devices):
        assert (await device.note(ack=True))["title"] == f"n{at}"
    async with fleet.client(0) as http:
        batch = await http.post("/v1/push/batch", json=[{"target": {"token": t}, "title": "many"} for t in tokens])
        lines = [json.loads(line) for line in batch.text.splitlines()]
        assert [line["status"] for line in lines] == [201] * 9
        ids += [line["id"] for line in lines]
        for device in devices:
            assert (await device.note(ack=True))["title"] == "many"
        listed = (await http.get("/v1/registrations?alias=ann")).json()
        assert listed["count"] == 9
        assert {row["token"] for row in listed["registrations"]} == set(tokens)
        assert all(row["connected"] for row in listed["registrations"])
    async with fleet.client(2) as http:
        told: list[dict[str, Any]] = []
        after = 0
        async with asyncio.timeout(PATIENCE_S):
            while len(told) < len(ids):
                page = (await http.get("/v1/receipts", params={"after": after, "wait": 5, "limit": 5})).json()
                told += page["receipts"]
                after = page["cursor"]
    assert sorted(row["push"] for row in told) == sorted(ids)
    assert [row["cursor"] for row in told] == sorted(row["cursor"] for row in told)
    for device in devices:
        device.close()


@pytest.mark.slow
async def test_a_push_to_an_alias_is_one_push_wherever_it_is_looked_up(fleet: Real) -> None:
    devices = [fleet.device(at % 3) for at in range(8)]
    for device in devices:
        await device.login()
        await device.register(alias="ann")
    async with fleet.client(1) as http:
        pushed = await http.post("/v1/push", json={"target": {"alias": "ann"}, "title": "all of you"})
        assert pushed.status_code == 201, pushed.text
    path = f"/v1/push/{pushed.json()['id']}"
    for device in devices:
        assert (await device.note(ack=True))["title"] == "all of you"
    for node in range(3):
        async with fleet.client(node) as http:

            async def acked(http: httpx.AsyncClient = http) -> bool:
                return bool((await http.get(path)).json()["figures"].get("acked") == 8)

            await until(acked)
            shown = (await http.get(path)).json()
            assert (shown["state"], shown["figures"]["targeted"], len(shown["deliveries"])) == ("done", 8, 8)
            found = []
            offset: int | None = 0
            while offset is not None:
                page = (await http.get(path, params={"offset": offset, "limit": 3})).json()
                found += [row["token"] for row in page["deliveries"]]
                offset = page["next_offset"]
            assert sorted(found) == sorted(row["token"] for row in shown["deliveries"])
            counted = (await http.get(path + "/statistics")).json()
            assert (counted["targeted"], counted["acked"], counted["versions"]["1.0"]["acked"]) == (8, 8, 8)
    for device in devices:
        device.close()


@pytest.mark.slow
async def test_a_stream_at_any_node_reaches_devices_at_all(fleet: Real) -> None:
    devices = [fleet.device(at % 3) for at in range(6)]
    tokens = [await device.join() for device in devices]
    link = fleet.device(2)
    await link.connect()
    link.send(FrameType.HELLO, {"v": 1, "role": "provider", "key": fleet.key})
    await link.receive(FrameType.WELCOME)
    link.send(FrameType.RECEIPTS, {"req": 1, "after": 0})
    await link.receive(FrameType.DONE)
    link.send(FrameType.PUSH, {"req": 2, "pushes": [{"target": {"token": t}, "title": "s"} for t in tokens]})
    results = (await link.receive(FrameType.PUSHED))["results"]
    for device in devices:
        assert (await device.note(ack=True))["title"] == "s"
    told: list[str] = []
    while len(told) < 6:
        told += [row["push"] for row in (await link.receive(FrameType.RECEIPT))["receipts"]]
    assert sorted(told) == sorted(results)
    for device in (*devices, link):
        device.close()


@pytest.mark.slow
async def test_when_a_node_goes_its_partitions_answer_through_all_others(fleet: Real) -> None:
    devices = [fleet.device(0) for _ in range(12)]
    tokens = [await device.join() for device in devices]
    gone = fleet.nodes.pop()
    owned = set(gone.cores)
    await gone.drain()
    await gone.stop()
    await fleet.settled()
    assert owned
    async with fleet.client(1) as http:
        for token in tokens:

            async def pushed(token: str = token) -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await http.post("/v1/push", json={"target": {"token": token}})).status_code == 201
                return False

            await until(pushed)
        for device in devices:
            await device.note(ack=True)
        async with fleet.client(0, key=fleet.admin) as operator:
            patched = await operator.patch("/v1/apps/shop", json={"ttl": 60})
            assert patched.status_code == 200, patched.text
    for device in devices:
        device.close()
