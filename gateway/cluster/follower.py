"""Brings a partition's folder level with its journal, and keeps it there; must never apply half a commit, nor go on
over a gap.

A standby follows for ever, so that it can take over at once. Who takes over follows up to its epoch record.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

import lmdb
import structlog

from gateway.cluster.jetstream import JetStream, JetStreamError, NatsConnection, StreamState
from gateway.cluster.journal_past import JournalLacking, JournalUnusable, Mark, Pasts, lacking
from gateway.cluster.journal_reader import JournalReader, Message, StreamPurged, StreamReplaced
from gateway.cluster.journal_records import Assembler, MalformedJournal, journal_stream
from gateway.cluster.partition_folder import PartitionFolder
from gateway.cluster.snapshots import MalformedSnapshot, Snapshots
from gateway.cluster.task_end import end_task
from gateway.config.cluster_section import Cluster
from gateway.model.errors import GatewayError, LogUnavailable
from gateway.store.row_codec import parse_rows

log = structlog.get_logger(__name__)

#: applied in one transaction at most
_APPLY_BYTES = 8 * 1024 * 1024
#: a standby that is about level lets so much come, for so long, before it applies again
_GATHER_BYTES, _GATHER_S = 1024 * 1024, 0.1
_SAY_S = 5.0
#: between two tries of a standby that can not follow
PAUSE_S, MOST_PAUSE_S = 0.25, 30.0
#: a snapshot may be replaced while it is fetched
_FETCHES = 5
#: a stream that is gone or too short is looked at again for so long before it counts as lost: servers that start, or
#: have a new leader, know less for a moment
LOOK_S = 3.0


class Follower:
    """Of one partition. Control thread only; rows are applied on another, one piece at a time."""

    def __init__(
        self,
        link: NatsConnection,
        settings: Cluster,
        folder: PartitionFolder,
        snapshots: Snapshots,
        pasts: Pasts,
        partition: int,
    ) -> None:
        self.folder = folder
        self.partition = partition
        #: rises while it gets on
        self.steps = 0
        self._js = JetStream(link)
        self._stream = journal_stream(settings.name, partition)
        self._reader = JournalReader(self._js, self._stream)
        self._snapshots = snapshots
        self._pasts = pasts
        self._checked = ""  # the stream that was found to be the journal a moment ago
        self._waits_for = ""  # what was said last of why it waits
        self._is_open = False
        self._created = ""  # of the stream that the open folder follows
        self._task: asyncio.Task[None] | None = None
        self._applying: asyncio.Future[None] | None = None
        self._end = 0  # of the stream, when this was looked at last

    @property
    def applied(self) -> int:
        return self.folder.applied

    # --- a standby ------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """The folder stays open, and nobody works on it."""
        task, self._task = self._task, None
        await end_task(task)
        await self._settle()

    async def close(self) -> None:
        await self.stop()
        self._is_open = False
        self.folder.close()

    async def _follow(self) -> None:
        pause_s = PAUSE_S
        while True:
            before = self.folder.applied
            try:
                await self.advance()
            except (
                GatewayError,
                JetStreamError,
                MalformedSnapshot,
                MalformedJournal,
                ValueError,
                OSError,
                lmdb.Error,
            ) as exc:
                self._say_waits(f"{type(exc).__name__}: {exc}")
                await self._settle()
                self._is_open = False
                with suppress(OSError, lmdb.Error):
                    self.folder.close()
            pause_s = PAUSE_S if self.folder.applied != before else min(2 * pause_s, MOST_PAUSE_S)
            await asyncio.sleep(pause_s)

    def _say_waits(self, reason: str) -> None:
        """A journal that is lost stays so for hours: once."""
        if reason != self._waits_for:
            self._waits_for = reason
            log.warning("standby_waits", partition=self.partition, reason=reason)

    # --- the way there --------------------------------------------------------------------------------------

    async def advance(self, end: int = 0) -> None:
        """Apply what the journal has, up to and with a place (0: for ever). LogUnavailable where NATS does not answer;
        JournalUnusable where something is missing."""
        while True:
            state = await self._state()
            if state is not None:
                if self._is_open and (state.created != self._created or state.last < self.folder.applied):
                    self._is_open = False
                    self.folder.close(clean=False)
                if not self._is_open:
                    await self._open(state)
                self._end = max(end, state.last)
                try:
                    await self._apply_from_stream(end)
                    return
                except (StreamPurged, StreamReplaced) as exc:
                    # a snapshot was taken since, and has what is gone; or all of it is gone
                    log.info("standby_begins_anew", partition=self.partition, reason=type(exc).__name__)
                    self._is_open = False
                    self.folder.close(clean=False)
            else:
                await asyncio.sleep(PAUSE_S)  # no owner has made it yet

    async def own(self, before: StreamState, place: int) -> None:
        """Up to and with `place`, where the new owner's record stands, which has no rows. NATS took it behind the
        message before it and no other: so a folder that is level with that one has nothing to read. `before`: the
        stream as it was, at most a moment earlier."""
        if not before.messages and place == before.last + 1 and not self._is_open:
            await self._open(before)
        if self._is_open and self._created == before.created and self.folder.applied == place - 1:
            await self._apply([], place)
        else:
            await self.advance(place)

    async def _state(self) -> StreamState | None:
        try:
            return await self._js.state(self._stream)
        except JetStreamError as exc:
            raise LogUnavailable(f"the journal of a partition can not be read: {exc}") from exc

    async def check(self) -> StreamState | None:
        """The stream as it is, where it can be the partition's journal (None: there is none, and never was).
        JournalLacking where it is not, after a while in which it might have come; LogUnavailable."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LOOK_S
        while True:
            state = await self._state()
            reason = await self._lacking(state)
            if not reason:
                self._checked = "" if state is None else state.created
                return state
            if loop.time() >= end:
                raise JournalLacking(self.partition, reason)
            await asyncio.sleep(PAUSE_S)

    async def _lacking(self, state: StreamState | None) -> str:
        mark = self.folder.look()
        (past, _), snapshot = await asyncio.gather(self._pasts.get(self.partition), self._snapshot())
        self.steps += 1
        reason = lacking(state, past, snapshot, mark)
        if not reason or state is None:
            return reason
        # an owner that lives may have noted more since the stream was looked at
        now = await self._state()
        return lacking(now, past, snapshot, mark) if now and now.created == state.created else reason

    async def _snapshot(self) -> Mark | None:
        try:
            manifest = await self._snapshots.find(self.partition)
        except MalformedSnapshot:
            return None  # where it is needed it is missed soon enough
        except JetStreamError as exc:
            raise LogUnavailable(f"the snapshot of a partition can not be read: {exc}") from exc
        return None if manifest is None else Mark(manifest.created, manifest.place)

    async def _open(self, state: StreamState) -> None:
        checked, self._checked = self._checked, ""
        if state.created != checked and (reason := await self._lacking(state)):
            raise JournalLacking(self.partition, reason)
        if not self.folder.open(state.created, state.first, state.last):
            await self._begin_anew(state)
        self._created = state.created
        self._is_open = True

    async def _begin_anew(self, state: StreamState) -> None:
        made = self.folder.path.with_name(f"{self.folder.path.name}.fetched")
        for _ in range(_FETCHES):
            try:
                manifest = await self._snapshots.find(self.partition)
                if manifest is None and state.first <= 1:
                    self.folder.create(state.created)
                    return
                if manifest is not None and manifest.created != state.created:
                    raise JournalUnusable(
                        self.partition,
                        "its journal was made anew, and the snapshot is of the one before; which of them is right is"
                        " not for a program to guess",
                    )
                if manifest is not None and manifest.place + 1 >= state.first:
                    await self._snapshots.fetch(manifest, made, self._got_on)
                    self.folder.adopt(made, state.created)
                    if self.folder.applied != manifest.place:
                        self.folder.drop()
                        raise MalformedSnapshot("a snapshot of another place than its manifest says")
                    return
            except MalformedSnapshot as exc:
                log.warning("snapshot_not_whole", partition=self.partition, reason=str(exc))
            except JetStreamError as exc:
                raise LogUnavailable(f"the snapshot of a partition can not be read: {exc}") from exc
            await asyncio.sleep(PAUSE_S)
            state = await self._state() or state
        raise JournalUnusable(self.partition, f"its journal begins at {state.first}, and no whole snapshot reaches it")

    async def _apply_from_stream(self, end: int) -> None:
        loop = asyncio.get_running_loop()
        assembler = Assembler(self.folder.applied)
        said_s = loop.time()
        if end and self.folder.applied >= end:
            return
        async with aclosing(self._reader.read(self.folder.applied + 1, end, self._created)) as batches:
            async for batch in batches:
                pieces: list[bytes] = []
                place = size = taken = 0
                for message in batch:
                    commit = _take(assembler, message)
                    if commit is None:
                        continue
                    place, rows = commit
                    if rows:
                        pieces.append(rows)
                        size += len(rows)
                        taken += len(rows)
                    if size >= _APPLY_BYTES:
                        await self._apply(pieces, place)
                        pieces, place, size = [], 0, 0
                if place:
                    await self._apply(pieces, place)
                if loop.time() - said_s > _SAY_S and self.folder.applied < self._end:
                    said_s = loop.time()
                    log.info("partition_catching_up", partition=self.partition, applied=self.applied, end=self._end)
                if not end and taken < _GATHER_BYTES and self.folder.applied >= self._end:
                    await asyncio.sleep(_GATHER_S)

    async def _apply(self, pieces: list[bytes], place: int) -> None:
        def apply() -> None:
            self.folder.apply((block for rows in pieces for block in parse_rows(rows)), place)

        self._applying = asyncio.get_running_loop().run_in_executor(None, apply)
        # who stops this waits for the other thread all the same
        await asyncio.shield(self._applying)
        self._applying = None
        self.steps += 1

    def _got_on(self) -> None:
        self.steps += 1

    async def _settle(self) -> None:
        applying, self._applying = self._applying, None
        if applying is not None:
            await asyncio.gather(applying, return_exceptions=True)


def _take(assembler: Assembler, message: Message) -> tuple[int, bytes] | None:
    return assembler.take(message.seq, message.headers, message.body)
