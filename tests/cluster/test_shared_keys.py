"""Keys that the nodes of a fleet share: made once, sealed, and the same everywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.admin_key import load_or_create
from gateway.cluster.fleet_identity import FleetIdentity
from gateway.cluster.fleet_records import KEYS
from gateway.cluster.journal_past import Past, Pasts, build, past_key
from gateway.cluster.leases import Bucket, Entry, LocalLeases
from gateway.cluster.remembered_pasts import FILE, RememberedPasts
from gateway.cluster.shared_keys import FleetSeal, share_keys
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.store.keys import KEY_FILE, ServerKeys


def config_of(tmp_path: Path, node: str, secret: bytes = b"s" * 40) -> Config:
    config = Config()
    file = tmp_path / f"{node}.secret"
    file.write_bytes(secret)
    file.chmod(0o600)
    config.cluster.secret_file = str(file)
    config.store.path = str(tmp_path / node)
    return config


def same(one: ServerKeys, other: ServerKeys) -> bool:
    return {**vars(one), "path": None} == {**vars(other), "path": None}


async def test_nodes_that_start_together_have_the_same_keys(tmp_path: Path) -> None:
    bucket = Bucket()
    configs = [config_of(tmp_path, node) for node in "abc"]
    shared = await asyncio.gather(
        *(share_keys(config, LocalLeases(bucket, latency_s=0.001 * n)) for n, config in enumerate(configs))
    )
    assert all(same(keys.server, shared[0].server) for keys in shared)
    assert len({keys.admin_hash for keys in shared}) == 1
    again = await share_keys(configs[0], LocalLeases(bucket))
    assert same(again.server, shared[0].server)
    sealed = bucket.entries[KEYS].value
    admin = load_or_create(shared[0].admin_key_file).text
    assert admin.encode() not in sealed
    assert shared[0].server.token_key not in sealed
    assert shared[0].admin_key_file.stat().st_mode & 0o077 == 0


async def test_an_answer_that_was_lost_makes_no_second_keys(tmp_path: Path) -> None:
    bucket = Bucket()
    leases = LocalLeases(bucket)
    leases.loses_answers = True
    sharing = asyncio.create_task(share_keys(config_of(tmp_path, "a"), leases))
    await asyncio.sleep(0.25)
    leases.loses_answers = False
    first = await sharing
    second = await share_keys(config_of(tmp_path, "b"), LocalLeases(bucket))
    assert same(first.server, second.server)


async def test_another_secret_is_a_clear_error_and_writes_nothing(tmp_path: Path) -> None:
    bucket = Bucket()
    await share_keys(config_of(tmp_path, "a"), LocalLeases(bucket))
    with pytest.raises(ConfigError) as caught:
        await share_keys(config_of(tmp_path, "b", b"t" * 40), LocalLeases(bucket))
    assert caught.value.field == "cluster.secret_file"
    assert not (tmp_path / "b" / "keys.json").exists()


async def test_keys_in_the_folder_of_the_first_node_become_the_fleets(tmp_path: Path) -> None:
    bucket = Bucket()
    config = config_of(tmp_path, "a")
    folder = Path(config.store.path)
    folder.mkdir()
    alone = ServerKeys.load(folder, may_create=True)
    keys = await share_keys(config, LocalLeases(bucket))
    assert same(keys.server, alone)
    assert same((await share_keys(config_of(tmp_path, "b"), LocalLeases(bucket))).server, alone)


@pytest.mark.parametrize("is_first", [True, False])
async def test_the_store_of_a_gateway_alone_is_refused_and_keeps_its_keys(tmp_path: Path, is_first: bool) -> None:
    bucket = Bucket()
    if not is_first:
        await share_keys(config_of(tmp_path, "a"), LocalLeases(bucket))
    config = config_of(tmp_path, "b")
    folder = Path(config.store.path)
    folder.mkdir()
    alone = ServerKeys.load(folder, may_create=True)
    (folder / "data.mdb").write_bytes(b"")
    with pytest.raises(ConfigError, match="gateway alone") as caught:
        await share_keys(config, LocalLeases(bucket))
    assert caught.value.field == "store.path"
    assert same(ServerKeys.load(folder, may_create=False), alone)
    assert (KEYS in bucket.entries) is not is_first


async def remember(config: Config, ident: str, bucket: str) -> bytes:
    """A journal that the node had heard of; what the file has."""
    folder = Path(config.store.path)
    memory = RememberedPasts(folder, FleetIdentity(config.cluster.name, ident), bucket)
    memory.hear(Entry(past_key(3), build(Past("made", 700)), 1))
    await memory.close()
    return (folder / FILE).read_bytes()


async def test_a_node_that_remembers_journals_keeps_out_of_a_fleet_that_one_without_a_folder_made(
    tmp_path: Path,
) -> None:
    """All of NATS was lost, and a node that never was in the fleet came first: it would seem whole."""
    config = config_of(tmp_path, "a")
    folder = Path(config.store.path)
    had = await share_keys(config, LocalLeases(Bucket("old")))
    remembered = await remember(config, had.ident, "old")
    bucket = Bucket("new")
    await share_keys(config_of(tmp_path, "new"), LocalLeases(bucket))
    with pytest.raises(ConfigError, match="stop all nodes, remove the fleet's streams, and start this node") as caught:
        await share_keys(config, LocalLeases(bucket))
    assert caught.value.field == "store.path"
    # all is as it was, so doing what the error says brings all back
    assert same(ServerKeys.load(folder, may_create=False), had.server)
    assert load_or_create(had.admin_key_file).hash == had.admin_hash
    assert (folder / FILE).read_bytes() == remembered
    assert await Pasts(LocalLeases(bucket)).known() == set()
    again = Bucket("again")
    assert same((await share_keys(config, LocalLeases(again))).server, had.server)
    assert await Pasts(LocalLeases(again)).known() == {3}


async def test_a_bucket_is_told_of_journals_before_it_has_keys(tmp_path: Path) -> None:
    """A node with an empty folder that starts together with this one waits for keys, and then knows."""
    config = config_of(tmp_path, "a")
    had = await share_keys(config, LocalLeases(Bucket("old")))
    await remember(config, had.ident, "old")
    bucket = Bucket("new")
    revisions: dict[str, int] = {}

    class Written(LocalLeases):
        async def create(self, key: str, value: bytes) -> int:
            revisions[key] = await super().create(key, value)
            return revisions[key]

    await share_keys(config, Written(bucket))
    assert revisions[past_key(3)] < revisions[KEYS]


async def test_a_node_that_remembers_journals_and_lost_its_keys_makes_no_others(tmp_path: Path) -> None:
    config = config_of(tmp_path, "a")
    had = await share_keys(config, LocalLeases(Bucket("old")))
    await remember(config, had.ident, "old")
    (Path(config.store.path) / KEY_FILE).unlink()
    bucket = Bucket("new")
    with pytest.raises(ConfigError, match="put it back"):
        await share_keys(config, LocalLeases(bucket))
    assert KEYS not in bucket.entries
    assert not (Path(config.store.path) / KEY_FILE).exists()


@given(st.binary(max_size=200))
def test_garbage_does_not_open(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        FleetSeal(b"s" * 40, "x").open(raw)


@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(1, 255))
def test_what_was_sealed_opens_as_it_was_and_not_after_a_change(plain: bytes, at: int, flip: int) -> None:
    seal = FleetSeal(b"s" * 40, "x")
    sealed = seal.seal(plain)
    assert seal.open(sealed) == plain
    broken = bytearray(sealed)
    broken[at % len(broken)] ^= flip
    with pytest.raises(ConfigError):
        seal.open(bytes(broken))
    with pytest.raises(ConfigError):
        FleetSeal(b"s" * 40, "y").open(sealed)
