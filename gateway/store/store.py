"""The embedded store as one object: opens, recovers, ticks, copies and closes; must never be used from another thread
than its loop's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import struct
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from gateway._native.pending import Pending
from gateway._native.registry import Registry
from gateway.config.im_section import Im
from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import first_seq
from gateway.model.errors import ConfigError, LogUnavailable, StoreUnavailable
from gateway.store.batches import Batches
from gateway.store.broadcasts import Broadcasts
from gateway.store.card_campaigns import CampaignStore
from gateway.store.card_downloads import DownloadStore
from gateway.store.card_payloads import Payloads
from gateway.store.card_rows import CardRows
from gateway.store.cards import CardStore
from gateway.store.commit import Committer
from gateway.store.contents import Contents
from gateway.store.deaths import Deaths
from gateway.store.directory import Directory
from gateway.store.environment import VIEW_ROOM, Environment
from gateway.store.feed_numbers import FeedNumbers
from gateway.store.figures import Figures
from gateway.store.groups import Groups
from gateway.store.history import History
from gateway.store.im_media import MediaRows
from gateway.store.im_media_files import MediaFiles
from gateway.store.im_stores import ImStores
from gateway.store.im_uploads import UploadRows
from gateway.store.journal import Journal
from gateway.store.keys import ServerKeys
from gateway.store.moved import refuse_moved
from gateway.store.partition import Partition
from gateway.store.quotas import QuotaCounts
from gateway.store.receipts import Receipts
from gateway.store.records import Db
from gateway.store.recovery import DEATHS_TOLD_KEY, RECEIPTS_TOLD_KEY, Recovery, read_marks
from gateway.store.schedules import Schedules
from gateway.store.seen import Seen
from gateway.store.sequences import END, FIRST, Sequences
from gateway.store.short_messages import ShortMessages
from gateway.store.subscribers import SubscriberStore

log = structlog.get_logger(__name__)

#: history is swept so often; while there is more, a slice each SWEEP_PAUSE_S, so up to 50,000 rows a second
SWEEP_S = 60.0
SWEEP_PAUSE_S = 0.02


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Store:
    """Everything durable. `journal`, `broadcasts`, `receipts` and `directory` are the ports of model.ports; the data
    plane settles plain acks into `batches`."""

    def __init__(
        self,
        environment: Environment,
        keys: ServerKeys,
        config: StoreConfig,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], int],
        probe_s: float,
        tick_s: float,
        partition: Partition | None = None,
    ) -> None:
        self._environment = environment
        self._partition = partition
        self._metrics = metrics
        self._loop = loop
        self._clock = clock
        self._tick_s = tick_s
        self._history_ms = int(config.history_days * 86_400_000)
        self._timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._sweep_at_s = 0.0
        self._closed = False
        self._copies: set[asyncio.Future[None]] = set()  # under way
        first = FIRST if partition is None else first_seq(partition.number)
        end = END if partition is None else first_seq(partition.number + 1)
        marks = read_marks(environment, first)
        self.keys = keys
        if partition is None:
            self.committer = Committer(environment, config, metrics, loop, probe_s=probe_s)
        else:
            self.committer = Committer(
                environment,
                config,
                metrics,
                loop,
                probe_s=probe_s,
                commit_log=partition.log,
                on_fenced=partition.on_fenced,
                on_behind=partition.on_behind,
            )

        def numbers(last: int, key: bytes, told: int) -> FeedNumbers:
            return FeedNumbers(self.committer, clock, last, key=b"" if partition is None else key, mark=told)

        self._receipt_numbers = numbers(marks.receipts, RECEIPTS_TOLD_KEY, marks.receipts_told)
        self._death_numbers = numbers(0, DEATHS_TOLD_KEY, marks.deaths_told)
        registry, pending = Registry(), Pending(clock())
        groups = Groups(registry.population)
        self._pending = pending
        contents = Contents(environment)
        self._figures = Figures(environment, self.committer)
        self.directory = Directory(
            environment,
            self.committer,
            keys,
            registry,
            groups,
            loop,
            clock,
            next_number=marks.registration,
            dead_retention_s=int(config.dead_tokens_days * 86_400),
            in_fleet=partition is not None,
        )

        def hop_of(seq: int) -> int | None:
            row = pending.get(seq)
            return None if row is None else row[3]

        self._seen = Seen(environment, self.committer, registry, clock)
        self.directory.seen_ago_s = self._seen.ago_s
        self.deaths = Deaths(environment, self.committer, clock, self._death_numbers)
        self.deaths.app_number = self.directory.app_number
        self.subscribers = SubscriberStore(environment, self.committer, keys.token_key, clock)
        self.subscribers.feed.app_number = self.directory.app_number
        self.subscribers.app_numbers = self.directory.app_numbers
        self.directory.deaths = self.deaths
        self.quotas = QuotaCounts(environment, self.committer)
        self.short_messages = ShortMessages(environment, self.committer, keys.token_key)
        self._history = History(environment, self.committer, metrics, clock, hop_of)
        self.schedules = Schedules(environment, self.committer, config, metrics)
        self.receipts = Receipts(
            environment,
            self.committer,
            self.directory,
            self._figures,
            self._history,
            config,
            clock,
            self._receipt_numbers,
            in_fleet=partition is not None,
        )
        self.broadcasts = Broadcasts(
            self.committer, registry, groups, contents, self._figures, self.receipts, config, metrics, clock
        )
        self.directory.attach(self.broadcasts)
        self._sequences = Sequences(self.committer, marks.sequence, first=first, end=end)
        self.batches = Batches(
            environment,
            self.committer,
            pending,
            self._sequences,
            self.directory,
            self.receipts,
            config,
            metrics,
            clock,
        )
        contents.batched = self.batches.notification
        self._history.attach(self.batches)

        def on_undone(seq: int) -> None:
            self._history.forget(seq)
            contents.drop(seq)

        self.batches.on_undone = on_undone
        self.journal = Journal(
            self.committer,
            pending,
            self._sequences,
            contents,
            self._figures,
            self._history,
            self.broadcasts,
            self.batches,
            self.receipts,
            config,
            metrics,
            clock,
        )
        card_rows = CardRows(keys.token_key)
        self.cards = CardStore(environment, self.committer, card_rows, metrics, loop)
        self._payloads = Payloads(environment, self.committer, card_rows, clock)
        self.card_downloads = DownloadStore(
            environment, self.committer, self._sequences, self.receipts, self._payloads, loop
        )
        self.card_campaigns = CampaignStore(environment, self.committer, self.card_downloads, loop)
        self._payloads.of_campaigns = self.card_campaigns.digests
        self._im = ImStores(environment, self.committer, keys, self._sequences, metrics, loop, clock)
        self.im_users, self.im_accounts, self.im_log = self._im.users, self._im.accounts, self._im.log
        self._im.log.hurry = self._hurry
        self.im_media = MediaRows(environment, self.committer, clock)
        self.im_media_files = MediaFiles(environment.folder / "media")
        self.im_uploads = UploadRows(environment, self.committer)
        self.directory.on_revoked = self._im.users.forget_device
        self.receipts.attach(self.journal, self.schedules, self.deaths, self.card_downloads)
        self.schedules.end_push = self.receipts.end_push
        self.schedules.end_early = self.receipts.end_early
        self.schedules.push_landed = self.receipts.push_landed
        self._recovery = Recovery(
            environment,
            self.directory,
            registry,
            self.broadcasts,
            self.batches,
            self.journal,
            pending,
            self._figures,
            self._history,
        )

    @classmethod
    async def open(
        cls,
        config: StoreConfig,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], int] = now_ms,
        *,
        probe_s: float = 1.0,
        tick_s: float = 1.0,
        partition: Partition | None = None,
    ) -> Store:
        """Open or create the folder `config.path` and recover; blocks the loop while it reads.

        Raises ConfigError (field store.path) or StoreSchemaTooNew. A folder that can not be written is served
        read-only: `journal.writable` is False until it can be. `clock` gives Unix milliseconds; `probe_s` is the pause
        between attempts to write again, `tick_s` the period of what is written behind.

        With a `partition` the folder has to be level with its log, whose keys it uses; LogFenced where another node
        has taken it over meanwhile.
        """
        loop = loop or asyncio.get_running_loop()
        if partition is not None:  # what a power cut takes is had again from the log
            config = dataclasses.replace(config, sync=False)
        else:
            refuse_moved(Path(config.path))
        environment = Environment.open(config, room=1 if partition is None else VIEW_ROOM)
        try:
            needed = (Db.REGISTRATIONS, Db.SUBSCRIBERS, Db.CARDS, Db.CARD_COUNTERS, Db.IM_USER_KEYS)
            fresh = not environment.readonly and not any(environment.entries(db) for db in needed)
            keys = partition.keys if partition is not None else ServerKeys.load(Path(config.path), may_create=fresh)
            if (
                partition is None
                and not keys.im_keys
                and not environment.readonly
                and not environment.entries(Db.IM_USER_KEYS)
            ):
                keys.make_first_im_key()
            self = cls(environment, keys, config, metrics, loop, clock, probe_s, tick_s, partition)
        except BaseException:
            environment.close()
            raise
        try:
            self._recover()
            await self.committer.flush()
        except (StoreUnavailable, LogUnavailable):
            pass  # logged by the committer; reads work
        except BaseException:
            await self.close()
            raise
        self._timer = loop.call_later(tick_s, self._on_tick)
        return self

    def _recover(self) -> None:
        started = time.perf_counter()
        recovery = self._recovery
        # what is made now stays: the collector would look at all of it again and again
        collects = gc.isenabled()
        gc.disable()
        try:
            counts = recovery.run()
            self._seen.load()
            self.schedules.load()
            self.deaths.load(self.directory.app_numbers())
            self._im.check()
        except (ValueError, IndexError, struct.error, msgspec.DecodeError) as exc:
            # which of two rows is right is not for a program to guess
            message = f"the folder holds a damaged store ({exc}); restore a backup"
            raise ConfigError(message, field="store.path") from exc
        finally:
            if collects:
                gc.enable()
        for number, cursor in self._positions():
            self.receipts.restore_position(number, cursor)
        if recovery.orphans:
            self.committer.refresh(recovery.orphans)
        log.info("store_recovered", **counts._asdict(), seconds=round(time.perf_counter() - started, 3))

    def _positions(self) -> list[tuple[str, int]]:
        rows = self._environment.scan(Db.POSITIONS)
        return [(key.decode(), int.from_bytes(raw, "big")) for key, raw in rows]

    @property
    def path(self) -> Path:
        return self._environment.folder

    # --- ticks ----------------------------------------------------------------------------------------------

    def _on_tick(self) -> None:
        if self._closed:
            return
        self._timer = self._loop.call_later(self._tick_s, self._on_tick)
        self.write_behind()
        self._seen.tick()
        self.quotas.write()
        self._im.measure()
        if self._sweep_timer is None and self._loop.time() >= self._sweep_at_s:
            self._on_sweep()
        self._metrics.set(Metric.STORE_PENDING, len(self._pending))
        self._metrics.set(Metric.STORE_WRITABLE, int(self.committer.writable))

    def _on_sweep(self) -> None:
        self._sweep_timer = None
        if self._closed:
            return
        if self.sweep():
            self._sweep_timer = self._loop.call_later(SWEEP_PAUSE_S, self._on_sweep)
        else:
            self._sweep_at_s = self._loop.time() + SWEEP_S

    def _hurry(self) -> None:
        """There is something to sweep that should not wait: the next tick begins."""
        self._sweep_at_s = 0.0

    def write_behind(self) -> None:
        """Histories and figures that changed go with the next commit; a tick does it by itself."""
        self._history.write_behind()
        if self._figures.dirty:
            self.committer.nudge()

    def sweep(self) -> bool:
        """Remove a slice of history past retention; True where there is more. A tick does it by itself."""
        more = self.receipts.sweep(self._clock())
        more = self.subscribers.sweep(self._clock()) or more
        if self.committer.writable:
            more = self.card_campaigns.sweep(self._clock() - self._history_ms) or more
            more = self._payloads.sweep(self._clock()) or more
        more = self._im.sweep() or more
        return self.directory.dead.sweep(self._clock()) or more

    def configure_im(self, im: Im) -> None:
        """Its bounds; before the first line of a log is written."""
        self._im.configure(im)

    # --- copies and end -------------------------------------------------------------------------------------

    async def backup(self, destination: Path) -> None:
        """A consistent copy of store and keys into a new or empty folder, while everything goes on; ConfigError where
        it can not be made."""
        if self.committer.writable:
            await self.committer.flush()
        await self.copy(destination)

    async def copy(self, destination: Path) -> None:
        """The same of what is in the folder by now, without waiting for what is not."""
        self._environment.begin_copy()
        copying = self._loop.run_in_executor(None, self._environment.copy_to, destination)
        self._copies.add(copying)

        def ended(_: asyncio.Future[None]) -> None:
            self._copies.discard(copying)
            self._environment.end_copy()

        copying.add_done_callback(ended)
        await asyncio.shield(copying)  # the other thread goes on whoever gives up here

    @property
    def _unwritten(self) -> int:
        return self.card_downloads.unwritten + self.card_campaigns.unwritten

    async def close(self) -> None:
        """Commit what waits, then close. Nothing may be accepted any more."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()
        self._history.write_behind()
        if self.committer.writable:
            self._sequences.stop()
            self._im.stop()
            self.directory.stop()
            self._seen.stop()
            self._receipt_numbers.stop()
            self._death_numbers.stop()
            self.quotas.write()
        elif self._unwritten:
            await self.committer.probe()  # perhaps there is room by now
        try:
            await self.committer.close()
            if self._partition is not None:
                await self._partition.log.close()
                self._partition.on_quiet()
            if self._unwritten:
                self._metrics.count(Metric.STORE_ROWS_DROPPED, self._unwritten)
                log.error("changes_not_written", changes=self._unwritten, consequence="downloads go on as they were")
            if self._copies:
                await asyncio.wait(self._copies)
            if self._partition is None:
                self._environment.sync()
            else:  # large folders take long, and this thread has other partitions
                await self._sync_elsewhere()
        finally:
            self._environment.close()
        if self._partition is not None:
            self._partition.on_closed()

    async def _sync_elsewhere(self) -> None:
        """On another thread, which has ended when this returns, however it does."""
        syncing = asyncio.get_running_loop().run_in_executor(None, self._environment.sync)
        try:
            await asyncio.shield(syncing)
        finally:
            if not syncing.done():
                await asyncio.wait((syncing,))
