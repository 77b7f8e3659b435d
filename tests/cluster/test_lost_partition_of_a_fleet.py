"""A partition of real gateways whose journal somebody removed: all others go on, every node and the status tell of it,
and a command brings it back with what it had. And what looks like a loss, and is none.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from bare_device import BareDevice

from gateway.cli import run
from gateway.cluster.fleet_identity import FleetIdentity
from gateway.cluster.jetstream import JetStream
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.partition_folder import PartitionFolder
from gateway.cluster.remembered_pasts import FILE
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Store
from gateway.model.cluster import partition_of
from gateway.model.registration import parse_token
from gateway.tour.fleet_home import FleetHome, GatewayNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.usefixtures("own_logging")]
PARTITIONS = 4
SETTINGS = (
    "cluster.lease_s=1.0",
    "cluster.beat_s=0.2",
    "cluster.journal_bytes=33554432",
    "cluster.snapshot_bytes=8388608",
)


async def until(true: Callable[[], Awaitable[bool]], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not await true():
            await asyncio.sleep(0.05)


async def command(home: FleetHome, *words: str) -> int:
    node = home.nodes[0]
    options = [f"--set={each}" for each in node.settings if each.startswith("cluster.")]
    return await asyncio.to_thread(run, ["cluster", *words, *options])


async def readiness(home: FleetHome, node: GatewayNode) -> dict[str, Any]:
    answer = await home.http.get(f"{node.api}/readyz")
    return {"status": answer.status_code, "unserved": [], **answer.json()}


async def remove_journal(home: FleetHome, partition: int) -> None:
    assert home.nats is not None
    link = NatsLink(Cluster(url=home.nats.urls), purpose="test")
    await link.connect()
    await JetStream(link).api(f"STREAM.DELETE.heliograph_J_{partition}")
    await link.close()


class Scene:
    """An app, and a device that is registered and away."""

    def __init__(self, home: FleetHome) -> None:
        self.home = home
        self.key = self.token = ""
        self.secret: Any = None
        self.partition = -1

    async def begin(self) -> None:
        operator = {"authorization": f"Bearer {self.home.admin_key()}"}
        made = await self.home.http.post(f"{self.home.nodes[0].api}/v1/apps", json={"name": "shop"}, headers=operator)
        assert made.status_code == 201, made.text
        self.key = made.json()["key"]
        while self.partition < 1:  # 0 has the apps, which is another story
            device = BareDevice(self.home.nodes[0].device_port, self.home.nodes[0].host)
            self.token = await device.join()
            device.close()
            self.partition = partition_of(parse_token(self.token) or b"", PARTITIONS)

    async def push(self, node: int, title: str, **more: Any) -> Any:
        body = {"target": {"token": self.token}, "title": title, **more}
        return await self.home.http.post(
            f"{self.home.nodes[node].api}/v1/push", json=body, headers={"authorization": f"Bearer {self.key}"}
        )

    async def shown(self, node: int, push: str) -> int:
        answer = await self.home.http.get(
            f"{self.home.nodes[node].api}/v1/push/{push}", headers={"authorization": f"Bearer {self.key}"}
        )
        return answer.status_code


async def test_a_journal_that_was_removed_costs_its_partition_its_owner_and_a_command_brings_back_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FleetHome(tmp_path, nodes=2, nats=1, partitions=PARTITIONS, settings=SETTINGS) as home:
        scene = Scene(home)
        await scene.begin()
        lost = scene.partition
        assert (await readiness(home, home.nodes[1]))["unserved"] == []
        before = await scene.push(0, "before", ttl=3600)
        assert before.status_code == 201, before.text
        assert await command(home, "recover", str(lost), "--yes") == 1
        assert "serves partition" in capsys.readouterr().err
        for node in home.nodes:
            await node.kill()
        await remove_journal(home, lost)
        for node in home.nodes:
            await node.spawn()
        await asyncio.gather(*(node.until_serving() for node in home.nodes))

        async def is_told() -> bool:
            said = [await readiness(home, node) for node in home.nodes]
            found = [(each["partition"], each["reason"]) for one in said for each in one["unserved"]]
            return len(found) == 2 and all(each[0] == lost and "its journal is gone" in each[1] for each in found)

        await until(is_told)
        said = await readiness(home, home.nodes[0])
        # a balancer that takes out every node would make it worse
        assert (said["status"], said["ready"], said["reasons"]) == (200, True, [])
        assert said["unserved"][0]["for_s"] > 3.0

        async def is_counted() -> bool:
            names = ("heliograph_partitions_stranded", "heliograph_partitions_refused")
            return [await home.nodes[1].figure(home.http, name) for name in names] == [1, 1]

        await until(is_counted)  # with the node's next turn
        assert (await scene.push(0, "meanwhile")).status_code == 503
        capsys.readouterr()
        assert await command(home, "status", "--json") == 1
        status = capsys.readouterr()
        told = json.loads(status.out)["partitions"]
        assert [each["partition"] for each in told if each["problem"]] == [lost]
        assert f"heliograph cluster recover {lost}" in status.err
        # what there is, and nothing done
        assert await command(home, "recover", str(lost)) == 1
        tale = capsys.readouterr()
        assert "snapshot" in tale.out
        assert "nothing was changed" in tale.err
        assert "what it had" not in tale.err
        assert (await readiness(home, home.nodes[0]))["unserved"]
        assert await command(home, "recover", str(lost), "--yes", "--json") == 0
        done = json.loads(capsys.readouterr().out)
        assert (done["partition"], done["source"], done["place"]) == (lost, "snapshot", done["had"])
        await home.until_ready()
        await until(lambda: _is(readiness(home, home.nodes[0]), []))
        # what was accepted before is there, and the device gets it with what comes
        assert await scene.shown(1, before.json()["id"]) == 200
        after = await scene.push(1, "after", ttl=3600)
        assert after.status_code == 201, after.text
        assert await command(home, "status") == 0
        assert await command(home, "recover", str(lost), "--yes") == 1  # once more: it is served
        # and over a restart of all of it
        for node in home.nodes:
            await node.kill()
        for number in range(len(home.nodes)):
            await home.restart(number)
        await home.until_ready()
        assert await scene.shown(0, after.json()["id"]) == 200


async def _is(said: Awaitable[dict[str, Any]], unserved: list[Any]) -> bool:
    return bool((await said)["unserved"] == unserved)


async def test_servers_that_came_up_with_empty_disks_make_no_empty_partitions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bucket is gone too: all that is left are the nodes' folders."""
    async with FleetHome(tmp_path, nodes=2, nats=1, partitions=PARTITIONS, settings=SETTINGS) as home:
        scene = Scene(home)
        await scene.begin()
        before = await scene.push(0, "before", ttl=3600)
        assert before.status_code == 201, before.text
        await all_of_nats_is_lost(home)
        for node in home.nodes:
            await node.spawn()
        await asyncio.gather(*(node.until_serving() for node in home.nodes))
        await until(lambda: are_refused(home, PARTITIONS))
        for partition in range(PARTITIONS):
            assert await command(home, "recover", str(partition), "--yes") == 0, capsys.readouterr().err
        await home.until_ready()
        await until(lambda: is_shown(scene, 1, before.json()["id"]))
        after = await scene.push(1, "after", ttl=3600)
        assert after.status_code == 201, after.text


