"""Keys that all nodes of a fleet share, and the operator's: made by the first node, sealed under the fleet's secret and
kept with its records; must never be readable without that secret, nor made a second time.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.auth.admin_key import FILE_NAME, load_or_create
from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_identity import FleetIdentity, fleet_identity
from gateway.cluster.fleet_records import KEYS
from gateway.cluster.import_record import finished_import
from gateway.cluster.journal_past import Pasts
from gateway.cluster.leases import Changed, Entry, InDoubt, Leases
from gateway.cluster.remembered_pasts import RememberedPasts, remembers
from gateway.config.cluster import read_secret
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Config
from gateway.model.errors import ConfigError, LogUnavailable
from gateway.store.environment import DATA_FILE, is_of_node
from gateway.store.keys import KEY_FILE, ServerKeys, write_secret_file

_log = structlog.get_logger(__name__)

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
    #: tells this fleet from others, and from an earlier one of its name
    ident: str

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
    tokens and device secrets stay good. And before a bucket has keys, without which no node gets on, it is told of the
    journals that this node remembers of its fleet: nobody may begin one of those empty meanwhile."""
    seal = FleetSeal.of(config.cluster)
    folder = Path(config.store.path)
    _make_folder(folder)
    _check_folder(folder)
    # whose keys an import brings must not have others in its folder
    await patiently(partial(finished_import, leases))
    found = open_keys(seal, await patiently(partial(_find_or_make, config, leases, seal)), folder)
    fleet = fleet_identity(config.cluster.name, found.server.token_key)
    await patiently(partial(_tell_pasts, config, leases, fleet))
    _keep_others(folder, found.server, config.cluster.name)
    write_secret_file(folder / KEY_FILE, found.server.build())
    write_secret_file(folder / FILE_NAME, f"{found.admin}\n".encode())
    admin = load_or_create(folder / FILE_NAME)
    return FleetKeys(found.server, folder / FILE_NAME, admin.hash, seal, found.revision, fleet.ident)


async def _find_or_make(config: Config, leases: Leases, seal: FleetSeal) -> Entry:
    folder, name = Path(config.store.path), config.cluster.name
    while True:
        entry = await leases.get(KEYS)
        if entry is not None:
            return entry
        server = ServerKeys.load(folder, may_create=not remembers(folder, name))
        await _tell_pasts(config, leases, fleet_identity(name, server.token_key))
        admin = load_or_create(folder / FILE_NAME)
        with suppress(Changed):
            await leases.create(KEYS, seal.seal(build_shared(admin.text, server.path.read_bytes())))


async def _tell_pasts(config: Config, leases: Leases, fleet: FleetIdentity) -> None:
    memory = RememberedPasts(Path(config.store.path), fleet, await leases.made())
    try:
        await memory.tell(Pasts(leases), config.cluster.partitions)
    except LogUnavailable as exc:
        raise InDoubt(exc.message) from exc


def _keep_others(folder: Path, mine: ServerKeys, name: str) -> None:
    """Keys of another fleet whose partitions lie here: without them nothing of those could be read any more."""
    if not is_of_node(folder):
        return
    try:
        found = ServerKeys.parse(folder / KEY_FILE, (folder / KEY_FILE).read_bytes())
    except (OSError, ConfigError):
        return  # there are none, or none that are of use
    if found.token_key == mine.token_key:
        return
    ident = fleet_identity(name, found.token_key).ident
    for file in (KEY_FILE, FILE_NAME):
        kept = folder / f"{file}.of-{ident}"
        if (folder / file).exists() and not kept.exists():
            write_secret_file(kept, (folder / file).read_bytes())
    _log.warning(
        "keys_of_another_fleet_kept",
        kept=str(folder / f"{KEY_FILE}.of-{ident}"),
        consequence="this node uses the keys of its fleet; remove the file when nobody asks for the other's data",
    )


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"the folder can not be made: {exc.strerror}", field="store.path") from exc
