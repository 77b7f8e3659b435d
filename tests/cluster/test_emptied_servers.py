"""NATS servers that come up with empty disks, or without the fleet's bucket, under gateways that run: these leave and
say why; started again they begin nothing empty, and go on with all that they had.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from bare_device import BareDevice

from gateway.cli import run
from gateway.cluster.fleet_records import Holding, build, parse_beat, parse_holding, partition_key
from gateway.cluster.jetstream import JetStream
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.model.cluster import partition_of
from gateway.model.frames import FrameType
from gateway.model.registration import parse_token
from gateway.tour.fleet_home import FleetHome, GatewayNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("own_logging")]
PARTITIONS = 4
SETTINGS = (
    "cluster.lease_s=1.0",
    "cluster.beat_s=0.2",
    "cluster.journal_bytes=33554432",
    "cluster.snapshot_bytes=8388608",
)
BUCKET = "KV_heliograph_FLEET"


async def until(true: Callable[[], Awaitable[bool]], what: str, within_s: float = 60.0) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not await true():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it did not come to it: {what}") from None


async def command(home: FleetHome, *words: str) -> int:
    options = [f"--set={each}" for each in home.nodes[0].settings if each.startswith("cluster.")]
    return await asyncio.to_thread(run, ["cluster", *words, *options])


@asynccontextmanager
async def bucket_of(home: FleetHome) -> AsyncIterator[tuple[JetStream, KvLeases]]:
    assert home.nats is not None
    settings = Cluster(url=home.nats.urls, lease_s=4.0)
    link = NatsLink(settings, purpose="test")
    await link.connect()
    yield JetStream(link), KvLeases(link, settings)
    await link.close()


async def empty_servers(home: FleetHome) -> None:
    """All at once, and they start again."""
    assert home.nats is not None
    for server in home.nats.servers:
        server.kill()
    for server in home.nats.servers:
        shutil.rmtree(server.folder / "jetstream")
    await home.nats.start()
    assert all(server.jetstream()["streams"] == 0 for server in home.nats.servers)


async def readiness(home: FleetHome, node: GatewayNode) -> dict[str, Any]:
    """Without an answer: empty."""
    try:
        answer = await home.http.get(f"{node.api}/readyz")
    except httpx.HTTPError:
        return {}
    return {"status": answer.status_code, "unserved": [], **answer.json()}


async def watch_reasons(home: FleetHome, node: GatewayNode) -> set[str]:
    """All that its readiness says until it has ended."""
    said: set[str] = set()
    while node.is_running:
        said.update((await readiness(home, node)).get("reasons", ()))
        await asyncio.sleep(0.02)
    return said


async def left(node: GatewayNode, what: str) -> None:
    """It ended by itself, with its code, and its last words say what and what to do."""
    words = " ".join(node.last_words().split())
    assert await node.terminate() == 2, words
    assert f"cluster.url: the fleet's records (bucket heliograph_FLEET) {what}" in words
    assert "Start it again with the same store.path" in words


class Scene:
    """An app, and a device that is registered."""

    def __init__(self, home: FleetHome) -> None:
        self.home = home
        self.key = self.token = ""
        self.ids: set[int] = set()  # of what it has shown
        self.device = BareDevice(home.nodes[0].device_port, home.nodes[0].host)

    async def begin(self) -> None:
        operator = {"authorization": f"Bearer {self.home.admin_key()}"}
        made = await self.home.http.post(f"{self.home.nodes[0].api}/v1/apps", json={"name": "shop"}, headers=operator)
        assert made.status_code == 201, made.text
        self.key = made.json()["key"]
        self.token = await self.device.join()

    @property
    def partition(self) -> int:
        return partition_of(parse_token(self.token) or b"", PARTITIONS)

    async def push(self, node: int, title: str, target: dict[str, Any] | None = None) -> httpx.Response:
        body = {"target": target or {"token": self.token}, "title": title, "ttl": 3600}
        return await self.home.http.post(
            f"{self.home.nodes[node].api}/v1/push", json=body, headers={"authorization": f"Bearer {self.key}"}
        )

    async def accepted(self, node: int, title: str, target: dict[str, Any] | None = None) -> str:
        answer = await self.push(node, title, target)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def comes(self, *titles: str) -> None:
        """To the device, on a new link, in any order, and shown once each. By its id: the last acks may be lost."""
        if not self.device.closed:
            self.device.close()
            await self.device.end()
        assert await self.device.join() == self.token
        shown: list[str] = []
        while len(shown) < len(titles):
            shown += await self.show(timeout_s=30)
        await self.device.sync()
        while self.device.waiting():
            shown += await self.show()
        assert sorted(shown) == sorted(titles)

    async def show(self, timeout_s: float = 10.0) -> list[str]:
        """The title of the next that comes; nothing where it was shown before."""
        note = await self.device.note(ack=True, timeout_s=timeout_s)
        if note["id"] in self.ids:
            return []
        self.ids.add(note["id"])
        return [note["title"]]


async def test_gateways_leave_emptied_servers_and_started_again_begin_nothing_empty_and_deliver_what_they_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*SETTINGS, "cluster.standbys=0")  # so that no node has a folder of each partition
    async with FleetHome(tmp_path, nodes=3, nats=3, partitions=PARTITIONS, settings=settings) as home:
        scene = Scene(home)
        await scene.begin()
        await scene.accepted(1, "to all", {"everyone": True})
        assert await scene.show() == ["to all"]
        await scene.device.sync()
        scene.device.close()
        await scene.device.end()
        before = await scene.accepted(0, "before")
        watching = [asyncio.create_task(watch_reasons(home, node)) for node in home.nodes]
        await empty_servers(home)
        async with asyncio.timeout(90):
            said = await asyncio.gather(*watching)
        for node, reasons in zip(home.nodes, said, strict=True):
            await left(node, "are gone from the NATS servers")
            assert "the NATS servers do not have the fleet's records" in reasons, reasons
        # one comes back long before the others, and takes nothing for new that was in a folder of theirs
        first = home.nodes[0]
        await first.spawn()
        await first.until_serving()

        async def all_refused() -> bool:
            return await first.figure(home.http, "heliograph_partitions_refused") == PARTITIONS

        await until(all_refused, "the node that came first refuses all partitions")
        assert await first.figure(home.http, "heliograph_partitions_owned") == 0
        for node in home.nodes[1:]:
            await node.spawn()
        await asyncio.gather(*(node.until_serving() for node in home.nodes))
        assert (await scene.push(0, "meanwhile")).status_code == 503
        for partition in range(PARTITIONS):

            async def has_copy(partition: int = partition) -> bool:
                """In NATS: brought there by the node whose folder it was."""
                capsys.readouterr()
                await command(home, "recover", str(partition), "--json")
                survey = json.loads(capsys.readouterr().out)
                return any(copy["in_nats"] and copy["place"] >= survey["had"] for copy in survey["copies"])

            await until(has_copy, f"a whole copy of partition {partition}")
            assert await command(home, "recover", str(partition), "--yes") == 0, capsys.readouterr().err
        await home.until_ready()
        numbers = await numbers_of(home)
        assert len(numbers) == 3
        assert await command(home, "status") == 0
        # what was accepted before is delivered, and what comes; places of broadcasts go on above those before
        headers = {"authorization": f"Bearer {scene.key}"}
        found = await home.http.get(f"{home.nodes[2].api}/v1/push/{before}", headers=headers)
        assert found.status_code == 200, found.text
        await scene.accepted(2, "after")
        await scene.accepted(1, "to all again", {"everyone": True})
        await scene.comes("before", "after", "to all again")
        scene.device.close()


async def numbers_of(home: FleetHome) -> dict[str, int]:
    async with bucket_of(home) as (_, leases):
        beats = [parse_beat(entry.value) for entry in await leases.all() if entry.key.startswith("node.")]
    assert len({beat.number for beat in beats}) == len(beats)
    return {beat.name: beat.number for beat in beats}


async def test_gateways_whose_records_another_one_made_anew_leave_at_once_and_get_other_numbers(tmp_path: Path) -> None:
    async with FleetHome(tmp_path, nodes=3, nats=1, partitions=PARTITIONS, settings=SETTINGS) as home:
        scene = Scene(home)
        await scene.begin()
        before = await numbers_of(home)
        late = home.nodes[2]
        assert await late.terminate() == 0
        assert not scene.device.closed
        await empty_servers(home)
        await late.spawn()
        await late.until_serving()
        for node in home.nodes[:2]:
            async with asyncio.timeout(15):
                await watch_reasons(home, node)
            await left(node, "were made anew on the NATS servers")
            await node.spawn()
        goaway = (await scene.device.end())[-1]
        assert (goaway.kind, goaway.body["name"]) == (FrameType.GOAWAY, "draining")
        assert "host" not in goaway.body  # the others have to leave as well
        await asyncio.gather(*(node.until_serving() for node in home.nodes))
        after = await numbers_of(home)
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())

        async def all_refused() -> bool:
            return all(
                [
                    await node.figure(home.http, "heliograph_partitions_refused") == PARTITIONS
                    and await node.figure(home.http, "heliograph_partitions_owned") == 0
                    for node in home.nodes
                ]
            )

        await until(all_refused, "nothing is begun empty")


async def test_a_bucket_that_somebody_removed_costs_a_restart_and_no_partition(tmp_path: Path) -> None:
    """The journals are whole, and so far ahead of the new records that waiting for these would take for ever."""
    async with FleetHome(tmp_path, nodes=2, nats=1, partitions=PARTITIONS, settings=SETTINGS) as home:
        scene = Scene(home)
        await scene.begin()
        scene.device.close()
        await scene.device.end()
        for node in home.nodes:
            await node.terminate()
        async with bucket_of(home) as (_, leases):
            for partition in range(PARTITIONS):
                entry = await leases.get(partition_key(partition))
                assert entry is not None
                assert parse_holding(entry.value).node == 0
                await leases.update(entry.key, build(Holding(0, 1_000)), entry.revision)
        for number in range(2):
            await home.restart(number)
        await home.until_ready()
        await scene.accepted(0, "before")
        async with bucket_of(home) as (js, _):
            await js.api(f"STREAM.DELETE.{BUCKET}")
        async with asyncio.timeout(60):
            said = await asyncio.gather(*(watch_reasons(home, node) for node in home.nodes))
        for node, reasons in zip(home.nodes, said, strict=True):
            await left(node, "are gone from the NATS servers")
            assert "the NATS servers do not have the fleet's records" in reasons, reasons
        for number in range(2):
            await home.restart(number)
        await home.until_ready()
        await scene.comes("before")
        scene.device.close()
        for node in home.nodes:
            assert "partition_refused" not in node.log_file.read_text()