async def test_nats_servers_that_are_killed_all_at_once_and_other_settings_are_no_loss(tmp_path: Path) -> None:
    """What tells a stream from another is the same after that."""
    async with FleetHome(tmp_path, nodes=2, nats=3, partitions=PARTITIONS, settings=SETTINGS) as home:
        assert home.nats is not None
        scene = Scene(home)
        await scene.begin()
        before = await scene.push(0, "before", ttl=3600)
        assert before.status_code == 201, before.text
        for node in home.nodes:
            await node.kill()
        for server in home.nats.servers:
            server.kill()
        await home.nats.start()
        for number in range(len(home.nodes)):
            await home.restart(number, "cluster.journal_bytes=67108864")
        await home.until_ready()
        assert await scene.shown(1, before.json()["id"]) == 200
        after = await scene.push(1, "after", ttl=3600)
        assert after.status_code == 201, after.text
        # and under running gateways
        for server in home.nats.servers:
            server.kill()
        await asyncio.sleep(2.0)
        await home.nats.start()
        await home.until_ready()

        async def is_there() -> bool:
            return await scene.shown(0, after.json()["id"]) == 200

        await until(is_there)
        for node in home.nodes:
            assert (await readiness(home, node))["unserved"] == []
            assert "partition_refused" not in node.log_file.read_text()


