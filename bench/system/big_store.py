"""Builds a store with many registrations and many pending pushes in minutes: the rows are the store's own, written in
bulk and in the order of their keys; must never write to a store that has anything in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import lmdb

from gateway.auth.device import build_secret
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.notification import Content, Notification, Target
from gateway.model.registration import App, Registration, build_token
from gateway.store.directory import NUMBERS_KEY, Directory
from gateway.store.keys import ServerKeys
from gateway.store.records import DUPSORT, Db, build_notification, build_registration, pack_u32, pack_u64
from gateway.store.sequences import MARK_KEY
from gateway.store.store import Store

APP = "bench"
VERSIONS = 20
ROWS_A_COMMIT = 100_000
FIRST_SEQ = 1
TTL_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class BigStore:
    """What is in it."""

    folder: Path
    registrations: int
    pending: int

    def device(self, number: int) -> str:
        """The id of the device with this registration number, 1 … registrations."""
        return device_id(number)

    def secret(self, number: int) -> bytes:
        keys = ServerKeys.load(self.folder, may_create=False)
        return build_secret(keys.device_key_id, keys.device_keys[keys.device_key_id], self.device(number))

    @property
    def every(self) -> int:
        """Every so manyth registration has a pending push."""
        return self.registrations // self.pending


def device_id(number: int) -> str:
    return f"device-{number}~AAAAAAAAAAAA"


def version_of(number: int) -> str:
    return f"1.{number % VERSIONS}"


def account_of(number: int) -> str:
    return f"account-{number}"


async def build(folder: Path, registrations: int, pending: int) -> BigStore:
    """Into an empty or missing folder. One device has one registration; each pending push is to a device of its own."""
    config = StoreConfig(path=str(folder))
    store = await Store.open(config, Metrics())
    try:
        app = await store.directory.put_app(App(name=APP, created_at=int(time.time())))
        maker = Rows(store.directory, app.number, registrations, pending)
    finally:
        await store.close()
    environment = lmdb.open(str(folder), map_size=config.max_bytes, max_dbs=len(Db) + 1, sync=False, meminit=False)
    try:
        _write(environment, Db.REGISTRATIONS, maker.registrations())
        _write(environment, Db.DEVICES, maker.devices())
        _write(environment, Db.JOURNAL, maker.journal())
        _write(environment, Db.META, maker.marks(), append=False)
        environment.sync(True)
    finally:
        environment.close()
    return BigStore(folder, registrations, pending)


def _write(environment: lmdb.Environment, db: Db, rows: Iterator[tuple[bytes, bytes]], *, append: bool = True) -> None:
    opened = environment.open_db(db.name.lower().encode(), dupsort=db in DUPSORT, dupfixed=db in DUPSORT)
    while part := list(islice(rows, ROWS_A_COMMIT)):
        with environment.begin(write=True, db=opened) as txn, txn.cursor() as cursor:
            cursor.putmulti(part, append=append)


class Rows:
    """The rows, each kind in the order of its keys."""

    def __init__(self, directory: Directory, app_number: int, registrations: int, pending: int) -> None:
        self._directory = directory
        self._app_number = app_number
        self._count = registrations
        self._pending = pending
        self._now_s = int(time.time())

    def _token(self, number: int) -> bytes:
        return self._directory._tokens.build(device_id(number), APP, account_of(number), 0)

    def registrations(self) -> Iterator[tuple[bytes, bytes]]:
        for number in range(1, self._count + 1):
            registration = Registration(
                number=number,
                token=self._token(number),
                device=device_id(number),
                app=APP,
                version=version_of(number),
                account=account_of(number),
                created_at=self._now_s,
            )
            yield pack_u32(number), build_registration(registration, self._app_number)

    def devices(self) -> Iterator[tuple[bytes, bytes]]:
        hashed = self._directory._device_hash
        rows = [hashed(device_id(number)) + number.to_bytes(4, "big") for number in range(1, self._count + 1)]
        rows.sort()
        for row in rows:
            yield row[:-4], row[-4:]

    def journal(self) -> Iterator[tuple[bytes, bytes]]:
        every = self._count // self._pending
        content = Content(title="Pending", text="x" * 93)
        for place in range(self._pending):
            number, seq = every * (place + 1), FIRST_SEQ + place
            notification = Notification(
                seq=seq,
                app=APP,
                target=Target(token=build_token(self._token(number))),
                content=content,
                accepted_ms=self._now_s * 1000,
                expires_s=self._now_s + TTL_S,
                ack_ms=3_000,
                notifier_ack_ms=30_000,
                fallback=[],
            )
            yield pack_u64(seq), build_notification(notification, number)

    def marks(self) -> Iterator[tuple[bytes, bytes]]:
        yield NUMBERS_KEY, pack_u64(self._count + 1)
        yield MARK_KEY, pack_u64(FIRST_SEQ + self._pending)
