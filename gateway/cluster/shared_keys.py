"""Keys that all nodes of a fleet share, and the operator's: made by the first node, sealed under the fleet's secret and
kept with its records; must never be made a second time.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway.auth.admin_key import FILE_NAME, load_or_create
from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_records import KEYS
from gateway.cluster.key_record import FleetSeal, OpenedKeys, open_keys
from gateway.cluster.leases import Changed, Leases
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.store.environment import DATA_FILE
from gateway.store.keys import KEY_FILE, ServerKeys, write_secret_file


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


async def share_keys(config: Config, leases: Leases) -> FleetKeys:
    """Written into the node's folder too, where local tools look for them. ConfigError.

    Keys that are in the first node's folder become the fleet's: those of a gateway alone that was there before, so that
    tokens and device secrets stay good."""
    seal = FleetSeal.of(config.cluster)
    folder = Path(config.store.path)
    _make_folder(folder)
    _check_folder(folder)
    found = await patiently(partial(_find_or_make, leases, seal, folder))
    write_secret_file(folder / KEY_FILE, found.server.build())
    write_secret_file(folder / FILE_NAME, found.admin + b"\n")
    admin = load_or_create(folder / FILE_NAME)
    return FleetKeys(found.server, folder / FILE_NAME, admin.hash, seal, found.revision)


async def _find_or_make(leases: Leases, seal: FleetSeal, folder: Path) -> OpenedKeys:
    while True:
        entry = await leases.get(KEYS)
        if entry is not None:
            return open_keys(seal, entry.value, folder, entry.revision)
        server = ServerKeys.load(folder, may_create=True)
        admin = load_or_create(folder / FILE_NAME)
        with suppress(Changed):
            await leases.create(KEYS, OpenedKeys(admin.text.encode(), server).sealed(seal))


def _check_folder(folder: Path) -> None:
    """A node would not read the store of a gateway alone: its pushes would wait there for ever, unseen, and its keys be
    written over."""
    if (folder / DATA_FILE).exists():
        raise ConfigError(
            f"{str(folder)!r} has the store of a gateway alone, and a fleet does not take over its registrations and"
            f" pushes: name another folder. To keep its keys copy {KEY_FILE} and {FILE_NAME} into the first node's"
            " (docs/cluster.md)",
            field="store.path",
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"the folder can not be made: {exc.strerror}", field="store.path") from exc
