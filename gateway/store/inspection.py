"""Looks into a store from outside its gateway, running or not; must never write, nor hold a transaction for long."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypedDict

from gateway.config.sections import Store as StoreConfig
from gateway.model.errors import ConfigError
from gateway.model.registration import build_token
from gateway.store.environment import Environment
from gateway.store.im_keys import IM_KEY_IN_USE, wrapping_key
from gateway.store.keys import ServerKeys
from gateway.store.postings import Postings
from gateway.store.records import Db, pack_u32, parse_app, parse_registration, unpack_u32

#: registrations of one device that are shown
MAX_SHOWN = 1_000


class RegistrationFacts(TypedDict):
    """What an operator may see of a registration: no address, and no secret."""

    token: str
    app: str
    version: str
    account: str
    alias: str
    tags: list[str]
    notifiers: list[str]  # those it has an address at
    fallback: list[str] | None
    created_at: int  # Unix seconds
    revoked_at: int


def load_keys(config: StoreConfig) -> ServerKeys:
    """Raises ConfigError where there is no store to read."""
    folder = Path(config.path)
    if not (folder / "data.mdb").exists():
        raise ConfigError("there is no store in this folder", field="store.path")
    return ServerKeys.load(folder, may_create=False)


def app_name(config: StoreConfig, number: int) -> str | None:
    """None where the store has no app of this number."""
    environment = Environment.open(config, readonly=True)
    try:
        raw = environment.get(Db.APPS, pack_u32(number))
    finally:
        environment.close()
    return None if raw is None else parse_app(raw).name


def registrations_of(config: StoreConfig, device: str) -> list[RegistrationFacts]:
    """Committed registrations of a device, by number. Raises ConfigError where there is no store to read."""
    keys = load_keys(config)
    # as Directory.device_registrations finds them
    name = hashlib.blake2b(device.encode("utf-8", "replace"), digest_size=8, key=keys.hash_key).digest()
    environment = Environment.open(config, readonly=True)
    try:
        found = []
        for number in Postings(environment, Db.DEVICES).of(name)[:MAX_SHOWN]:
            raw = environment.get(Db.REGISTRATIONS, pack_u32(number))
            if raw is None:
                continue  # gone between the two reads
            registration = parse_registration(raw)
            if registration.device != device:
                continue  # the same 64-bit hash
            found.append(
                RegistrationFacts(
                    token=build_token(registration.token),
                    app=registration.app,
                    version=registration.version,
                    account=registration.account,
                    alias=registration.alias,
                    tags=registration.tags,
                    notifiers=sorted(registration.addresses),
                    fallback=registration.fallback,
                    created_at=registration.created_at,
                    revoked_at=registration.revoked_at,
                )
            )
        return found
    finally:
        environment.close()


def needs_im_key(folder: Path, key_id: int) -> bool:
    """Whether a data key of an IM user is wrapped with it, or the last start of a gateway took it for new ones."""
    if not (folder / "data.mdb").exists():
        return False
    environment = Environment.open(StoreConfig(path=str(folder)), readonly=True)
    try:
        in_use = environment.get(Db.META, IM_KEY_IN_USE)
        if in_use is not None and unpack_u32(in_use) == key_id:
            return True
        return any(wrapping_key(raw) == key_id for _, raw in environment.scan(Db.IM_USER_KEYS))
    finally:
        environment.close()
