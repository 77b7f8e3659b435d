"""A store built in bulk is one the gateway made itself, as far as the gateway can tell."""

from pathlib import Path

import pytest

from bench.system import big_store, restart
from bench.system.big_store import APP, account_of, device_id, version_of
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.errors import UnknownToken
from gateway.model.registration import build_token
from gateway.store.store import Store

REGISTRATIONS, PENDING = 500, 50


async def test_a_store_built_in_bulk_is_recovered_with_all_its_rows(tmp_path: Path) -> None:
    built = await big_store.build(tmp_path / "store", REGISTRATIONS, PENDING)
    store = await Store.open(StoreConfig(path=str(built.folder)), Metrics())
    try:
        directory = store.directory
        assert (len(directory.registry), directory.app_names()) == (REGISTRATIONS, [APP])
        assert store.journal.pending_count() == PENDING
        for number in (1, 10, REGISTRATIONS):
            # the triple is known: nothing is made, nothing written
            known, created, written = directory.register(device_id(number), APP, version_of(number), account_of(number))
            assert (known.number, created, written) == (number, False, None)
            assert directory.find(build_token(known.token), APP) == number
            assert directory.device_registrations(device_id(number)) == [number]
            assert directory.registration(number).device == device_id(number)  # type: ignore[union-attr]
        fresh, created, _ = directory.register("somebody", APP, "1.0", "new")
        assert (fresh.number, created) == (REGISTRATIONS + 1, True)
        with pytest.raises(UnknownToken):
            directory.update(REGISTRATIONS + 2, alias="x")
    finally:
        await store.close()


async def test_a_device_of_such_a_store_gets_its_pending_push_from_a_gateway(tmp_path: Path) -> None:
    built = await big_store.build(tmp_path / "store", REGISTRATIONS, PENDING)
    measured = await restart.measure(built)
    assert measured.n == REGISTRATIONS
    assert 0 < measured.more["login_s"] <= (measured.value or 0)
