"""The record of the keys that all nodes of a fleet share, from outside a node: read, and changed by compare-and-set
alone; must never change more in it than device keys.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_records import KEYS
from gateway.cluster.leases import Changed, Leases
from gateway.cluster.shared_keys import FleetSeal, OpenedKeys, build_shared, open_keys
from gateway.model.errors import ConfigError
from gateway.store.device_keys import DeviceKeyRing
from gateway.store.keys import ServerKeys


class KeyRecord:
    """Every call may raise ConfigError: no answer for long, another secret."""

    def __init__(self, leases: Leases, seal: FleetSeal) -> None:
        self._leases = leases
        self._seal = seal

    async def read(self) -> OpenedKeys:
        """As the majority has it."""
        entry = await patiently(partial(self._leases.get, KEYS))
        if entry is None:
            raise ConfigError("the fleet has no keys yet: its first node makes them", field="cluster.name")
        return open_keys(self._seal, entry, Path())

    async def change(self, found: OpenedKeys, ring: DeviceKeyRing) -> OpenedKeys:
        """Other device keys, and nothing else. Changed: the record is not what was found any more."""
        server = ServerKeys.parse(found.server.path, found.server.build())
        server.take(ring)
        # a nonce of its own tells this change from anybody else's, whatever became of the answer
        sealed = self._seal.seal(build_shared(found.admin, server.build()))
        revision = await patiently(partial(self._write, sealed, found.revision))
        return OpenedKeys(found.admin, server, revision)

    async def _write(self, sealed: bytes, revision: int) -> int:
        try:
            return await self._leases.update(KEYS, sealed, revision)
        except Changed:
            entry = await self._leases.get(KEYS)
            if entry is not None and entry.value == sealed:  # it was in doubt, and is carried out
                return entry.revision
            raise
