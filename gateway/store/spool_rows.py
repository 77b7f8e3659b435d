"""Rows of the spool: pushes kept on this node's disk while the fleet can not take them, and what became of each; must
never say that a row is written before it is on disk.

An LMDB folder of its own, synced at every write: a torn write is as if it had not been. Numbers rise with the clock, so
rows are in the order they came in and the oldest fates are found at the front. `write` runs on the spool's own thread,
one call at a time; everything else on the control thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from gateway.model.errors import ConfigError

LOCK_FILE = "owner.lock"
#: beside what waits: fates, and free pages without which nothing could be taken out either
SPARE_BYTES = 128 << 20
IDENTITY_BYTES = 16
_FIELD = "cluster.spool"
_IDENTITY = b"identity"
_FLEET = b"fleet"
#: fates kept, whatever their age; the oldest go first
FATES_MOST = 500_000
#: fates forgotten in one write, beside as many as came
FORGET_MOST = 1_000
#: what a write raises that may succeed later
WRITE_ERRORS = (lmdb.Error, OSError)

Rows = Sequence[tuple[int, bytes]]


class SpoolRows:
    """Tables `waiting` and `fates`, number → packed record."""

    def __init__(self, folder: Path, max_bytes: int, lock: int) -> None:
        self._folder = folder
        self._map_bytes = 2 * max_bytes + SPARE_BYTES
        self._lock = lock
        self._env: Any = None
        self._meta: Any = None
        self._waiting: Any = None
        self._fates: Any = None
        #: random, made with the folder: no other spool has it
        self.identity = b""

    @classmethod
    def open(cls, folder: Path, max_bytes: int) -> SpoolRows:
        """ConfigError where the folder can not be had, or is another process's."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigError(f"the spool's folder can not be used: {exc.strerror}", field=_FIELD) from exc
        self = cls(folder, max_bytes, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._open()
        except BlockingIOError:
            self.close()
            raise ConfigError("the spool's folder is in use by another process", field=_FIELD) from None
        except WRITE_ERRORS as exc:
            self.close()
            raise ConfigError(f"the spool can not be opened: {type(exc).__name__}", field=_FIELD) from exc
        return self

    def _open(self) -> None:
        self._env = lmdb.open(
            str(self._folder), map_size=self._map_bytes, max_dbs=3, sync=True, metasync=True, meminit=False, mode=0o600
        )
        self._meta = self._env.open_db(b"meta")
        self._waiting = self._env.open_db(b"waiting")
        self._fates = self._env.open_db(b"fates")
        with self._env.begin(db=self._meta) as txn:
            self.identity = bytes(txn.get(_IDENTITY, b""))
        if not self.identity:
            identity = secrets.token_bytes(IDENTITY_BYTES)
            with self._env.begin(db=self._meta, write=True) as txn:
                txn.put(_IDENTITY, identity)
            self.identity = identity

    def reopen(self) -> None:
        """After a failure that LMDB does not forgive; nothing else may be under way. Raises WRITE_ERRORS."""
        self._drop()
        self._open()

    # --- control thread

    @property
    def fleet(self) -> str:
        """Ident of the fleet whose pushes these are; empty: it is new, or an older program made it."""
        with self._begin() as txn:
            return bytes(txn.get(_FLEET, b"", db=self._meta)).decode()

    def belong_to(self, fleet: str) -> None:
        """WRITE_ERRORS."""
        with self._env.begin(db=self._meta, write=True) as txn:
            txn.put(_FLEET, fleet.encode())

    def waiting(self, after: int = 0, limit: int = 0) -> list[tuple[int, bytes]]:
        """What waits, in order, above a number; at most `limit` (0 = all)."""
        found: list[tuple[int, bytes]] = []
        with self._begin() as txn, txn.cursor(db=self._waiting) as cursor:
            if cursor.set_range(_key(after + 1)):
                for key, value in cursor:
                    found.append((int.from_bytes(key, "big"), bytes(value)))
                    if len(found) == limit:
                        break
        return found

    def get(self, number: int) -> tuple[bytes | None, bytes | None]:
        """(what waits there, its fate)"""
        with self._begin() as txn:
            return txn.get(_key(number), db=self._waiting), txn.get(_key(number), db=self._fates)

    def last(self) -> int:
        """The highest number given so far that is still known; 0 where there is none."""
        highest = 0
        with self._begin() as txn:
            for db in (self._waiting, self._fates):
                with txn.cursor(db=db) as cursor:
                    if cursor.last():
                        highest = max(highest, int.from_bytes(cursor.key(), "big"))
        return highest

    # --- the spool's thread

    def write(self, kept: Rows = (), fates: Rows = (), *, forget_below: int = 0) -> None:
        """Add what waits; take out what has a fate; forget the oldest fates below a number. All of it or nothing; on
        disk when it returns. Raises WRITE_ERRORS."""
        with self._begin(write=True) as txn:
            for number, record in kept:
                txn.put(_key(number), record, db=self._waiting)
            for number, fate in fates:
                txn.delete(_key(number), db=self._waiting)
                txn.put(_key(number), fate, db=self._fates)
            for key in self._oldest(txn, forget_below, len(fates)):
                txn.delete(key, db=self._fates)

    def _oldest(self, txn: Any, below: int, added: int) -> list[bytes]:
        """A few more than were added, so that they grow less however many there are."""
        surplus = txn.stat(self._fates)["entries"] - FATES_MOST
        old: list[bytes] = []
        with txn.cursor(db=self._fates) as cursor:
            if cursor.first():
                for key in cursor.iternext(keys=True, values=False):
                    if (key >= _key(below) and len(old) >= surplus) or len(old) == added + FORGET_MOST:
                        break
                    old.append(bytes(key))
        return old

    def _begin(self, *, write: bool = False) -> Any:
        if self._env is None:
            raise OSError(errno.EIO, "the spool is not open")
        return self._env.begin(write=write)

    def _drop(self) -> None:
        if self._env is not None:
            with contextlib.suppress(lmdb.Error):
                self._env.close()
            self._env = None

    def close(self) -> None:
        self._drop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")
