"""Makes a fleet out of the store of a gateway that was alone; must never be seen half done by a node, nor write into a
fleet that has anything.

A record in the fleet's bucket comes first, and says that the import is not done: while it does no node starts. Then
come, for each partition, a journal with nothing but an epoch record and a snapshot that stands there, the stream of
broadcasts, the keys, and last the record again. So it may be killed at any moment: run again, it begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.auth.admin_key import FILE_NAME, load_or_create
from gateway.cluster.broadcast_stream import BroadcastStream
from gateway.cluster.entrance import patiently
from gateway.cluster.fleet_identity import fleet_identity
from gateway.cluster.fleet_records import FLEET, KEYS, Fleet, build
from gateway.cluster.import_record import IMPORT, Import, build_import, read_import
from gateway.cluster.jetstream import NOT_FOUND, JetStream, JetStreamError, Refused
from gateway.cluster.journal_past import Past, parse_past_key, past_key
from gateway.cluster.journal_past import build as build_past
from gateway.cluster.journal_records import journal_stream
from gateway.cluster.journal_stream import JournalStream, journal_config
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.leases import Changed, Leases
from gateway.cluster.nats_checks import check_nats
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.shared_keys import FleetSeal, build_shared
from gateway.cluster.snapshots import Snapshots
from gateway.cluster.stray_tokens import StrayTokens
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Config
from gateway.fleet.broadcast_feed import MARGIN_S
from gateway.fleet.broadcast_message import Told, build_message
from gateway.model.cluster import VERSION
from gateway.model.errors import ConfigError, LogUnavailable
from gateway.store.commit import APPLIED_KEY
from gateway.store.moved import MOVED_FILE, mark_moved, moved_to
from gateway.store.records import PUT, Db, pack_u64
from gateway.store.split import Carried, StoreSplit
from gateway.store.split_target import SplitTarget

_T = TypeVar("_T")

#: of the record that begins a journal: below whatever an owner has
_EPOCH = 0
#: of the journals that are made
_FIRST_PLACE = 2
#: how long a step waits for servers that make a stream or elect a leader
PATIENCE_S = 60.0
_AGAIN_S = 0.25
#: progress is told so often
SAY_S = 1.0
#: of one request that makes or removes a stream
_ANSWER_S = 10.0
#: how long NATS may take to be reached
_PATIENCE_S = 5.0


class Imported(msgspec.Struct):
    """What was done, or would be."""

    fleet: str
    store: str
    partitions: int
    #: it was done before, and nothing was written now
    was_done: bool
    is_dry_run: bool
    carried: Carried


Say = Callable[[str], None]


def source_of(token_key: bytes) -> str:
    """Tells one store from others."""
    return hmac.digest(token_key, b"heliograph import", hashlib.sha256).hex()[:16]


async def import_store(config: Config, store: Path, *, dry_run: bool, work: Path | None, say: Say) -> Imported:
    """`work`: a folder for what is made on the way, about as large as the store. Raises ConfigError with what is in the
    way, LogUnavailable where NATS does not take it: repeat it then."""
    settings = config.cluster
    split = StoreSplit(config.store, store)
    link: NatsLink | None = None
    try:
        seal = FleetSeal.of(settings)
        link = NatsLink(settings, purpose="import")
        await link.connect(_PATIENCE_S)
        await check_nats(settings, link)
        importer = _Importer(settings, split, link, seal, say)
        was_done = await importer.look()
        if not was_done and not dry_run:
            with _work_folder(work, importer.source) as folder:
                await importer.run(folder)
        elif was_done and not dry_run:
            importer.mark()
        carried = split.carried if not was_done and not dry_run else split.expected()
        return Imported(settings.name, str(store), settings.partitions, was_done, dry_run, carried)
    except JetStreamError as exc:
        raise LogUnavailable(f"NATS did not take the import: {exc}; repeat the command") from exc
    finally:
        split.close()
        if link is not None:
            await link.close()


@contextlib.contextmanager
def _work_folder(work: Path | None, source: str) -> Iterator[Path]:
    """New and private, and gone afterwards: it has all that the store has. What a command that was killed has left goes
    too; we have the store, so nobody works there."""
    prefix = f"heliograph-import-{source}-"
    try:
        if work is not None:
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in Path(work or tempfile.gettempdir()).glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=work))
    except OSError as exc:
        raise ConfigError(
            f"no folder for the import can be made: {exc.strerror}; name one with room for twice the store",
            field="--work",
        ) from exc
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _taken_over() -> ConfigError:
    return ConfigError(
        "another import into this fleet runs at the same time, and took this one over", field="cluster.name"
    )


class _Stopped(Exception):
    """The command was interrupted."""


class _Importer:
    """One run of the command."""

    def __init__(self, settings: Cluster, split: StoreSplit, link: NatsLink, seal: FleetSeal, say: Say) -> None:
        self._settings = settings
        self._split = split
        self._link = link
        self._seal = seal
        self._say = say
        self._js = JetStream(link, timeout_s=_ANSWER_S)
        self.source = source_of(split.keys.token_key)
        self._record: Import | None = None
        self._revision = 0

    # --- before anything is written -------------------------------------------------------------------------

    async def look(self) -> bool:
        """True: this store was imported already. ConfigError where the fleet is not empty."""
        bucket = await self._js.state(f"KV_{self._settings.name}_FLEET")
        if bucket is not None:
            leases = KvLeases(self._link, self._settings)
            await leases.open()
            entries = {entry.key: entry for entry in await patiently(leases.all)}
            record = read_import(entries.pop(IMPORT, None))
            if record is not None and record.source != self.source:
                raise ConfigError(
                    "another store was imported into this fleet, or begun to be: name another fleet",
                    field="cluster.name",
                )
            if record is not None and record.done:
                return True
            if record is not None:
                # what an import that was broken off may have left
                entries.pop(FLEET, None)
                entries.pop(KEYS, None)
                entries = {key: entry for key, entry in entries.items() if parse_past_key(key) < 0}
            self._refuse_entries(sorted(entries))
            if record is not None:
                self._say("an import of this store was broken off: it begins anew")
                return False
        if moved := moved_to(self._split.folder):
            raise ConfigError(
                f"this store was imported into the fleet {moved!r} already (cluster.name). Where no node of that fleet"
                f" was started, remove {MOVED_FILE} from the folder to import it into another",
                field="store.path",
            )
        await self._refuse_streams()
        return False

    def _refuse_entries(self, keys: list[str]) -> None:
        if keys:
            raise ConfigError(
                f"the fleet {self._settings.name!r} is not new: it has {', '.join(keys[:5])}; an import makes a fleet,"
                " so name another one",
                field="cluster.name",
            )

    async def _refuse_streams(self) -> None:
        """Of more partitions than are wanted too: where those come from nobody knows."""
        name = self._settings.name
        for stream in (*await self._js.names(f"{name}.journal.>"), f"{name}_S", f"{name}_BROADCASTS"):
            state = await self._js.state(stream)
            if state is not None and state.last:
                raise ConfigError(
                    f"the fleet {name!r} is not new: its stream {stream} has messages; name another one",
                    field="cluster.name",
                )

    # --- the import -----------------------------------------------------------------------------------------

    async def run(self, work: Path) -> None:
        leases = KvLeases(self._link, self._settings)
        await leases.open()
        await self._begin(leases)
        targets = await self._read(work)
        snapshots = Snapshots(self._link, self._settings)
        await self._until(snapshots.prepare)
        await self._remove_surplus(leases, snapshots)
        for target in targets:
            await self._check_mine(leases)
            await self._partition(leases, snapshots, target, work)
        await self._check_mine(leases)
        await self._broadcasts()
        chunks = await StrayTokens(self._link, self._settings).write(self._split.strays)
        await self._records(leases, work)
        assert self._record is not None
        await self._check_mine(leases)
        # from here on the store must not be served alone, and after the next step nodes start
        self.mark()
        done = msgspec.structs.replace(
            self._record, done=True, stray_chunks=chunks, partitions=self._settings.partitions
        )
        await self._write(leases, done)

    async def _read(self, work: Path) -> list[SplitTarget]:
        """In a thread, so that the connection lives on meanwhile."""
        loop = asyncio.get_running_loop()
        rows, began_s = self._split.rows(), loop.time()
        is_stopped = threading.Event()
        said_s = began_s

        def on_rows(done: int) -> None:
            nonlocal said_s
            if is_stopped.is_set():
                raise _Stopped
            if loop.time() < said_s + SAY_S:
                return
            said_s = loop.time()
            self._say(f"{done} of about {rows} rows, {loop.time() - began_s:.0f} s")

        reading = loop.run_in_executor(None, self._split.run, work, self._settings.partitions, on_rows)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            is_stopped.set()
            await asyncio.gather(reading, return_exceptions=True)
            raise

    def mark(self) -> None:
        mark_moved(self._split.folder, self._settings.name)

    async def _begin(self, leases: Leases) -> None:
        """The record that keeps nodes out, before anything they could find."""
        entry = await patiently(partial(leases.get, IMPORT))
        self._revision = 0 if entry is None else entry.revision
        before = read_import(entry)
        most = max(self._settings.partitions, 0 if before is None else before.partitions)
        record = Import(self.source, secrets.token_hex(8), partitions=most)
        await self._write(leases, record)
        if entry is None:
            # a node that was faster has its keys there by now, and one that is slower sees the record
            others = [each.key for each in await patiently(leases.all) if each.key != IMPORT]
            if others:
                await patiently(partial(leases.delete, IMPORT, self._revision))
                self._refuse_entries(sorted(others))

    async def _write(self, leases: Leases, record: Import) -> None:
        raw = build_import(record)

        async def write() -> int:
            try:
                if not self._revision:
                    return await leases.create(IMPORT, raw)
                return await leases.update(IMPORT, raw, self._revision)
            except Changed:
                entry = await leases.get(IMPORT)
                if entry is not None and entry.value == raw:
                    return entry.revision  # it was in doubt, and is carried out
                raise _taken_over() from None

        self._revision = await patiently(write)
        self._record = record

    async def _check_mine(self, leases: Leases) -> None:
        """Before anything is removed or written: of two copies of a store the one that began later has the fleet, and
        may have made it already."""
        entry = await patiently(partial(leases.get, IMPORT))
        if entry is None or entry.revision != self._revision:
            raise _taken_over()

    async def _remove_surplus(self, leases: Leases, snapshots: Snapshots) -> None:
        """What a try that was broken off made for partitions that are not wanted any more."""
        assert self._record is not None
        for partition in range(self._settings.partitions, self._record.partitions):
            await self._check_mine(leases)
            await self._remove(journal_stream(self._settings.name, partition))
            await self._until(partial(snapshots.forget, partition))
            await patiently(partial(self._forget, leases, past_key(partition)))

    async def _forget(self, leases: Leases, key: str) -> None:
        entry = await leases.get(key)
        if entry is not None:
            with contextlib.suppress(Changed):  # whoever took this import over forgets it too
                await leases.delete(key, entry.revision)

    async def _partition(self, leases: Leases, snapshots: Snapshots, target: SplitTarget, work: Path) -> None:
        loop = asyncio.get_running_loop()
        await self._remove(journal_stream(self._settings.name, target.partition))
        # Not from the first place: a journal that begins there has everything, and this one begins in its snapshot.
        config = {**journal_config(self._settings, target.partition), "first_seq": _FIRST_PLACE}
        await self._until(partial(self._js.ensure, config, _ANSWER_S))
        journal = JournalStream(self._link, self._settings, target.partition)
        try:
            state, place = await self._until(partial(journal.open, _EPOCH))
        finally:
            await journal.close()
        target.environment.apply([[(PUT, Db.META, APPLIED_KEY, pack_u64(place))]])
        made = work / f"{target.partition}.copy"
        try:
            await loop.run_in_executor(None, target.environment.copy_to, made)
            target.close()
            shutil.rmtree(target.folder, ignore_errors=True)
            # asked again it may find what it stored the first time: no other has this place of this journal
            await self._until(partial(snapshots.store, target.partition, _EPOCH, state.created, place, made))
        finally:
            shutil.rmtree(made, ignore_errors=True)
        stored = await self._until(partial(snapshots.find, target.partition))
        if stored is None or (stored.created, stored.place) != (state.created, place):
            raise ConfigError("somebody else writes into this fleet at the same time", field="cluster.name")
        # a node's folder of an earlier fleet of this name must not tell of another journal
        await self._put(leases, past_key(target.partition), build_past(Past(state.created, place)))
        self._say(f"partition {target.partition + 1} of {self._settings.partitions}: {stored.size} bytes")

    async def _broadcasts(self) -> None:
        await self._remove(f"{self._settings.name}_BROADCASTS")
        if not self._split.live:
            return
        stream = BroadcastStream(self._link, self._settings)
        await self._until(partial(stream.start, lambda _, __: None))
        try:
            for place, seq in enumerate(self._split.live, 1):
                told = self._split.told(seq)
                if len(message := build_message(Told(told))) > stream.most_bytes:
                    raise ConfigError(
                        f"a broadcast that runs takes {len(message)} bytes, more than the fleet's: raise it",
                        field="cluster.message_bytes",
                    )
                left_s = max(0, told.expires_s - int(time.time())) + MARGIN_S
                once = f"told {told.push}"
                at = await self._until(partial(stream.append, message, once=once, ttl_s=left_s))
                if at != place:
                    raise ConfigError("somebody else writes into this fleet at the same time", field="cluster.name")
        finally:
            await stream.close()

    async def _records(self, leases: Leases, work: Path) -> None:
        """The keys, sealed under the fleet's secret, and what the fleet is. Where the store has no operator's key the
        fleet gets a new one."""
        admin_file = self._split.folder / FILE_NAME
        admin = load_or_create(admin_file if admin_file.exists() else work / FILE_NAME)
        server = self._split.keys.path.read_bytes()
        ident = fleet_identity(self._settings.name, self._split.keys.token_key).ident
        fleet = Fleet(VERSION, self._settings.partitions, self._settings.replicas, ident)
        await self._put(leases, KEYS, self._seal.seal(build_shared(admin.text, server)))
        await self._put(leases, FLEET, build(fleet))

    async def _put(self, leases: Leases, key: str, value: bytes) -> None:
        async def put() -> None:
            entry = await leases.get(key)
            with contextlib.suppress(Changed):
                if entry is None:
                    await leases.create(key, value)
                elif entry.value != value:
                    await leases.update(key, value, entry.revision)
                return
            raise ConfigError("somebody else writes into this fleet at the same time", field="cluster.name")

        await patiently(put)

    async def _remove(self, stream: str) -> None:
        """What an import that was broken off left; nothing was accepted into it."""

        async def remove() -> None:
            try:
                await self._js.api(f"STREAM.DELETE.{stream}")
            except Refused as exc:
                if exc.err_code not in NOT_FOUND:
                    raise

        await self._until(remove)

    async def _until(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Again while the servers are busy with making streams and electing leaders."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_S
        while True:
            try:
                return await work()
            except (LogUnavailable, JetStreamError) as exc:
                if loop.time() > end or (isinstance(exc, Refused) and exc.err_code not in NOT_FOUND):
                    raise
            await asyncio.sleep(_AGAIN_S)
