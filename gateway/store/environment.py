"""The LMDB environment: opening, schema, write transactions, map size and copies; it must never decide what is stored.

Reads run on the control thread in short transactions. `apply` runs on the commit thread, one call at a time. The map
may only be resized or reopened while neither is under way, so `grow`, `shrink` and `reopen` belong to the control
thread between two commits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import structlog

from gateway.config.sections import Store as StoreConfig
from gateway.model.errors import ConfigError, StoreSchemaTooNew
from gateway.store.keys import KEY_FILE, sync_folder, write_secret_file
from gateway.store.records import DELETE, DUPSORT, NEWER, PUT, SCHEMA, Db, Row, pack_u32, unpack_u32

log = structlog.get_logger(__name__)

SCHEMA_KEY = b"schema"
LOCK_FILE = "owner.lock"
#: of a gateway alone; a node of a fleet has its partitions in folders of their own
DATA_FILE, PARTITIONS = "data.mdb", "partitions"
#: a put releases the GIL and takes it back; with the interpreter's default of 5 ms a busy control thread would
#: hold the commit thread for that long at every single row (measured: 5k rows/s against 85k)
_SWITCH_S = 0.0001
_DEFAULT_SWITCH_S = sys.getswitchinterval()
#: room for rows that make room: a full map can not even delete without some free pages
_MIN_RESERVE_BYTES = 1 << 20
_RESERVE_PART = 16
_FIELD = "store.path"
#: the map of a folder that follows a log, as a multiple of max_bytes: what the log has must find room, so the bound is
#: kept by accepting nothing past it
VIEW_ROOM = 2

#: what LMDB raises when a write can not be done now but may be later
WRITE_ERRORS = (lmdb.Error, OSError)

_T = TypeVar("_T")


class StoreInUse(ConfigError):
    """Another process, or another part of this one, has the folder."""


class Environment:
    """One opened store folder."""

    def __init__(self, folder: Path, config: StoreConfig, *, readonly: bool, lock: int, room: int = 1) -> None:
        self.folder = folder
        self.readonly = readonly
        self._config = config
        self._map_bytes = config.max_bytes * room
        self._lock = lock
        self._copies = 0  # copies under way: they hold a read transaction, so the map must not move
        self._last_journal = b""  # commit thread: highest journal key put, for append mode
        self._env: Any = None
        self._dbs: list[Any] = []

    @classmethod
    def open(
        cls, config: StoreConfig, *, readonly: bool = False, exclusive: bool = False, room: int = 1
    ) -> Environment:
        """Open or create; falls back to read-only where the folder can not be written. `exclusive`: nobody else may
        have it open, though it is only read.

        Raises ConfigError where it can not be opened at all, StoreSchemaTooNew where a newer version wrote it.
        """
        folder = Path(config.path)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"the store folder can not be made: {exc.strerror}", field=_FIELD) from exc
        lock = _own(folder) if exclusive or not readonly else -1
        self = cls(folder, config, readonly=readonly, lock=lock, room=room)
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def _open(self) -> None:
        if not self.readonly:
            try:
                self._open_as(readonly=False)
                return
            except lmdb.Error as exc:
                self._drop()
                if not _is_unwritable(exc):
                    raise _cannot_open(exc) from exc
                log.error(
                    "store_read_only", reason=_reason(exc), consequence="nothing is accepted until it is writable"
                )
        self.readonly = True
        try:
            self._open_as(readonly=True)
            return
        except lmdb.Error as exc:
            self._drop()
            # LMDB forgives a table of readers it can not write on a read-only file system, but not for want of
            # permission; as owners of the folder we can do without it, for nobody else writes.
            if self._lock < 0 or not _is_unwritable(exc) or not (self.folder / "data.mdb").exists():
                raise _cannot_open(exc) from exc
        try:
            self._open_as(readonly=True, readers=False)
        except lmdb.Error as exc:
            self._drop()
            raise _cannot_open(exc) from exc

    def _open_as(self, *, readonly: bool, readers: bool = True) -> None:
        self._env = lmdb.open(
            str(self.folder),
            map_size=self._map_bytes,
            max_dbs=len(Db) + 1,
            readonly=readonly,
            lock=readers,
            create=not readonly,
            sync=self._config.sync,
            metasync=self._config.sync,
            meminit=False,
            mode=0o600,
        )
        self._check_schema()
        self._dbs = [None] * (max(Db) + 1)
        for db in Db:
            self._dbs[db] = self._open_db(db, create=not readonly)
        # An older store is read as it is; from now on the older program would misread it.
        if not readonly and self.get(Db.META, SCHEMA_KEY) != pack_u32(SCHEMA):
            with self._env.begin(write=True) as txn:
                txn.put(SCHEMA_KEY, pack_u32(SCHEMA), db=self._dbs[Db.META])
        with self._env.begin(db=self._dbs[Db.JOURNAL]) as txn, txn.cursor() as cursor:
            self._last_journal = bytes(cursor.key()) if cursor.last() else b""
        self.readonly = readonly

    def _open_db(self, db: Db, *, create: bool) -> Any:
        """None for one that an older version did not have, where nothing may be written: it is as good as empty."""
        try:
            return self._env.open_db(
                db.name.lower().encode(), dupsort=db in DUPSORT, dupfixed=db in DUPSORT, create=create
            )
        except lmdb.NotFoundError:
            if db not in NEWER:
                raise
            return None

    def _check_schema(self) -> None:
        # before any database is made, so that a newer store stays as it is
        try:
            meta = self._env.open_db(b"meta", create=False)
        except lmdb.NotFoundError:
            return  # a fresh store
        except lmdb.ReadonlyError:
            return
        with self._env.begin(db=meta) as txn:
            raw = txn.get(SCHEMA_KEY)
        if raw is not None and unpack_u32(raw) > SCHEMA:
            raise StoreSchemaTooNew(
                f"the store has schema {unpack_u32(raw)}, this version knows {SCHEMA}; start the newer version"
                " or restore a backup"
            )

    # --- reading: control thread ----------------------------------------------------------------------------

    def begin(self, *, buffers: bool = False) -> Any:
        """A read transaction; keep it short, for pages it can see are not reused."""
        return self._env.begin(buffers=buffers)

    def db(self, db: Db) -> Any:
        return self._dbs[db]

    def get(self, db: Db, key: bytes) -> bytes | None:
        if self._dbs[db] is None:
            return None
        with self._env.begin(db=self._dbs[db]) as txn:
            value: bytes | None = txn.get(key)
        return value

    def look(self, db: Db, key: bytes, parse: Callable[[memoryview], _T]) -> _T | None:
        """What `parse` makes of the value where it lies; None where there is none. It keeps nothing of that memory."""
        if self._dbs[db] is None:
            return None
        with self._env.begin(db=self._dbs[db], buffers=True) as txn:
            value = txn.get(key)
            return None if value is None else parse(value)

    def get_many(self, db: Db, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each, in one transaction."""
        if self._dbs[db] is None:
            return [None] * len(keys)
        with self._env.begin(db=self._dbs[db]) as txn:
            get = txn.get
            return [get(key) for key in keys]

    def entries(self, db: Db) -> int:
        if self._dbs[db] is None:
            return 0
        with self._env.begin() as txn:
            count: int = txn.stat(self._dbs[db])["entries"]
        return count

    def used_bytes(self) -> int:
        """In pages of all databases; what is free to be used again does not count."""
        pages = 0
        with self._env.begin() as txn:
            for db in self._dbs:
                if db is not None:
                    stat = txn.stat(db)
                    pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return pages * int(self._env.stat()["psize"])

    def last_key(self, db: Db) -> bytes | None:
        if self._dbs[db] is None:
            return None
        with self._env.begin(db=self._dbs[db]) as txn, txn.cursor() as cursor:
            return bytes(cursor.key()) if cursor.last() else None

    def scan(self, db: Db, start: bytes = b"", limit: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """Rows from `start` on, at most `limit` (0 = all). Use it up at once: it holds a transaction."""
        if self._dbs[db] is None:
            return
        with self._env.begin(db=self._dbs[db]) as txn, txn.cursor() as cursor:
            if not (cursor.set_range(start) if start else cursor.first()):
                return
            for index, row in enumerate(cursor):
                if limit and index >= limit:
                    return
                yield row

    def scan_back(self, db: Db, below: bytes = b"", limit: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """The same backwards, from the last row before `below` (empty: from the last of all)."""
        if self._dbs[db] is None:
            return
        with self._env.begin(db=self._dbs[db]) as txn, txn.cursor() as cursor:
            found = cursor.prev() if below and cursor.set_range(below) else cursor.last()
            if not found:
                return
            for index, row in enumerate(cursor.iterprev(keys=True, values=True)):
                if limit and index >= limit:
                    return
                yield row

    def keys(self, db: Db) -> Iterator[bytes]:
        """All keys, without reading their values. Use it up at once: it holds a transaction."""
        if self._dbs[db] is None:
            return
        with self._env.begin(db=self._dbs[db]) as txn, txn.cursor() as cursor:
            if cursor.first():
                yield from cursor.iternext(keys=True, values=False)

    def chunks(self, db: Db, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """All rows, so many at once. Use it up at once: it holds a transaction."""
        with self._env.begin(db=self._dbs[db]) as txn, txn.cursor() as cursor:
            if not cursor.first():
                return
            rows = cursor.iternext(keys=True, values=True)
            while chunk := list(islice(rows, size)):
                yield chunk

    # --- writing: commit thread -----------------------------------------------------------------------------

    def apply(self, groups: Iterable[Iterable[Row]]) -> None:
        """Write all rows in order in one transaction; nothing is written where it raises (WRITE_ERRORS)."""
        dbs = self._dbs
        last = self._last_journal
        sys.setswitchinterval(_SWITCH_S)
        try:
            txn = self._env.begin(write=True)
            try:
                put, delete = txn.put, txn.delete
                for rows in groups:
                    for operation, db, key, value in rows:
                        if operation == PUT:
                            if db == Db.JOURNAL and key > last:
                                last = key
                                # append mode fills pages whole instead of half
                                if put(key, value, db=dbs[db], append=True):
                                    continue
                            put(key, value, db=dbs[db])
                        elif operation == DELETE:
                            delete(key, db=dbs[db])
                        else:
                            delete(key, value, db=dbs[db])
            except BaseException:
                txn.abort()
                raise
        finally:
            sys.setswitchinterval(_DEFAULT_SWITCH_S)
        txn.commit()
        self._last_journal = last

    # --- size and state: control thread, no transaction under way -------------------------------------------

    @property
    def resizable(self) -> bool:
        return self._copies == 0

    def grow(self) -> None:
        """Open the reserve, so that rows which make room can be written to a full map."""
        if self.resizable:
            size = max(self._env.info()["map_size"], self._map_bytes)
            limit = self._map_bytes + max(_MIN_RESERVE_BYTES, self._map_bytes // _RESERVE_PART)
            self._env.set_mapsize(max(size, limit))

    def shrink(self) -> None:
        """Back to the configured size (LMDB keeps at least what is used)."""
        if self.resizable:
            self._env.set_mapsize(self._map_bytes)

    def may_write(self) -> bool:
        """Whether the file system would let us; no proof that there is room."""
        return os.access(self.folder, os.W_OK) and os.access(self.folder / "data.mdb", os.W_OK)

    def reopen(self) -> None:
        """Close and open again: after a failure that LMDB does not forgive, or when the folder is writable again."""
        if not self.resizable:
            return
        if self._lock < 0:
            self._lock = _own(self.folder)
        self._drop()
        self.readonly = False
        self._open()

    def sync(self) -> None:
        if not self.readonly:
            self._env.sync(True)

    def _drop(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env, self._dbs = None, []

    def close(self) -> None:
        self._drop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- backup: any thread between begin_copy and end_copy -------------------------------------------------

    def begin_copy(self) -> None:
        self._copies += 1

    def end_copy(self) -> None:
        self._copies -= 1

    def copy_to(self, destination: Path) -> None:
        """A consistent, compacted copy with the key file; refuses a folder that is not empty."""
        try:
            destination.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(destination.iterdir()):
                raise ConfigError("the backup folder is not empty; name a new one", field="destination")
            self._env.copy(str(destination), compact=True)
            (destination / "data.mdb").chmod(0o600)
            key_file = self.folder / KEY_FILE
            if key_file.exists():
                write_secret_file(destination / KEY_FILE, key_file.read_bytes())
            sync_folder(destination)
        except (lmdb.Error, OSError) as exc:
            raise ConfigError(f"the backup failed: {exc}", field="destination") from exc


def is_of_node(folder: Path) -> bool:
    """Is this the folder of a node of a fleet, where nothing is kept that NATS does not have?"""
    return (folder / PARTITIONS).is_dir() and not (folder / DATA_FILE).exists()


def backup_folder(config: StoreConfig, destination: Path) -> None:
    """Copy a store from outside its process, running or not."""
    if not (Path(config.path) / DATA_FILE).exists():
        raise ConfigError("there is no store in this folder", field=_FIELD)
    environment = Environment.open(config, readonly=True)
    try:
        environment.copy_to(destination)
    finally:
        environment.close()


def _own(folder: Path) -> int:
    """Take the owner's lock: two gateways on one folder would each believe their own RAM."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno not in (errno.EROFS, errno.EACCES, errno.ENOSPC):
            raise ConfigError(f"the store folder can not be used: {exc.strerror}", field=_FIELD) from exc
        try:
            descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)  # to hold it takes no permission
        except OSError:
            return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StoreInUse(f"the store {folder} is in use by another process", field=_FIELD) from None
    return descriptor


def _reason(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"


def _is_unwritable(exc: lmdb.Error) -> bool:
    if isinstance(exc, (lmdb.ReadonlyError, lmdb.DiskError)):
        return True
    text = str(exc)
    return any(os.strerror(code) in text for code in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC))


def _cannot_open(exc: lmdb.Error) -> ConfigError:
    if isinstance(exc, (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError)):
        message = "the folder holds a damaged store, or none of this program; restore a backup"
    elif isinstance(exc, (lmdb.NotFoundError, lmdb.ReadonlyError)) or os.strerror(errno.ENOENT) in str(exc):
        message = "the folder can not be written and holds no store yet; make it writable"
    elif isinstance(exc, lmdb.MapFullError):
        message = "the store is full and can not be opened; raise store.max_bytes"
    else:
        message = f"the store can not be opened: {exc}"
    return ConfigError(message, field=_FIELD)
