"""A spool in a temporary folder, a clock in the test's hand, and a fleet that takes pushes in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.cluster.fleet_identity import FleetIdentity, fleet_identity
from gateway.config.sections import Config
from gateway.delivery.request import PushRequest, TargetRequest
from gateway.fleet.spool import Spool
from gateway.fleet.spool_record import Kept, parse_request
from gateway.metrics import Metrics
from gateway.model.errors import GatewayError
from gateway.model.registration import App

APP = App(name="shop", created_at=1)
NOW_MS = 1_800_000_000_000
FATES_S = 3_600
FLEET = fleet_identity("fleet", bytes(16))


def push(title: str = "", token: str = "t", **fields: Any) -> PushRequest:
    return PushRequest(target=TargetRequest(token=token), title=title, **fields)


class Fleet:
    """Owners that know pushes by their keys, as long as the test runs."""

    def __init__(self) -> None:
        self.is_up = False
        self.taken: list[str] = []  # titles, in the order they became pushes
        self.seqs: dict[str, int] = {}
        self.asked = 0
        self.asked_after: list[str] = []  # keys
        #: title → what it is refused with
        self.refuses: dict[str, GatewayError] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.most_running = 0

    def __call__(self) -> bool:
        return self.is_up

    async def take_in(self, kept: Kept) -> int:
        self.asked += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        title = parse_request(kept.request).title
        if title in self.refuses:
            raise self.refuses[title]
        if kept.key not in self.seqs:
            self.seqs[kept.key] = len(self.seqs) + 1
            self.taken.append(title)
        return self.seqs[kept.key]

    async def known(self, kept: Kept) -> int:
        self.asked_after.append(kept.key)
        return self.seqs.get(kept.key, 0)


def open_spool(
    folder: Path,
    metrics: Metrics,
    clock: Callable[[], int],
    *,
    max_bytes: int = 1 << 26,
    fleet: FleetIdentity = FLEET,
) -> Spool:
    config = Config()
    config.cluster.spool = str(folder)
    config.cluster.spool_bytes = max_bytes
    config.delivery.ttl_s = 3_600
    config.store.history_days = FATES_S / 86_400
    return Spool.open(config, metrics, clock, fleet)


class Scene:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = {"max_bytes": 1 << 22} | settings
        self.now_ms = NOW_MS
        self.fleet = Fleet()
        self.metrics = Metrics()
        self.spool = self.open()

    def open(self) -> Spool:
        self.metrics = Metrics()
        return open_spool(self.folder, self.metrics, lambda: self.now_ms, **self.settings)

    async def keep(self, title: str = "", token: str = "t", **fields: Any) -> int:
        return await self.spool.keep(APP, "k1", push(title, token, **fields))

    def start(self) -> None:
        self.spool._sleep = self._soon  # the waits of the spool itself
        self.spool.start(self.fleet.take_in, self.fleet, known=self.fleet.known)

    async def _soon(self, _seconds: float) -> None:
        await asyncio.sleep(0)

    async def drained(self, left: int = 0) -> None:
        self.fleet.is_up = True
        async with asyncio.timeout(60):
            while self.spool.waiting > left:
                await asyncio.sleep(0.001)

    async def restart(self) -> None:
        await self.spool.close()
        self.spool = self.open()

    async def __aenter__(self) -> Scene:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.spool.close()
