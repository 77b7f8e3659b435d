"""What a node does about partitions that it did not take over because of their journal: says so once, writes down why
and what it has of them, and brings the furthest copy to where all can reach it; must never change the journal, nor
replace a snapshot by one that has less.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import lmdb
import structlog

from gateway.cluster.follower import Follower
from gateway.cluster.jetstream import JetStreamError
from gateway.cluster.journal_past import JournalUnusable, Lack, Mark, Pasts
from gateway.cluster.snapshots import MalformedSnapshot, Snapshots
from gateway.cluster.task_end import end_task
from gateway.model.errors import GatewayError

log = structlog.get_logger(__name__)

_FAULTS = (GatewayError, JetStreamError, MalformedSnapshot, OSError, lmdb.Error)


class RefusedPartitions:
    """Control thread only. One copy is brought away at a time."""

    def __init__(self, pasts: Pasts, snapshots: Snapshots, node: str) -> None:
        self._pasts = pasts
        self._snapshots = snapshots
        self._node = node
        self._said: set[int] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._storing = asyncio.Lock()

    async def take(self, error: JournalUnusable, follower: Follower, epoch: int) -> None:
        """The folder may be open or closed here, and may be closed when this returns; the rest goes on by itself.
        Raises nothing: whoever refused has an error already."""
        partition = error.partition
        if partition not in self._said:
            self._said.add(partition)
            log.error(
                "partition_refused",
                partition=partition,
                reason=error.reason,
                consequence="without another node that can it stays without an owner: pushes and registrations there"
                " are answered 503",
                remedy=f"bring the stream back, or: heliograph cluster recover {partition}",
            )
        if partition in self._tasks:
            return
        mark: Mark | None = None
        made: Path | None = None
        try:
            mark = follower.folder.look()
            if mark is not None and await self._is_furthest(partition, mark):
                made = await _copy(follower)
        except _FAULTS as exc:
            self._warn(partition, exc)
        task = asyncio.get_running_loop().create_task(self._bring(partition, epoch, error.reason, mark, made))
        self._tasks[partition] = task
        task.add_done_callback(lambda _: self._tasks.pop(partition, None))

    def opened(self, partition: int) -> None:
        """It was not refused this time: where it is again, that is news."""
        self._said.discard(partition)

    async def _is_furthest(self, partition: int, mark: Mark) -> bool:
        past, _ = await self._pasts.get(partition)
        if not mark.place or (past is not None and past.created != mark.created):
            return False
        found = await self._snapshots.find(partition)
        # a snapshot of another stream may be what somebody wants to go on with
        return found is None or (found.created == mark.created and found.place < mark.place)

    async def _bring(self, partition: int, epoch: int, reason: str, mark: Mark | None, made: Path | None) -> None:
        try:
            if mark is not None and mark.place:
                await self._pasts.remember(partition, mark, self._node)
            await self._pasts.say(partition, self._node, Lack(reason, *(mark or ("", 0))))
            if made is not None and mark is not None:
                async with self._storing:
                    stored = await self._snapshots.store(partition, epoch, mark.created, mark.place, made)
                if stored is not None:
                    log.warning("partition_copy_kept", partition=partition, place=mark.place, bytes=stored.size)
        except _FAULTS as exc:
            self._warn(partition, exc)
        finally:
            if made is not None:
                await asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(made, ignore_errors=True))

    def _warn(self, partition: int, error: Exception) -> None:
        # with the next try to take it over
        log.warning("partition_copy_not_kept", partition=partition, reason=f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        for task in list(self._tasks.values()):
            await end_task(task)


async def _copy(follower: Follower) -> Path:
    folder = follower.folder
    made = folder.path.with_name(f"{folder.path.name}.rescued")
    copying = asyncio.get_running_loop().run_in_executor(None, folder.copy, made)
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        await asyncio.gather(copying, return_exceptions=True)  # the folder must not be closed below it
        raise
    follower.steps += 1
    return made
