"""A fleet under test: three NATS servers and some gateways, all processes of their own on temporary folders, with an
app whose key is known; must never look inside a gateway by another way than its doors and the fleet's records.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import httpx
from nats.js.errors import NoKeysError

from bench.system.stage import APP, BenchFailed
from gateway.cluster.fleet_records import NODE, BadRecord, parse_beat, parse_holding, parse_partition_key
from gateway.model.cluster import partition_of
from gateway.tour.fleet_home import FleetHome, NotStarted

FLEET = "heliograph"
PARTITIONS = 16
SETTLE_S = 90.0
#: looks, a second apart, that must see the same owners
SAME = 3
SETTINGS = ("log.level=warning", "edge.heartbeat_min_s=1", "edge.device_logins_per_minute=0")


class FleetStage:
    """`async with FleetStage(nodes=3) as stage`; gateways are known by their place, from 0."""

    def __init__(self, *settings: str, nodes: int = 3, partitions: int = PARTITIONS) -> None:
        self.partitions = partitions
        self.folder = Path(tempfile.mkdtemp(prefix="heliograph-fleet-"))
        self.home = FleetHome(self.folder, nodes=nodes, partitions=partitions, settings=(*SETTINGS, *settings))
        self.key = ""

    async def __aenter__(self) -> Self:
        try:
            await self.home.start()
            await self.until_settled()
            await self._create_app()
        except NotStarted as exc:
            await self.__aexit__()
            raise BenchFailed(str(exc)[-600:]) from None
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.home.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def device_port(self, node: int) -> int:
        return self.home.nodes[node].device_port

    def api(self, node: int) -> str:
        return self.home.nodes[node].api

    @property
    def urls(self) -> str:
        assert self.home.nats is not None
        return self.home.nats.urls

    async def owners(self) -> list[int]:
        """Of each partition the place of the gateway that serves it; -1: none does now."""
        async with self.jetstream() as js:
            bucket = await js.key_value(f"{FLEET}_FLEET")
            names: dict[int, int] = {}
            found = [0] * self.partitions
            try:
                keys = await bucket.keys()
            except NoKeysError:  # its servers are busy
                return [-1] * self.partitions
            for key in keys:
                with contextlib.suppress(BadRecord):
                    raw = (await bucket.get(key)).value or b""
                    if key.startswith(NODE):
                        beat = parse_beat(raw)
                        names[beat.number] = int(beat.name.removeprefix("g")) - 1
                    elif (partition := parse_partition_key(key)) >= 0:
                        holding = parse_holding(raw)
                        found[partition] = holding.node if holding.ready else 0
        return [names.get(number, -1) for number in found]

    def owner_in(self, owners: list[int], token: bytes) -> int:
        return owners[partition_of(token, self.partitions)]

    @contextlib.asynccontextmanager
    async def jetstream(self) -> AsyncIterator[object]:
        import nats

        client = await nats.connect(self.urls.split(","))
        try:
            yield client.jetstream(timeout=10)
        finally:
            await client.close()

    async def until_settled(self) -> None:
        """Each partition has an owner, every gateway owns some, and it stays so."""
        end = time.monotonic() + SETTLE_S
        before: list[int] = []
        same = 0
        while True:
            owners = await self.owners()
            same = same + 1 if owners == before else 0
            if same >= SAME and -1 not in owners and len(set(owners)) == len(self.home.nodes):
                return
            if time.monotonic() > end:
                raise BenchFailed(f"the fleet did not settle in {SETTLE_S:g} s: owners {owners}")
            before = owners
            await asyncio.sleep(1)

    async def _create_app(self) -> None:
        headers = {"authorization": f"Bearer {self.home.admin_key()}"}
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            answer = await http.post(f"{self.api(0)}/v1/apps", headers=headers, json={"name": APP})
        if answer.status_code != 201:
            raise BenchFailed(f"the app could not be created: {answer.status_code} {answer.text}")
        self.key = str(answer.json()["key"])
