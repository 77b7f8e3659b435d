"""Takes snapshots of a partition while this node owns it, lets the journal before them go, and notes how far that has
come; must never hold up a commit, nor remove what no snapshot has.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import suppress

import structlog

from gateway.cluster.jetstream import JetStream, JetStreamError, NatsConnection, StreamState
from gateway.cluster.journal_past import Pasts
from gateway.cluster.journal_stream import JournalStream
from gateway.cluster.partition_folder import PartitionFolder, applied_of
from gateway.cluster.snapshots import MalformedSnapshot, Snapshots
from gateway.cluster.task_end import end_task
from gateway.config.cluster_section import Cluster
from gateway.model.errors import GatewayError
from gateway.store import Store

log = structlog.get_logger(__name__)

CHECK_S = 0.5
#: how far the journal has come is written into the fleet's records so often, where it has; and it is looked whether the
#: snapshot is still there that a shortened journal needs
NOTE_S = 30.0
#: after one that failed
PAUSE_S = 10.0
#: part of a journal that may be full before a snapshot, however large that is
_FULL_PART = 2


class SnapshotKeeper:
    """Control thread only. `before`: the stream when it was taken over."""

    def __init__(
        self,
        link: NatsConnection,
        settings: Cluster,
        snapshots: Snapshots,
        pasts: Pasts,
        partition: int,
        epoch: int,
        before: StreamState,
        journal: JournalStream,
    ) -> None:
        self._js = JetStream(link, timeout_s=5.0)
        self._settings = settings
        self._snapshots = snapshots
        self._pasts = pasts
        self._noted = journal.last
        self._partition = partition
        self._epoch = epoch
        self._created = before.created
        self._journal = journal
        #: bytes in the journal besides what this owner wrote since the last snapshot
        self._carried = before.bytes
        self._counted = journal.written_bytes
        self._last_bytes = 0  # of the last snapshot
        self.taken = 0
        self._needs_one = before.first > 1  # the journal alone does not tell all
        self._is_missing = False

    @property
    def due(self) -> bool:
        grown = self._carried + self._journal.written_bytes - self._counted
        wanted = max(self._settings.snapshot_bytes, self._last_bytes)
        return self._is_missing or grown >= min(wanted, self._settings.journal_bytes // _FULL_PART)

    def start(self, store: Store, folder: PartitionFolder) -> None:
        """Until the journal is closed."""
        task = asyncio.get_running_loop().create_task(self._keep(store, folder))
        self._journal.on_close = lambda: end_task(task)

    async def _keep(self, store: Store, folder: PartitionFolder) -> None:
        loop = asyncio.get_running_loop()
        noted_s = loop.time()
        while True:
            await asyncio.sleep(CHECK_S)
            if store.committer.ended:
                continue
            if loop.time() - noted_s >= NOTE_S:
                noted_s = loop.time()
                if self._journal.last > self._noted:
                    await self._note()
                await self._look_for_snapshot()
            if not self.due:
                continue
            try:
                await self.take(store, folder)
            except (GatewayError, JetStreamError, MalformedSnapshot, OSError) as exc:
                log.warning("snapshot_failed", partition=self._partition, reason=f"{type(exc).__name__}: {exc}")
                await asyncio.sleep(PAUSE_S)
                with suppress(JetStreamError):  # somebody may have removed their stream
                    await self._snapshots.prepare()

    async def _note(self) -> None:
        place = self._journal.last
        with suppress(GatewayError):  # another time then
            await self._pasts.note(self._partition, self._created, place)
            self._noted = place

    async def _look_for_snapshot(self) -> None:
        """Somebody may have removed it, or the stream of all."""
        if not self._needs_one or self._is_missing:
            return
        try:
            self._is_missing = await self._snapshots.find(self._partition) is None
        except (JetStreamError, MalformedSnapshot):
            return
        if self._is_missing:
            log.warning("snapshot_missing", partition=self._partition, consequence="another is taken now")

    async def take(self, store: Store, folder: PartitionFolder) -> int:
        """One now; the place it stands at, 0 where another node took one meanwhile."""
        loop = asyncio.get_running_loop()
        started_s = time.perf_counter()
        counted = self._journal.written_bytes
        made = folder.path.with_name(f"{folder.path.name}.copy")
        await loop.run_in_executor(None, lambda: shutil.rmtree(made, ignore_errors=True))
        try:
            await store.copy(made)
            place = await loop.run_in_executor(None, applied_of, made)
            manifest = await self._snapshots.store(self._partition, self._epoch, self._created, place, made)
        finally:
            await loop.run_in_executor(None, lambda: shutil.rmtree(made, ignore_errors=True))
        self._carried, self._counted, self._is_missing = 0, counted, False
        if manifest is None:
            return 0
        self._last_bytes = manifest.size
        # the last message that it has stays: whose the journal is can be read from it
        removed = await self._js.purge(self._journal.stream, below=place)
        self.taken += 1
        self._needs_one = True
        log.info(
            "snapshot_taken",
            partition=self._partition,
            place=place,
            bytes=manifest.size,
            removed=removed,
            seconds=round(time.perf_counter() - started_s, 3),
        )
        return place
