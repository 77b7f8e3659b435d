"""What an app entrusts to the gateway is never on the disk in the clear, and is there again after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_rig import open_store

from gateway.model.errors import ConfigError
from gateway.model.registration import App
from gateway.store.records import PUT, Db, build_app, pack_u32
from gateway.store.sealing import Sealer

SECRETS = {
    "apns": {"key": "-----BEGIN PRIVATE KEY-----verysecret"},
    "webhook": {"url": "https://x.example", "secret": "s3cr3t"},
}
APP = App(name="shop", notifiers=SECRETS, receipts_secret="postsecret")


async def test_nothing_of_it_is_readable_in_the_store_and_all_is_there_after_a_restart(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.directory.put_app(APP)
    await store.close()
    raw = (tmp_path / "data.mdb").read_bytes()
    for secret in (b"verysecret", b"s3cr3t", b"postsecret"):
        assert secret not in raw
    store = await open_store(tmp_path)
    app = store.directory.app("shop")
    assert app is not None
    assert (app.notifiers, app.receipts_secret, app.sealed) == (SECRETS, "postsecret", b"")
    await store.close()


async def test_an_app_of_an_older_store_is_read_and_sealed_when_it_changes(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.committer.accept(
        [(PUT, Db.APPS, pack_u32(1), build_app(App(name="shop", number=1, notifiers=SECRETS)))]
    )
    await store.close()
    store = await open_store(tmp_path)
    app = store.directory.app("shop")
    assert app is not None
    assert app.notifiers == SECRETS
    await store.directory.put_app(app)
    assert store._environment.get(Db.APPS, pack_u32(1)).find(b"verysecret") == -1  # type: ignore[union-attr]
    await store.close()


def test_one_apps_settings_do_not_open_for_another_nor_under_another_key() -> None:
    sealed = Sealer(b"k" * 32).seal(APP)
    stolen = App(name="thief", sealed=sealed.sealed)
    for sealer, app in ((Sealer(b"k" * 32), stolen), (Sealer(b"x" * 32), sealed)):
        with pytest.raises(ConfigError, match="belongs to another store") as refused:
            sealer.open(app)
        assert "secret" not in str(refused.value)
    flipped = App(name="shop", sealed=sealed.sealed[:-1] + bytes([sealed.sealed[-1] ^ 1]))
    with pytest.raises(ConfigError):
        Sealer(b"k" * 32).open(flipped)


def test_the_same_settings_are_sealed_differently_each_time() -> None:
    sealer = Sealer(b"k" * 32)
    assert sealer.seal(APP).sealed != sealer.seal(APP).sealed
