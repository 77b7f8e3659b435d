"""A node's partitions as stores: taken over, followed, given snapshots; must never open one that lacks what was
accepted, nor one that another node can still write to.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.cluster.fleet_identity import fleet_identity
from gateway.cluster.follower import Follower
from gateway.cluster.jetstream import JetStreamError, NatsConnection, NoAnswer
from gateway.cluster.journal_past import JournalUnusable, Pasts
from gateway.cluster.journal_stream import JournalStream
from gateway.cluster.leases import Leases
from gateway.cluster.partition_folder import PartitionFolder
from gateway.cluster.refused_partitions import RefusedPartitions
from gateway.cluster.snapshot_keeper import SnapshotKeeper
from gateway.cluster.snapshots import Snapshots
from gateway.config.cluster import node_name
from gateway.config.cluster_section import Cluster
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metrics
from gateway.model.errors import GatewayError, LogUnavailable
from gateway.store import Store
from gateway.store.keys import ServerKeys
from gateway.store.partition import Partition
from gateway.store.store import now_ms

log = structlog.get_logger(__name__)

#: to make the stream of the snapshots
_TRIES = 3


class PartitionStores:
    """Control thread only. `config.path` is the node's; partitions lie in folders of their own below it."""

    def __init__(
        self,
        link: NatsConnection,
        settings: Cluster,
        config: StoreConfig,
        keys: ServerKeys,
        leases: Leases,
        metrics: Metrics,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._link = link
        self._settings = settings
        self._config = config
        self._keys = keys
        self._fleet = fleet_identity(settings.name, keys.token_key)
        self._metrics = metrics
        self._clock = clock
        #: partitions of whose folders here `tell_of_folders` found that they are another fleet's
        self.strangers: set[int] = set()
        self._snapshots = Snapshots(link, settings)
        self._pasts = Pasts(leases)
        self._refused = RefusedPartitions(self._pasts, self._snapshots, node_name(settings))
        self._opening: dict[int, Follower] = {}
        self._stages: dict[int, int] = {}  # of partitions that are being opened
        self._followers: dict[int, Follower] = {}
        self._prepared = False
        self._preparing = asyncio.Lock()

    async def _prepare(self) -> None:
        async with self._preparing:  # several partitions are taken over at a time
            if self._prepared:
                return
            for tries_left in range(_TRIES - 1, -1, -1):
                try:
                    await self._snapshots.prepare()
                    break
                except JetStreamError as exc:
                    # all nodes of a new fleet make it, and its servers are busy with the journals
                    if not tries_left or not isinstance(exc, NoAnswer):
                        raise LogUnavailable(f"the fleet's snapshots can not be reached: {exc}") from exc
            self._prepared = True

    async def tell_of_folders(self) -> None:
        """Before this node is in the fleet: of partitions that the fleet knows nothing of, and this node has had. Where
        all of NATS was lost, nobody may begin such a one empty. What another fleet had says nothing of this one: that
        is told to people alone. LogUnavailable."""
        below = Path(self._config.path) / "partitions"
        found = {int(each.name) for each in below.iterdir() if each.name.isdecimal()} if below.is_dir() else set()
        found &= set(range(self._settings.partitions))
        self.strangers = self._strangers(below, found)
        found -= self.strangers
        if not found:
            return
        for partition in sorted(found - await self._pasts.known()):
            folder = self._folder(partition)
            try:
                mark = folder.look()
            except GatewayError as exc:
                log.warning("partition_folder_not_read", partition=partition, reason=exc.message)
                continue
            folder.close(clean=folder.was_clean)
            if mark is not None and mark.place:
                await self._pasts.remember(partition, mark, node_name(self._settings))

    def _strangers(self, below: Path, found: set[int]) -> set[int]:
        others = {partition: other for partition in found if (other := self._folder(partition).stranger()) is not None}
        for fleet in sorted(set(others.values())):
            log.error(
                "partition_folders_of_another_fleet",
                partitions=sorted(partition for partition, other in others.items() if other == fleet),
                fleet=str(fleet),
                this_fleet=str(self._fleet),
                below=str(below),
                consequence="nothing of them is used or told of; one in the way is renamed and kept",
                remedy="remove them, or give this node a store.path of its own. Where NATS lost all that the fleet had,"
                " and this is its data: stop all nodes, remove the fleet's streams and each node's fleet-pasts.json,"
                " give the keys that were kept here (keys.json.of-…) and the folders that were renamed their names"
                " back, and start this node first",
            )
        return set(others)

    # --- standbys -------------------------------------------------------------------------------------------

    def follow(self, partition: int) -> None:
        """This node would be its owner next."""
        if partition not in self._followers:
            follower = self._followers[partition] = self._follower(partition)
            follower.start()

    async def unfollow(self, partition: int) -> None:
        """Its folder stays, for another time."""
        follower = self._followers.pop(partition, None)
        if follower is not None:
            await follower.close()

    def applied(self, partition: int) -> int:
        """How far a standby has come; 0 where it is none."""
        follower = self._followers.get(partition)
        return 0 if follower is None else follower.applied

    def _follower(self, partition: int) -> Follower:
        folder = self._folder(partition)
        return Follower(self._link, self._settings, folder, self._snapshots, self._pasts, partition)

    def _folder(self, partition: int) -> PartitionFolder:
        return PartitionFolder(self._config, partition, self._fleet)

    async def close(self) -> None:
        """Of the standbys; a store is closed by who opened it."""
        await self._refused.close()
        followers, self._followers = self._followers, {}
        for follower in followers.values():
            await follower.close()

    # --- owners ---------------------------------------------------------------------------------------------

    async def open_partition(
        self,
        partition: int,
        epoch: int,
        *,
        on_fenced: Callable[[], None],
        on_behind: Callable[[], None],
        on_quiet: Callable[[], None] = lambda: None,
        metrics: Metrics | None = None,
    ) -> Store:
        """The store of a partition that is this node's from now on; `metrics`: its own. LogFenced: it is another's
        already; LogUnavailable: NATS does not answer; JournalLacking: the stream is not what the partition had, and
        nothing was changed; JournalUnusable, ConfigError, OSError: not on this node, or not without help."""
        started_s = time.perf_counter()
        await self._prepare()
        follower = self._followers.pop(partition, None)
        if follower is not None:
            await follower.stop()
        else:
            follower = self._follower(partition)
        self._opening[partition] = follower
        self._stages[partition] = 0
        shutil.rmtree(Path(self._config.path) / "partitions" / f"{partition}.fetched", ignore_errors=True)
        journal = JournalStream(self._link, self._settings, partition)
        try:
            state = await follower.check()
            # as far as it goes while the owner before may still write: what is left is short then
            if state is not None and state.last:
                await follower.advance(state.last)
            self._stages[partition] += 1
            before, place = await journal.open(epoch, "" if state is None else state.created)
            await follower.own(before, place)
            self._stages[partition] += 1
            folder = follower.folder
            folder.close(clean=False)
            keeper = SnapshotKeeper(
                self._link, self._settings, self._snapshots, self._pasts, partition, epoch, before, journal
            )
            store = await Store.open(
                folder.config,
                metrics or self._metrics,
                clock=self._clock,
                partition=Partition(partition, journal, self._keys, on_fenced, on_behind, on_quiet, folder.mark_clean),
            )
            self._stages[partition] += 1
        except BaseException as exc:
            await follower.stop()
            if isinstance(exc, JournalUnusable):
                await self._refused.take(exc, follower, epoch)
            follower.folder.close(clean=False)
            await journal.close()
            raise
        finally:
            self._opening.pop(partition, None)
            self._stages.pop(partition, None)
        try:
            # from here on the fleet knows that this stream is the journal: no other is gone on with
            await self._pasts.note(partition, before.created, place)
        except BaseException:
            await store.close()
            raise
        self._refused.opened(partition)
        keeper.start(store, folder)
        log.info(
            "partition_opened",
            partition=partition,
            epoch=epoch,
            place=place,
            seconds=round(time.perf_counter() - started_s, 3),
        )
        return store

    def steps(self, partition: int) -> int:
        """How often the opening under way got on."""
        follower = self._opening.get(partition)
        return 0 if follower is None else follower.steps + self._stages[partition]
