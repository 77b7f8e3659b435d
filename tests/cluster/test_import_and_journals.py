"""What an import makes, and other commands of a fleet: a lost snapshot is seen, nothing else begins before its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from test_import_steps import Scene, make_store

from gateway.cli.cluster import what_is_wrong
from gateway.cluster import fleet_status, follower, recovery
from gateway.cluster.adoption import PartitionStores
from gateway.cluster.import_record import IMPORT, build_import, parse_import
from gateway.cluster.jetstream import JetStream
from gateway.cluster.journal_past import JournalLacking, JournalUnusable
from gateway.cluster.key_record import KeyRecord
from gateway.cluster.key_rotation import KeyRotation
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.shared_keys import FleetSeal
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.errors import ConfigError
from gateway.store import Store
from gateway.store.keys import ServerKeys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
async def scene(tmp_path: Path, fleet_settings: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(follower, "LOOK_S", 0.5)
    scene = Scene(tmp_path, fleet_settings())
    await make_store(scene.store)
    await scene.run()
    return scene


async def adopt(scene: Scene, link: NatsLink, name: str, epoch: int) -> Store:
    settings = dataclasses.replace(scene.config.cluster, node=name)
    keys = ServerKeys.load(scene.store, may_create=False)
    folder = StoreConfig(path=str(scene.path / name), max_bytes=1 << 26)
    stores = PartitionStores(link, settings, folder, keys, KvLeases(link, scene.config.cluster), Metrics(process=False))
    try:
        await stores.tell_of_folders()
        return await stores.open_partition(0, epoch, on_fenced=lambda: None, on_behind=lambda: None)
    finally:
        await stores.close()


async def test_an_imported_partition_without_its_snapshot_is_not_begun_empty(scene: Scene) -> None:
    async with scene.link() as link:
        store = await adopt(scene, link, "one", 1)
        assert store.directory.app("shop") is not None
        await store.close()
        await JetStream(link).api(f"STREAM.DELETE.{scene.config.cluster.name}_S")
        with pytest.raises((JournalUnusable, JournalLacking)):
            await adopt(scene, link, "two", 2)


async def test_while_an_import_is_not_finished_nothing_else_is_begun(scene: Scene) -> None:
    async with scene.link() as link:
        leases = KvLeases(link, scene.config.cluster)
        entry = await leases.get(IMPORT)
        assert entry is not None
        record = msgspec.structs.replace(parse_import(entry.value), done=False)
        await leases.update(IMPORT, build_import(record), entry.revision)
        seal = FleetSeal.of(scene.config.cluster)
        rotation = KeyRotation(leases, KeyRecord(leases, seal), scene.config.cluster, lambda _: None)
        for begin in (rotation.rotate(), rotation.drop(1)):
            with pytest.raises(ConfigError, match="heliograph cluster import"):
                await begin
    work = scene.path / "recovered"
    work.mkdir()
    with pytest.raises(ConfigError, match="heliograph cluster import"):
        await recovery.recover(scene.config, 0, recovery.FURTHEST, work)
    status = await fleet_status.look(scene.config.cluster)
    assert status.importing
    assert "heliograph cluster import" in what_is_wrong(status)
