"""The keys that all nodes of a fleet share, as its records hold them: sealed under the fleet's secret, changed by
compare-and-set alone; must never be readable without that secret, nor change what tokens and push ids are made with.
"""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_records import KEYS
from gateway.cluster.leases import Changed, Leases
from gateway.config.cluster import read_secret
from gateway.config.cluster_section import Cluster
from gateway.model.errors import ConfigError
from gateway.store.device_keys import DeviceKeyRing
from gateway.store.keys import KEY_FILE, ServerKeys

_NONCE_BYTES = 12
_SPLIT = b"\n"


class FleetSeal:
    """AES-256-GCM under a key of the fleet's secret and name."""

    def __init__(self, secret: bytes, name: str) -> None:
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"heliograph fleet keys " + name.encode())
        self._cipher = AESGCM(key.derive(secret))

    @classmethod
    def of(cls, settings: Cluster) -> FleetSeal:
        """ConfigError; reads disk."""
        return cls(read_secret(settings), settings.name)

    def seal(self, plain: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, None)

    def open(self, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            raise ConfigError(
                "does not open the fleet's keys: it is another fleet's, or not the same on all nodes",
                field="cluster.secret_file",
            ) from None


class OpenedKeys(NamedTuple):
    """The record without its seal."""

    #: text of the operator's key
    admin: bytes
    server: ServerKeys
    #: of the record: it rises with each change
    revision: int = 0

    def __repr__(self) -> str:
        return f"OpenedKeys(revision={self.revision})"

    def sealed(self, seal: FleetSeal) -> bytes:
        return seal.seal(self.admin + _SPLIT + self.server.build())


def open_keys(seal: FleetSeal, sealed: bytes, folder: Path, revision: int) -> OpenedKeys:
    """`folder`: where these keys stand, or would stand, in a file. ConfigError."""
    admin, _, server = seal.open(sealed).partition(_SPLIT)
    return OpenedKeys(admin, ServerKeys.parse(folder / KEY_FILE, server), revision)


class KeyRecord:
    """The record from outside a node. Every call may raise ConfigError: no answer for long, another secret."""

    def __init__(self, leases: Leases, seal: FleetSeal) -> None:
        self._leases = leases
        self._seal = seal

    async def read(self) -> OpenedKeys:
        """As the majority has it."""
        entry = await patiently(partial(self._leases.get, KEYS))
        if entry is None:
            raise ConfigError("the fleet has no keys yet: its first node makes them", field="cluster.name")
        return open_keys(self._seal, entry.value, Path(), entry.revision)

    async def change(self, found: OpenedKeys, ring: DeviceKeyRing) -> OpenedKeys:
        """Other device keys, and nothing else. Changed: the record is not what was found any more."""
        server = ServerKeys.parse(found.server.path, found.server.build())
        server.take(ring)
        changed = OpenedKeys(found.admin, server)
        # a nonce of its own tells this change from anybody else's, whatever became of the answer
        sealed = changed.sealed(self._seal)
        return changed._replace(revision=await patiently(partial(self._write, sealed, found.revision)))

    async def _write(self, sealed: bytes, revision: int) -> int:
        try:
            return await self._leases.update(KEYS, sealed, revision)
        except Changed:
            entry = await self._leases.get(KEYS)
            if entry is not None and entry.value == sealed:  # it was in doubt, and is carried out
                return entry.revision
            raise
