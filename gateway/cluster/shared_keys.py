"""Keys that all nodes of a fleet share, and the operator's: made by the first node, sealed under the fleet's secret and
kept with its records; must never be readable without that secret, nor made a second time.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.auth.admin_key import FILE_NAME, load_or_create
from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_records import KEYS
from gateway.cluster.import_record import finished_import
from gateway.cluster.leases import Changed, Entry, Leases
from gateway.config.cluster import read_secret
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.store.environment import DATA_FILE
from gateway.store.keys import KEY_FILE, ServerKeys, write_secret_file

_NONCE_BYTES = 12
_SPLIT = b"\n"


class FleetKeys(NamedTuple):
    #: `key_watch` changes its device keys while the node runs
    server: ServerKeys
    admin_key_file: Path
    admin_hash: bytes
    seal: FleetSeal
    #: of the record they were read from
    revision: int

    def __repr__(self) -> str:
        return f"FleetKeys(revision={self.revision})"


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


def build_shared(admin: str, server: bytes) -> bytes:
    """Both keys as they are sealed. `server`: the file's bytes."""
    return admin.encode() + _SPLIT + server


class OpenedKeys(NamedTuple):
    """The record without its seal."""

    #: text of the operator's key
    admin: str
    server: ServerKeys
    #: of the record: it rises with each change
    revision: int

    def __repr__(self) -> str:
        return f"OpenedKeys(revision={self.revision})"


def open_keys(seal: FleetSeal, sealed: Entry, folder: Path) -> OpenedKeys:
    """`folder`: where these keys stand, or would stand, in a file. ConfigError."""
    admin, _, server = seal.open(sealed.value).partition(_SPLIT)
    return OpenedKeys(admin.decode(), ServerKeys.parse(folder / KEY_FILE, server), sealed.revision)


async def share_keys(config: Config, leases: Leases) -> FleetKeys:
    """Written into the node's folder too, where local tools look for them. ConfigError.

    Keys that are in the first node's folder become the fleet's: those of a gateway alone that was there before, so that
    tokens and device secrets stay good."""
    seal = FleetSeal.of(config.cluster)
    folder = Path(config.store.path)
    _make_folder(folder)
    _check_folder(folder)
    # whose keys an import brings must not have others in its folder
    await patiently(partial(finished_import, leases))
    found = open_keys(seal, await patiently(partial(_find_or_make, leases, seal, folder)), folder)
    _check_partitions(folder, found.server)
    write_secret_file(folder / KEY_FILE, found.server.build())
    write_secret_file(folder / FILE_NAME, f"{found.admin}\n".encode())
    admin = load_or_create(folder / FILE_NAME)
    return FleetKeys(found.server, folder / FILE_NAME, admin.hash, seal, found.revision)


async def _find_or_make(leases: Leases, seal: FleetSeal, folder: Path) -> Entry:
    while True:
        entry = await leases.get(KEYS)
        if entry is not None:
            return entry
        server = ServerKeys.load(folder, may_create=True)
        admin = load_or_create(folder / FILE_NAME)
        with suppress(Changed):
            await leases.create(KEYS, seal.seal(build_shared(admin.text, server.path.read_bytes())))


def _check_folder(folder: Path) -> None:
    """A node would not read the store of a gateway alone: its pushes would wait there for ever, unseen, and its keys be
    written over."""
    if (folder / DATA_FILE).exists():
        raise ConfigError(
            f"{str(folder)!r} has the store of a gateway alone: `heliograph cluster import` brings all of it into a new"
            f" fleet. Name an empty folder for the node. To keep the keys and nothing else copy {KEY_FILE} and"
            f" {FILE_NAME} into the first node's (docs/cluster.md)",
            field="store.path",
        )


def _check_partitions(folder: Path, fleets: ServerKeys) -> None:
    """Partitions of a folder are worth nothing without the keys they were made under, and the only copy of those may be
    the one that would be written over: where all of NATS was lost, and a node with an empty folder came first."""
    if not (folder / KEY_FILE).exists() or not any(folder.glob("partitions/*/data.mdb")):
        return
    mine = ServerKeys.load(folder, may_create=False)
    if (mine.token_key, mine.push_id_key, mine.hash_key) != (fleets.token_key, fleets.push_id_key, fleets.hash_key):
        raise ConfigError(
            f"{str(folder)!r} has partitions under other keys than the fleet's, which would be worth nothing without"
            f" their own {KEY_FILE}. If NATS was lost and a node with an empty folder made new keys: stop all nodes,"
            " remove the fleet's streams, and start a node with such a folder first. If what the folder has is not"
            " wanted: name an empty folder (docs/cluster.md)",
            field="store.path",
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"the folder can not be made: {exc.strerror}", field="store.path") from exc
