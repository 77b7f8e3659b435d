"""Lets a partition go on whose journal is lost, because somebody said so: from a copy that there still is, or empty;
must never touch one that a node serves or whose journal is whole, nor remove a stream that was not copied before.

The record of the journal's past is what makes it one step. As long as it names a recovery no node takes the partition
over. Meanwhile a new stream is made, whose places begin far above all that there ever were, so that no owner of before
can write to it; the copy becomes its snapshot. The last change of the record names the new stream, and nodes adopt the
partition as they adopt any. Whatever ends in the middle is begun again by the same command.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec

from gateway.cluster.fleet_identity import read_identity
from gateway.cluster.fleet_lookup import require_fleet
from gateway.cluster.follower import Follower
from gateway.cluster.jetstream import JetStream, JetStreamError, NoAnswer, NobodyThere, NotSent, Refused, StreamState
from gateway.cluster.journal_past import Mark, Past, Pasts
from gateway.cluster.journal_records import MOST_EPOCH, MalformedJournal, journal_stream
from gateway.cluster.journal_stream import MAKE_S, journal_config
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.leases import Changed, Leases
from gateway.cluster.nats_link import NatsLink
from gateway.cluster.partition_folder import STREAM_KEY, PartitionFolder, ended_well
from gateway.cluster.recovery_survey import GONE, SNAPSHOT, STREAM, Copy, Sight, Survey, Surveyor
from gateway.cluster.snapshots import MalformedSnapshot, Manifest, Snapshots
from gateway.config.sections import Config
from gateway.model.cluster import first_seq, partition_of_seq
from gateway.model.errors import ConfigError
from gateway.store.commit import APPLIED_KEY
from gateway.store.environment import DATA_FILE, Environment, backup_folder
from gateway.store.records import PUT, Db, pack_u64, unpack_u64
from gateway.store.sequences import MARK_KEY

FURTHEST, EMPTY = "furthest", "empty"
#: places of the new stream begin so far above all that are known of: an owner of before that wakes up expects one below
PLACE_GAP = 1 << 20
#: numbers of pushes that were given out and are in no copy: devices drop what has the number of one that they have seen
NUMBER_GAP = 1 << 32
PATIENCE_S = 5.0
#: a node that tries to adopt the partition right now gives it up by then
_TRYING_S = 30.0
_TRIES = 20
_PAUSE_S = 0.25
_NAME_IN_USE = 10058


class NotRecovered(ConfigError):
    """Nothing was changed, or the command has to be run again; the message says which and what to do."""


class Recovered(msgspec.Struct):
    partition: int
    source: str
    place: int  # what the copy had of the journal
    had: int  # what the partition is known to have had
    begins: int  # place at which the new journal begins
    bytes: int


async def look(config: Config, partition: int, work: Path) -> Survey:
    """What there is of a partition. ConfigError, NodeUnreachable."""
    link = NatsLink(config.cluster, purpose="recovery")
    await link.connect(PATIENCE_S)
    try:
        await require_fleet(link, config.cluster.name)
        return (await Surveyor(link, KvLeases(link, config.cluster), config.cluster).look(partition, work))[0]
    finally:
        await link.close()


async def recover(
    config: Config, partition: int, source: str, work: Path, say: Callable[[str], None] = lambda _: None
) -> Recovered:
    """`source`: FURTHEST, SNAPSHOT, STREAM, EMPTY or a node's folder of the partition; `work`: an empty folder with
    room for it; `say`: what is done now. NotRecovered, ConfigError, NodeUnreachable, LogUnavailable."""
    link = NatsLink(config.cluster, purpose="recovery")
    await link.connect(PATIENCE_S)
    try:
        await require_fleet(link, config.cluster.name)
        return await _Recovery(config, link, KvLeases(link, config.cluster), partition, work, say).run(source)
    except (JetStreamError, MalformedSnapshot, MalformedJournal) as exc:
        raise NotRecovered(f"{type(exc).__name__}: {exc}; run the command again") from exc
    except (OSError, lmdb.Error) as exc:
        raise NotRecovered(f"no copy could be made in {work}: {exc}; make room (TMPDIR), and run it again") from exc
    except Changed:
        raise NotRecovered("somebody else recovers this partition at the same time; let one of you go on") from None
    finally:
        await link.close()


def check_source(chosen: str, survey: Survey) -> None:
    """Before anything is changed; NotRecovered. What a stream goes on from is looked at by the recovery itself."""
    if chosen == SNAPSHOT:
        if all(copy.where != SNAPSHOT for copy in survey.copies):
            raise NotRecovered("there is no snapshot that can be read; nothing was changed. Name another copy (--from)")
    elif chosen == STREAM:
        if survey.gap == GONE:
            raise NotRecovered(f"{GONE}; nothing was changed. Restore it from a backup, or name another copy (--from)")
    elif chosen != EMPTY:
        if not (Path(chosen) / DATA_FILE).is_file():
            raise NotRecovered(
                f"{chosen} is no folder of a partition, which has a {DATA_FILE}; nothing was changed. Name the folder"
                f" partitions/{survey.partition} below a node's store.path (--from)"
            )
        other = read_identity(Path(chosen))
        if other is not None and survey.fleet and other.ident != survey.fleet:
            raise NotRecovered(
                f"{chosen} is a folder of another fleet, {other}: its tokens are of other keys; nothing was changed."
                " Name another copy (--from)"
            )


class _Recovery:
    def __init__(
        self, config: Config, link: NatsLink, leases: Leases, partition: int, work: Path, say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._settings = config.cluster
        self._link = link
        self._js = JetStream(link, timeout_s=5.0)
        self._leases = leases
        self._partition = partition
        self._stream = journal_stream(self._settings.name, partition)
        self._work = work
        self._say = say
        self._surveyor = Surveyor(link, leases, self._settings)
        self._pasts = self._surveyor.pasts
        self._snapshots = self._surveyor.snapshots

    async def run(self, source: str) -> Recovered:
        await self._snapshots.prepare()
        survey, sight = await self._surveyor.look(self._partition, self._work)
        require(survey)
        chosen = choose(survey, source)
        check_source(chosen, survey)
        base = await self._base(sight) if chosen == STREAM else None
        past, revision = await self._begin(survey, sight)
        place, made = await self._materialize(chosen, sight, base)
        begins = max([*sight.places(), place]) + PLACE_GAP
        await asyncio.get_running_loop().run_in_executor(None, self._renumber, made, begins)
        self._say("making the journal anew")
        created = await self._make_stream(begins)
        past = msgspec.structs.replace(past, made=created)
        revision = await self._pasts.change(self._partition, past, revision)
        self._say("storing the copy as its snapshot")
        stored = await self._store(created, begins, made)
        await self._pasts.change(self._partition, Past(created, begins), revision)
        return Recovered(self._partition, chosen, place, max(survey.had, place), begins, stored.size)

    async def _begin(self, survey: Survey, sight: Sight) -> tuple[Past, int]:
        """From here on no node takes the partition over, until this has come to its end."""
        self._say("stopping nodes from taking it over")
        ident = secrets.token_hex(8)
        past = msgspec.structs.replace(sight.past or Past(sight.created(), survey.had), recovery=ident)
        revision = await self._pasts.change(self._partition, past, sight.revision)
        loop = asyncio.get_running_loop()
        end = loop.time() + _TRYING_S
        while True:
            holding = await self._surveyor.holding(self._partition)
            if not holding.node:
                return past, revision
            owner = await self._surveyor.owner(holding)
            if not owner:
                return past, revision
            if holding.ready or loop.time() > end:
                if sight.past is None:
                    await self._pasts.remove(self._partition, revision)
                else:
                    await self._pasts.change(self._partition, sight.past, revision)
                what = "serves it" if holding.ready else "is taking it over"
                raise NotRecovered(f"node {owner!r} {what}; nothing was changed")
            await asyncio.sleep(_PAUSE_S)

    # --- the copy -------------------------------------------------------------------------------------------

    async def _base(self, sight: Sight) -> Path | None:
        """What the stream goes on from: a copy of the folder of this machine's node; None: nothing, or the snapshot.
        NotRecovered where there is nothing that it goes on from."""
        if not sight.gap:
            return None
        path = PartitionFolder(self._config.store, self._partition).path
        try:
            if self._is_trusted(path, sight):
                made = self._work / "base"
                self._say(f"copying {path}, for there is no snapshot that the stream goes on from")
                config = dataclasses.replace(self._config.store, path=str(path))
                await asyncio.get_running_loop().run_in_executor(None, backup_folder, config, made)
                # an owner of any epoch may have written what a folder has
                if not await self._surveyor.gap(sight, self._partition, _mark_of(made), MOST_EPOCH):
                    return made
        except (ConfigError, OSError, lmdb.Error) as exc:
            self._say(f"the folder {path} can not be read: {exc}")
        raise NotRecovered(
            f"{sight.gap}; nothing was changed. Restore the stream of the snapshots ({self._settings.name}_S) from the"
            f" same backup; or run this on the machine of a node whose folder partitions/{self._partition} has what is"
            " missing, with that node's configuration; or name another copy (--from)"
        )

    def _is_trusted(self, path: Path, sight: Sight) -> bool:
        other = read_identity(path)
        is_ours = other is None or not sight.fleet.ident or other.ident == sight.fleet.ident
        return is_ours and (path / DATA_FILE).is_file() and ended_well(path)

    async def _materialize(self, chosen: str, sight: Sight, base: Path | None) -> tuple[int, Path]:
        """The copy as a folder: (place, folder). It is not in the stream alone when this returns: that goes next."""
        made = self._work / "copy"
        shutil.rmtree(made, ignore_errors=True)
        if chosen == EMPTY:
            folder = PartitionFolder(dataclasses.replace(self._config.store, path=str(self._work)), self._partition)
            folder.create("")
            folder.close(clean=False)
            folder.path.rename(made)
            return 0, made
        if chosen == SNAPSHOT:
            assert sight.manifest is not None
            self._say("fetching the snapshot")
            await self._snapshots.fetch(sight.manifest, made)
            return sight.manifest.place, made
        if chosen != STREAM:
            return (await self._take_folder(Path(chosen), made, sight)).place, made
        mark, manifest = await self._read_stream(sight, base, made), sight.manifest
        if manifest is None or manifest.created != mark.created or manifest.place < mark.place:
            self._say("bringing it into NATS")
            await self._store(mark.created, mark.place, made)
        return mark.place, made

    async def _read_stream(self, sight: Sight, base: Path | None, made: Path) -> Mark:
        state = sight.state
        assert state is not None
        self._say("reading the stream")
        folder = PartitionFolder(dataclasses.replace(self._config.store, path=str(self._work)), self._partition)
        if base is not None:
            folder.adopt(base, state.created)
            folder.close()
        is_begin = not sight.gap and state.first > 1 and sight.manifest is not None
        stub = _OfOneStream(self._snapshots, state.created, sight.manifest if is_begin else None)
        follower = Follower(self._link, self._settings, folder, stub, _NoPasts(self._leases), self._partition)
        try:
            await follower.advance(state.last)
            place = follower.applied
            await asyncio.get_running_loop().run_in_executor(None, folder.copy, made)
        finally:
            await follower.stop()
            folder.close(clean=False)
        return Mark(state.created, place)

    async def _take_folder(self, path: Path, made: Path, sight: Sight) -> Mark:
        self._say("copying the folder")
        config = dataclasses.replace(self._config.store, path=str(path))
        await asyncio.get_running_loop().run_in_executor(None, backup_folder, config, made)
        mark = _mark_of(made)
        if (other := _partition_in(made)) not in (self._partition, None):
            raise NotRecovered(f"{path} is a folder of partition {other}; nothing was removed, run the command again")
        if not sight.follows(mark.created):
            self._say("(it follows another journal than this partition's last one)")
        return mark

    def _renumber(self, made: Path, begins: int) -> None:
        """Its place is the beginning of the new journal, and nothing that was lost shares a number with what comes."""
        config = dataclasses.replace(self._config.store, path=str(made), sync=True)
        environment = Environment.open(config)
        try:
            raw = environment.get(Db.META, MARK_KEY)
            first = first_seq(self._partition)
            mark = max(first, 0 if raw is None else unpack_u64(raw)) + NUMBER_GAP
            # where the copy knows nothing of what was given out: at most one a millisecond since 1970, all in all
            mark = max(mark, first + time.time_ns() // 1_000_000)
            if mark >= first_seq(self._partition + 1):
                raise NotRecovered("the numbers of this partition's pushes are used up")
            environment.apply(
                [
                    [
                        (PUT, Db.META, MARK_KEY, pack_u64(mark)),
                        (PUT, Db.META, APPLIED_KEY, pack_u64(begins)),
                        (PUT, Db.META, STREAM_KEY, b""),
                    ]
                ]
            )
        finally:
            environment.close()

    # --- the new journal ------------------------------------------------------------------------------------

    async def _make_stream(self, begins: int) -> str:
        """In the place of what is left of the old one; the moment at which it was made."""
        config = {**journal_config(self._settings, self._partition), "first_seq": begins + 1}
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                state = await self._js.state(self._stream)
                if state is not None and not _is_fresh(state, begins):
                    await self._js.api(f"STREAM.DELETE.{self._stream}", timeout_s=MAKE_S)
                    state = None
                if state is None:
                    state = await self._js.ensure(config, MAKE_S)
                if _is_fresh(state, begins):
                    return state.created
            except (NotSent, NobodyThere, NoAnswer):
                if not tries_left:
                    raise
            except Refused as exc:
                if not tries_left or exc.err_code != _NAME_IN_USE:
                    raise
            await asyncio.sleep(_PAUSE_S)
        raise NoAnswer("the new journal can not be made")

    async def _store(self, created: str, place: int, folder: Path) -> Manifest:
        epoch = (await self._surveyor.holding(self._partition)).epoch
        stored = await self._snapshots.store(self._partition, epoch, created, place, folder)
        found = stored or await self._snapshots.find(self._partition)
        if found is None or (found.created, found.place) != (created, place):
            raise NotRecovered("another snapshot came between; run the command again")
        return found


class _OfOneStream(Snapshots):
    """Those of a stream that is read as it is, whatever the partition had. `base`: one that it goes on from, though
    that was taken of the stream before it was restored."""

    def __init__(self, snapshots: Snapshots, created: str, base: Manifest | None) -> None:
        self._all = snapshots
        self._created = created
        self._base = base

    async def find(self, partition: int) -> Manifest | None:
        found = await self._all.find(partition)
        if found is not None and self._base is not None and found.ident == self._base.ident:
            return msgspec.structs.replace(found, created=self._created)
        return found if found is not None and found.created == self._created else None

    async def fetch(self, manifest: Manifest, folder: Path, on_piece: Callable[[], None] = lambda: None) -> None:
        await self._all.fetch(manifest, folder, on_piece)


class _NoPasts(Pasts):
    async def get(self, partition: int) -> tuple[Past | None, int]:  # noqa: ARG002
        return None, 0


def _is_fresh(state: StreamState, begins: int) -> bool:
    return (state.first, state.last, state.messages) == (begins + 1, begins, 0)


def _partition_in(folder: Path) -> int | None:
    """Whose push numbers it counts; None: it says nothing of them."""
    environment = lmdb.open(str(folder), readonly=True, lock=False, max_dbs=len(Db) + 1)
    try:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(db=meta) as txn:
            mark = txn.get(MARK_KEY)
    finally:
        environment.close()
    return None if mark is None else partition_of_seq(unpack_u64(mark))


def _mark_of(folder: Path) -> Mark:
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, max_dbs=len(Db) + 1)
        try:
            meta = environment.open_db(b"meta", create=False)
            with environment.begin(db=meta) as txn:
                place, created = txn.get(APPLIED_KEY), txn.get(STREAM_KEY)
        finally:
            environment.close()
    except lmdb.Error as exc:
        raise NotRecovered(f"the folder can not be read: {exc}; nothing was removed") from exc
    if place is None or not created:
        raise NotRecovered("the folder has nothing of a journal; nothing was removed")
    return Mark(bytes(created).decode(), unpack_u64(place))


def require(survey: Survey) -> None:
    """NotRecovered where there is nothing to recover, or somebody serves it."""
    if survey.owner and survey.serves:
        raise NotRecovered(f"node {survey.owner!r} serves partition {survey.partition}; nothing was changed")
    if not survey.reason:
        raise NotRecovered(
            f"the journal of partition {survey.partition} is whole, so there is nothing to recover: a node takes it"
            " over as soon as one can; nothing was changed"
        )


def choose(survey: Survey, source: str) -> str:
    """The source that FURTHEST stands for; others as they are. NotRecovered, ConfigError."""
    if source != FURTHEST:
        if source not in (SNAPSHOT, STREAM, EMPTY) and "/" not in source:
            raise ConfigError(
                f"{source!r} is no copy: {FURTHEST}, {SNAPSHOT}, {STREAM}, {EMPTY}, or the path of a folder (with a /)",
                field="--from",
            )
        return source
    best: Copy | None = survey.furthest()
    if best is None:
        raise NotRecovered(
            "there is no copy of this partition's last journal that is known of; nothing was changed. Name one with"
            f" --from, or give up what it had: --from {EMPTY}"
        )
    if not best.in_nats:
        raise NotRecovered(
            f"the furthest copy is the {best.where}, which is not in NATS yet; nothing was changed. That node brings it"
            " there when it next tries to take the partition over; or run this on that machine, with --from and the"
            f" path of its folder partitions/{survey.partition}; or name another copy (--from)"
        )
    return best.where