async def test_the_status_tells_of_a_node_with_folders_of_another_fleet_and_every_partition_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = FleetIdentity("shop", "0123456789abcdef")
    for partition in (0, 2):
        folder = PartitionFolder(Store(path=str(tmp_path / "g1" / "store")), partition, other)
        folder.create("made there")
        folder.apply([], 700)
        folder.close()
    async with FleetHome(tmp_path, nodes=1, nats=1, partitions=PARTITIONS, settings=SETTINGS) as home:
        await home.until_ready()
        assert await command(home, "status") == 0
        said = capsys.readouterr()
        assert "node g1 has 2 partition folders of another fleet" in said.err
        assert await command(home, "status", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert [member["strangers"] for member in found["members"]] == [2]
        assert len(found["ident"]) == len(other.ident)


async def an_empty_folder_comes_first(home: FleetHome) -> tuple[Scene, str]:
    """The first node has nothing of what the second one had, and makes a fleet with other keys. The scene of before,
    and a push that was accepted there."""
    empty, _ = home.nodes
    scene = Scene(home)
    await scene.begin()
    before = await scene.push(0, "before", ttl=3600)
    assert before.status_code == 201, before.text
    await empty.terminate()
    await home.until_ready()  # the other one has all of it
    await all_of_nats_is_lost(home)
    shutil.rmtree(empty.store)
    await home.restart(0)
    return scene, before.json()["id"]


async def all_comes_back(home: FleetHome, scene: Scene, push: str, capsys: pytest.CaptureFixture[str]) -> None:
    await home.restart(1)
    await home.restart(0)
    await until(lambda: are_refused(home, PARTITIONS))
    for partition in range(PARTITIONS):
        assert await command(home, "recover", str(partition), "--yes") == 0, capsys.readouterr().err
    await home.until_ready()
    await until(lambda: is_shown(scene, 0, push))


async def test_nodes_that_remember_a_fleet_keep_out_of_one_that_a_node_with_an_empty_folder_made_after_nats_lost_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the error says to do is done, and all comes back."""
    async with FleetHome(tmp_path, nodes=2, nats=1, partitions=PARTITIONS, settings=SETTINGS) as home:
        empty, whole = home.nodes
        scene, before = await an_empty_folder_comes_first(home)
        await whole.spawn()

        async def has_left() -> bool:
            return not whole.is_running

        await until(has_left)
        assert await whole.terminate() == 2
        said = " ".join(whole.last_words().split())
        assert "store.path" in said, said
        assert f"knows of {PARTITIONS} partitions" in said, said
        assert "stop all nodes, remove the fleet's streams, and start this node before any other" in said, said
        assert list(whole.store.rglob("*.of-*")) == []
        await empty.terminate()
        await remove_the_streams(home)
        (empty.store / FILE).unlink()
        await all_comes_back(home, scene, before, capsys)


async def test_a_node_that_forgot_its_fleet_goes_along_with_one_of_an_empty_folder_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an older program, whose folders alone tell. What its log says to do is done, word for word."""
    async with FleetHome(tmp_path, nodes=2, nats=1, partitions=PARTITIONS, settings=SETTINGS) as home:
        _, whole = home.nodes
        scene, before = await an_empty_folder_comes_first(home)
        (whole.store / FILE).unlink()
        await home.restart(1)
        await home.until_ready()
        assert "partition_folders_of_another_fleet" in whole.log_file.read_text()
        assert await command(home, "status") == 0
        assert "node g2 has 4 partition folders of another fleet" in capsys.readouterr().err

        for node in home.nodes:
            await node.terminate()
            (node.store / FILE).unlink()
        await remove_the_streams(home)
        for kept in whole.store.glob("*.of-*"):
            kept.rename(kept.with_name(kept.name.partition(".of-")[0]))
        for kept in (whole.store / "partitions").glob("*.of-*"):
            place = kept.with_name(kept.name.partition(".of-")[0])
            shutil.rmtree(place)
            kept.rename(place)
        await all_comes_back(home, scene, before, capsys)


async def all_of_nats_is_lost(home: FleetHome) -> None:
    assert home.nats is not None
    for node in home.nodes:
        await node.kill()
    server = home.nats.servers[0]
    server.kill()
    shutil.rmtree(server.folder / "store", ignore_errors=True)
    shutil.rmtree(server.folder / "jetstream", ignore_errors=True)
    await home.nats.start()
    assert server.jetstream()["streams"] == 0


async def remove_the_streams(home: FleetHome) -> None:
    assert home.nats is not None
    link = NatsLink(Cluster(url=home.nats.urls), purpose="test")
    await link.connect()
    js = JetStream(link)
    for stream in await js.names():
        await js.api(f"STREAM.DELETE.{stream}")
    await link.close()


async def are_refused(home: FleetHome, count: int) -> bool:
    return await home.nodes[0].figure(home.http, "heliograph_partitions_refused") == count


async def is_shown(scene: Scene, node: int, push: str) -> bool:
    return await scene.shown(node, push) == 200
