"""A partition's LMDB folder outside of a store: what it has of the journal, and whether that can be trusted; must never
let a folder pass that may lack what it says it has.

The folder is not synced, for the journal is what is durable. So a machine that stopped may have left anything in it: a
file beside it names the boot in which it was opened, and only a clean close takes that back.
"""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import lmdb
import structlog

from gateway.cluster.fleet_identity import FleetIdentity, read_identity, write_identity
from gateway.cluster.journal_past import Mark
from gateway.config.sections import Store as StoreConfig
from gateway.model.errors import ConfigError, GatewayError, StoreSchemaTooNew
from gateway.store.commit import APPLIED_KEY
from gateway.store.environment import VIEW_ROOM, Environment, StoreInUse
from gateway.store.keys import write_secret_file
from gateway.store.records import PUT, Db, Row, pack_u64, unpack_u64

log = structlog.get_logger(__name__)

BOOT_FILE = "boot"
_CLEAN = "clean"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: META: when the stream was made that this folder follows
STREAM_KEY = b"stream"
_unknown_boot = uuid.uuid4().hex


def this_boot() -> str:
    """Of the machine; where it can not be told, of this process."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return _unknown_boot


class PartitionFolder:
    """Closed at first. One thread at a time. `fleet`: whose it has to be; None: whosever it is."""

    def __init__(self, config: StoreConfig, partition: int, fleet: FleetIdentity | None = None) -> None:
        self.path = Path(config.path) / "partitions" / str(partition)
        self.config = dataclasses.replace(config, path=str(self.path), sync=False)
        self.partition = partition
        self._fleet = fleet
        self._environment: Environment | None = None
        self._is_last_copy = False
        self._unfit = ""  # why it was not opened
        self.was_clean = False  # when it was opened: everything was on the disk
        self.applied = 0

    @property
    def environment(self) -> Environment:
        if self._environment is None:
            raise RuntimeError("the folder is closed")
        return self._environment

    def stranger(self) -> FleetIdentity | None:
        """The other fleet that it is of. One that says nothing is of this fleet: an older program made it."""
        if self._fleet is None or self._environment is not None:
            return None
        found = read_identity(self.path)
        return None if found == self._fleet else found

    def look(self) -> Mark | None:
        """Open it, and say how far it has come in which stream; None: there is nothing that can be trusted, or it is
        another fleet's. Closed then, and nothing is removed: what it is worth is told by what there is besides."""
        if (other := self.stranger()) is not None:
            self._unfit = f"it is of another fleet, {other}"
            return None
        if self._environment is None and (reason := self._try()):
            self._unfit = reason
            return None
        stored = self.environment.get(Db.META, STREAM_KEY)
        return Mark("" if stored is None else stored.decode(), self.applied)

    def open(self, created: str, first: int, last: int) -> bool:
        """With what it has, where it is a piece of the stream that was made at `created` and has messages `first` to
        `last`; False: not so. It is closed and left then, until `create` or `adopt` puts another in its place."""
        mark = self.look()
        if mark is None:
            return False
        self._is_last_copy = self.applied > 0 and (mark.created not in ("", created) or self.applied > last)
        if mark.created != created:
            self._unfit = "it follows another stream"
        elif self.applied > last:
            self._unfit = f"it is ahead of the stream, which ends at {last}"
        elif self.applied + 1 < first:
            self._unfit = f"the stream begins at {first} only"
        else:
            if read_identity(self.path) is None:
                self._sign()
            return True
        self.close(clean=False)
        return False

    def copy(self, destination: Path) -> None:
        """All that it has by now, compacted, into a new folder. It is open."""
        shutil.rmtree(destination, ignore_errors=True)
        self.environment.copy_to(destination)

    def _try(self) -> str:
        """Open it; why that can not be done."""
        if not (self.path / "data.mdb").exists():
            return "new"
        self.was_clean = _boot_of(self.path) == _CLEAN
        if not ended_well(self.path):
            return "the machine was started again without a clean end"
        try:
            self._begin()
        except (StoreInUse, StoreSchemaTooNew):
            raise  # it is no worse for that
        except GatewayError as exc:
            return f"it can not be opened: {exc}"
        return ""

    def _make_way(self) -> None:
        """For another in its place. Where the journal is another stream by now, because somebody said so, what this one
        has may be wanted all the same: the first one is kept, for what is left behind later is less. One of another
        fleet is kept in any case: this fleet knows nothing of what it is worth."""
        self.close(clean=False)
        if (other := self.stranger()) is not None:
            self._keep_stranger(other)
        kept = self.path.with_name(f"{self.path.name}.lost")
        if self._is_last_copy and self.path.exists() and not kept.exists():
            self.path.rename(kept)
            log.warning(
                "partition_folder_kept",
                partition=self.partition,
                reason=self._unfit,
                consequence="the journal was recovered from another copy; remove the folder when nobody asks for more",
                kept=str(kept),
            )
        elif self._unfit not in ("", "new"):
            log.warning("partition_folder_dropped", partition=self.partition, reason=self._unfit)
        self._is_last_copy, self._unfit = False, ""
        self.drop()

    def _keep_stranger(self, other: FleetIdentity) -> None:
        stem, number = f"{self.path.name}.of-{other.name}-{other.ident}", 1
        kept = self.path.with_name(stem)
        while kept.exists():
            number += 1
            kept = self.path.with_name(f"{stem}-{number}")
        self.path.rename(kept)
        log.warning(
            "partition_folder_kept",
            partition=self.partition,
            reason=f"it is of another fleet, {other}",
            consequence="this fleet uses nothing of it; remove the folder when nobody asks for it",
            kept=str(kept),
        )
        self._is_last_copy, self._unfit = False, ""

    def create(self, created: str) -> None:
        """An empty one, at the beginning of the stream."""
        self._make_way()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sign()
        self._begin()
        self.environment.apply([[(PUT, Db.META, STREAM_KEY, created.encode())]])

    def adopt(self, made: Path, created: str) -> None:
        """A folder that was made elsewhere takes this place."""
        self._make_way()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made.rename(self.path)
        self._sign()
        self._begin()
        self.environment.apply([[(PUT, Db.META, STREAM_KEY, created.encode())]])

    def _sign(self) -> None:
        if self._fleet is not None:
            write_identity(self.path, self._fleet)

    def _begin(self) -> None:
        # before anything is written: what an unclean end leaves has to be told by it
        write_secret_file(self.path / BOOT_FILE, this_boot().encode())
        self._environment = Environment.open(self.config, room=VIEW_ROOM)
        if self._environment.readonly:
            self.close(clean=False)
            raise OSError(f"the folder of partition {self.partition} can not be written")
        raw = self._environment.get(Db.META, APPLIED_KEY)
        self.applied = 0 if raw is None else unpack_u64(raw)

    def apply(self, groups: Iterable[Iterable[Row]], place: int) -> None:
        """Rows of whole commits up to this place, in one transaction."""
        mark: Row = (PUT, Db.META, APPLIED_KEY, pack_u64(place))
        self.environment.apply([*groups, [mark]])
        self.applied = place

    def mark_clean(self) -> None:
        """Everything is on the disk."""
        try:
            write_secret_file(self.path / BOOT_FILE, _CLEAN.encode())
        except ConfigError as exc:
            # after the next boot it is made anew, as after an unclean end
            log.warning("partition_not_marked_clean", partition=self.partition, reason=exc.message)

    def close(self, *, clean: bool = True) -> None:
        environment, self._environment = self._environment, None
        if environment is None:
            return
        try:
            if clean:
                environment.sync()
        finally:
            environment.close()
        if clean:
            self.mark_clean()

    def drop(self) -> None:
        self.close(clean=False)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)
        self.applied = 0


def _boot_of(folder: Path) -> str:
    try:
        return (folder / BOOT_FILE).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def ended_well(folder: Path) -> bool:
    """Has a folder of a partition what it says it has? Not where the machine stopped while it was open."""
    return _boot_of(folder) in (_CLEAN, this_boot())


def applied_of(folder: Path) -> int:
    """What a copy of a folder has of the journal."""
    environment = lmdb.open(str(folder), readonly=True, lock=False, max_dbs=len(Db) + 1)
    try:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(db=meta) as txn:
            raw = txn.get(APPLIED_KEY)
        return 0 if raw is None else unpack_u64(raw)
    finally:
        environment.close()
