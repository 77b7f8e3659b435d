"""An import that is repeated: with fewer partitions, in a name that had a fleet before, beside a node's old folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_import_and_journals import adopt
from test_import_steps import Broken, Scene, make_store

from gateway.cluster import follower
from gateway.cluster.fleet_identity import fleet_identity
from gateway.cluster.fleet_records import FLEET, parse_fleet
from gateway.cluster.import_record import IMPORT, parse_import
from gateway.cluster.jetstream import JetStream
from gateway.cluster.journal_past import Pasts
from gateway.cluster.journal_records import journal_stream, journal_subject
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.snapshots import Snapshots
from gateway.config.cluster_section import Cluster
from gateway.fleet import store_import
from gateway.model.errors import ConfigError
from gateway.store.keys import ServerKeys
from gateway.store.moved import MOVED_FILE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
async def scene(tmp_path: Path, fleet_settings: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(follower, "LOOK_S", 0.5)
    scene = Scene(tmp_path, fleet_settings())
    await make_store(scene.store)
    return scene


async def test_a_nodes_folder_of_an_earlier_import_does_not_stand_against_the_next(scene: Scene) -> None:
    """The same store and name, so the folder says that it is this fleet's: the import's own record knows better."""
    await scene.run()
    async with scene.link() as link:
        await (await adopt(scene, link, "one", 1)).close()
        js = JetStream(link)
        for stream in await js.names():
            if stream.removeprefix("KV_").startswith(f"{scene.config.cluster.name}_"):
                await js.api(f"STREAM.DELETE.{stream}")
        (scene.store / MOVED_FILE).unlink()
        await scene.run()
        leases = KvLeases(link, scene.config.cluster)
        assert await Pasts(leases).known() == set(range(scene.config.cluster.partitions))
        entry = await leases.get(FLEET)
        assert entry is not None
        key = ServerKeys.load(scene.store, may_create=False).token_key
        assert parse_fleet(entry.value).ident == fleet_identity(scene.config.cluster.name, key).ident
        store = await adopt(scene, link, "one", 2)
        assert store.directory.app("shop") is not None
        await store.close()


async def test_what_a_try_with_more_partitions_made_is_gone_and_nothing_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, many, few = scene.config.cluster.name, scene.config.cluster, 2
    async with scene.link() as link:
        js, leases = JetStream(link), KvLeases(link, many)
        not_ours = journal_stream(name, 9)
        await js.ensure({"name": not_ours, "subjects": [journal_subject(name, 9)]})  # nothing is in it

        async def breaks(*_: Any) -> None:
            raise Broken

        with monkeypatch.context() as patch:
            patch.setattr(store_import._Importer, "_broadcasts", breaks)
            with pytest.raises(Broken):
                await scene.run()
        scene.config.cluster = dataclasses.replace(many, partitions=few)
        # and once more broken off, before anything was removed: what the first try made is still known
        with monkeypatch.context() as patch:
            patch.setattr(store_import._Importer, "_read", breaks)
            with pytest.raises(Broken):
                await scene.run()
        await scene.run()
        journals = [journal_stream(name, partition) for partition in range(few)]
        assert await js.names(f"{name}.journal.>") == [*journals, not_ours]
        snapshots = Snapshots(link, many)
        assert [await snapshots.find(partition) is not None for partition in range(4)] == [True, True, False, False]
        assert await Pasts(leases).known() == set(range(few))
        entry = await leases.get(IMPORT)
        assert entry is not None
        assert parse_import(entry.value).partitions == few


async def test_a_journal_of_more_partitions_than_are_wanted_keeps_an_import_out(scene: Scene) -> None:
    name = scene.config.cluster.name
    async with scene.link() as link:
        js = JetStream(link)
        await js.ensure({"name": journal_stream(name, 9), "subjects": [journal_subject(name, 9)]})
        await js.publish(journal_subject(name, 9), b"", {})
    with pytest.raises(ConfigError, match=f"{name}_J_9 has messages"):
        await scene.run()
