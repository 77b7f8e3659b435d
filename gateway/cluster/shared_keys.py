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
from gateway.cluster.leases import Changed, Leases
from gateway.config.cluster import read_secret
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.store.environment import DATA_FILE
from gateway.store.keys import KEY_FILE, ServerKeys, write_secret_file

_NONCE_BYTES = 12
_SPLIT = b"\n"


class FleetKeys(NamedTuple):
    server: ServerKeys
    admin_key_file: Path
    admin_hash: bytes


class FleetSeal:
    """AES-256-GCM under a key of the fleet's secret and name."""

    def __init__(self, secret: bytes, name: str) -> None:
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"heliograph fleet keys " + name.encode())
        self._cipher = AESGCM(key.derive(secret))

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


async def share_keys(config: Config, leases: Leases) -> FleetKeys:
    """Written into the node's folder too, where local tools look for them. ConfigError.

    Keys that are in the first node's folder become the fleet's: those of a gateway alone that was there before, so that
    tokens and device secrets stay good."""
    seal = FleetSeal(read_secret(config.cluster), config.cluster.name)
    folder = Path(config.store.path)
    _make_folder(folder)
    _check_folder(folder)
    # whose keys an import brings must not have others in its folder
    await patiently(partial(finished_import, leases))
    sealed = await patiently(partial(_find_or_make, leases, seal, folder))
    admin_text, _, server_text = seal.open(sealed).partition(_SPLIT)
    write_secret_file(folder / KEY_FILE, server_text)
    write_secret_file(folder / FILE_NAME, admin_text + b"\n")
    admin = load_or_create(folder / FILE_NAME)
    return FleetKeys(ServerKeys.load(folder, may_create=False), folder / FILE_NAME, admin.hash)


async def _find_or_make(leases: Leases, seal: FleetSeal, folder: Path) -> bytes:
    while True:
        entry = await leases.get(KEYS)
        if entry is not None:
            return entry.value
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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"the folder can not be made: {exc.strerror}", field="store.path") from exc
