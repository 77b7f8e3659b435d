"""Fixtures of the unit benchmarks: tokens, and a store in a temporary folder with devices in it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.registration import App, build_token
from gateway.store import Store

ENTRIES = 200_000
LOOKUPS = 20_000


@pytest.fixture(scope="session")
def tokens() -> list[bytes]:
    chance = random.Random(1)
    return [chance.randbytes(16) for _ in range(ENTRIES)]


@pytest.fixture(scope="session")
def wanted(tokens: list[bytes]) -> list[bytes]:
    chance = random.Random(2)
    return [chance.choice(tokens) for _ in range(LOOKUPS)]


class StoreOnDisk:
    """A real store, synced, with some devices; `run` a coroutine on its loop."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.store: Store = self.runner.run(self._open(folder))

    async def _open(self, folder: Path) -> Store:
        store = await Store.open(StoreConfig(path=str(folder), max_bytes=1 << 32), Metrics(process=False))
        await store.directory.put_app(App(name="shop"))
        registered = [store.directory.register(f"device-{n}", "shop", "1.0", "") for n in range(1_000)]
        await store.committer.flush()
        self.numbers = [registration.number for registration, _, _ in registered]
        self.texts = [build_token(registration.token) for registration, _, _ in registered]
        return store

    def close(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[StoreOnDisk]:
    store = StoreOnDisk(tmp_path / "store")
    yield store
    store.close()
