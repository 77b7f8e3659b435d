"""The device keys of a fleet for `heliograph keys`: asks NATS, no node; must never show a key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from gateway.cli.output import say
from gateway.cluster.fleet_lookup import require_fleet
from gateway.cluster.key_record import KeyRecord
from gateway.cluster.key_rotation import KeyRotation, Told
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.shared_keys import FleetSeal
from gateway.config.cluster_section import Cluster
from gateway.config.logging import setup_logging
from gateway.config.sections import Log
from gateway.store.device_keys import DeviceKeyRing

#: until a NATS server answers
_PATIENCE_S = 5.0
_T = TypeVar("_T")


class _Fleet(NamedTuple):
    record: KeyRecord
    rotation: KeyRotation


@asynccontextmanager
async def _opened(settings: Cluster) -> AsyncIterator[_Fleet]:
    seal = FleetSeal.of(settings)
    link = NatsLink(settings, purpose="keys")
    await link.connect(_PATIENCE_S)
    try:
        await require_fleet(link, settings.name)
        leases = KvLeases(link, settings)
        record = KeyRecord(leases, seal)
        yield _Fleet(record, KeyRotation(leases, record, settings, say))
    finally:
        await link.close()


def _run(settings: Cluster, work: Callable[[_Fleet], Awaitable[_T]]) -> _T:
    async def whole() -> _T:
        async with _opened(settings) as fleet:
            return await work(fleet)

    # what is wrong is in the command's own answer, and stdout is for that alone
    setup_logging(Log(level="error", format="text"))
    return asyncio.run(whole())


def read_ring(settings: Cluster) -> DeviceKeyRing:
    async def work(fleet: _Fleet) -> DeviceKeyRing:
        return (await fleet.record.read()).server.ring

    return _run(settings, work)


def rotate(settings: Cluster, *, finish: bool) -> Told:
    return _run(settings, lambda fleet: fleet.rotation.rotate(finish=finish))


def drop(settings: Cluster, key_id: int) -> Told:
    return _run(settings, lambda fleet: fleet.rotation.drop(key_id))
