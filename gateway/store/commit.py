"""Group commit: collects rows on the control thread and writes them in order on one commit thread.

While one commit is under way the next batch collects, so the batch size follows the disk. It must never let a row
overtake an earlier one, nor report a row durable before its transaction is on disk.

Three kinds of entries: *accepted* ones (a promise to a peer) fail with their commit and are undone; *kept* ones (what
was settled) are written again first, before anything new; *refreshed* ones (derived figures and cursors) are only
marked to be collected again. After a failed commit the store is not writable until a probe succeeds.

Over a CommitLog (a partition of a fleet) a commit is packed here, made durable there, and then applied with its place;
*local* entries are only applied. Where the log is another node's by now, or the folder can not follow it, this ends.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Collection, Iterable

import lmdb
import structlog

from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metric, Metrics
from gateway.model.cluster import CommitLog
from gateway.model.errors import AcceptTimeout, GatewayError, LogFenced, LogUnavailable, QueueFull, StoreUnavailable
from gateway.store.commit_entry import Call, Entry, fail, undo_all
from gateway.store.environment import WRITE_ERRORS, Environment
from gateway.store.folder_size import FolderSize
from gateway.store.records import DELETE, PUT, Db, Row, pack_u64
from gateway.store.row_codec import build_rows, is_small

log = structlog.get_logger(__name__)

#: place in the log of the last commit that the folder has
APPLIED_KEY = b"applied"
#: with a log: how long `close` waits for what is not durable yet
CLOSE_S = 10.0
#: kept rows while nothing can be written, as a multiple of max_uncommitted. Past it the newest settled entry is
#: dropped and counted: after a restart that delivery is pending again (the device drops it by its id) and its receipt
#: is missing until then.
KEPT_FACTOR = 4
#: the probe writes so much that success means room for more than the probe itself
_PROBE_ROWS: list[Row] = [(PUT, Db.META, b"probe%02d" % i, bytes(1_500)) for i in range(16)]
#: LMDB reuses a page two transactions after the one that freed it; these are the two
_AGEING: list[Row] = [(PUT, Db.META, b"probe", b"\0")]
_PROBE_REMOVAL: list[Row] = [(DELETE, Db.META, key, b"") for _, _, key, _ in _PROBE_ROWS]

#: the same as one commit of a log
_LOG_PROBE: list[Row] = [*_PROBE_ROWS, *_PROBE_REMOVAL]

#: steps of a probe: write what was kept, write something of its own, done
_KEPT, _PROBE, _PROBED = range(3)

#: rows of one transaction, by their entries
Groups = list[Collection[Row]]


class _Job:
    """Transactions for the commit thread. `logged`: what of them is packed first, and applied by a job that follows."""

    __slots__ = ("logged", "transactions")

    def __init__(self, transactions: list[Groups], logged: Groups | None = None) -> None:
        self.transactions = transactions
        self.logged = logged


class Committer:
    """Control thread only, but for `_run`. `on_fenced`: the log is another node's; `on_behind`: the folder lacks what
    the log has, and has to be opened again from it. After either nothing is written any more."""

    def __init__(
        self,
        environment: Environment,
        config: StoreConfig,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        *,
        probe_s: float = 1.0,
        commit_log: CommitLog | None = None,
        on_fenced: Call = lambda: None,
        on_behind: Call = lambda: None,
    ) -> None:
        self._environment = environment
        self._log = commit_log
        self._on_fenced = on_fenced
        self._on_behind = on_behind
        self._size = FolderSize(environment, config.max_bytes)  # with a log
        self._end: GatewayError | None = None  # with a log: why nothing is written any more
        self._flying_job: _Job | None = None
        self._metrics = metrics
        self._loop = loop
        self._commit_s = config.commit_ms / 1_000
        self._commit_rows = config.commit_rows
        self._max_rows = config.max_uncommitted
        self._max_kept_rows = config.max_uncommitted * KEPT_FACTOR
        self._probe_s = probe_s
        self._waiting: list[Entry] = []
        self._waiting_rows = 0
        self._flying: list[Entry] | None = None  # None: the commit thread is idle
        self._flying_rows = 0
        self._started_s = 0.0
        self._timer: asyncio.Handle | None = None
        self._hurried = False  # the timer was set to fire at once
        self._due = False  # the waiting rows have waited long enough
        self._writable = not environment.readonly
        self._full = False  # the last failure was a full map: kept rows may use the reserve
        self._panic = environment.readonly  # the environment has to be opened again before anything can be written
        self._probing = False  # the commit under way belongs to a probe
        self._step = _KEPT  # of the probe
        self._probe_timer: asyncio.TimerHandle | None = None
        self._probe_ends: list[asyncio.Future[None]] = []
        self._closed = False
        self._sources: list[Call] = []
        self._hooks: list[Call] = []
        self._at_landing: list[Call] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="heliograph-commit", daemon=True)
        self._thread.start()
        if not self._writable:
            self._arm_probe()

    # --- entries --------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self._writable and not self._closed and (self._log is None or not self._log.stalled)

    @property
    def ended(self) -> bool:
        """Nothing is written any more: the partition is another node's, or has to be opened again."""
        return self._end is not None

    @property
    def waiting_rows(self) -> int:
        """Rows not durable yet."""
        return self._waiting_rows + self._flying_rows

    def admit(self, rows: int) -> None:
        """Raise StoreUnavailable (of a log: LogUnavailable) or QueueFull where so many rows can not be accepted now."""
        if not self.writable:
            self._metrics.count(Metric.STORE_REFUSED, label="unavailable")
            raise type(self._end or self._refusal())()
        if rows and self._size.is_over:
            self._metrics.count(Metric.STORE_REFUSED, label="full")
            raise StoreUnavailable("the store is full; nothing was accepted")
        # an entry larger than the whole bound is taken when nothing else waits, else it never could be
        if rows and self.waiting_rows and self.waiting_rows + rows > self._max_rows:
            self._metrics.count(Metric.STORE_REFUSED, label="uncommitted")
            raise QueueFull("too many rows wait for the disk; nothing was accepted")

    def accept(
        self, rows: Collection[Row], *, undo: Call | None = None, done: Call | None = None, joined: bool = False
    ) -> asyncio.Future[None]:
        """Rows of a promise. The future resolves when they are durable, or fails with StoreUnavailable after `undo`.
        `joined`: see `join`."""
        # what is joined was admitted with that: refused now, one would be there without the other
        if not (joined and self._waiting and self._writable and not self._closed):
            self.admit(len(rows))
        future: asyncio.Future[None] = self._loop.create_future()
        self._submit(Entry(rows, future, False, done, undo), joined=joined)
        return future

    def keep(self, rows: Collection[Row], *, done: Call | None = None) -> None:
        """Rows that must be written sooner or later; never refused."""
        self._submit(Entry(rows, None, True, done, None))
        if not self.writable:
            self._bound_kept()

    def local(self, rows: Collection[Row], *, done: Call | None = None) -> None:
        """Rows that can be had again from elsewhere: kept, but for this folder alone, not for the log."""
        self._submit(Entry(rows, None, True, done, None, local=True))
        if not self.writable:
            self._bound_kept()

    def refresh(self, rows: Collection[Row], *, redo: Call | None = None, done: Call | None = None) -> None:
        """Rows that can be made again; `redo` is called where their commit failed."""
        self._submit(Entry(rows, None, False, done, redo))

    def join(self, rows: Collection[Row], *, redo: Call | None = None, done: Call | None = None) -> None:
        """The same, in one transaction with what was submitted last, which must be of this turn of the loop."""
        self._submit(Entry(rows, None, False, done, redo), joined=True)

    def add_source(self, drain: Call) -> None:
        """`drain` is called just before each cut and may `refresh` what changed since the last."""
        self._sources.append(drain)

    def add_hook(self, hook: Call) -> None:
        """`hook` is called after each commit, after its entries' own `done`."""
        self._hooks.append(hook)

    @property
    def is_flying(self) -> bool:
        """A commit is under way: what is submitted now waits for the next one."""
        return self._flying is not None

    def at_landing(self, call: Call) -> None:
        """`call` once, when the commit under way has ended, however it did: what it submits is in the next one. It does
        not raise."""
        self._at_landing.append(call)

    def nudge(self) -> None:
        """Cut a batch soon although nothing was submitted: a source has something."""
        if self._writable and not self._closed:
            self._arm()

    async def flush(self) -> None:
        """Return when everything submitted so far is durable; raises StoreUnavailable where that failed."""
        landed = self.accept(())
        self._arm(hurry=True)
        await landed

    # --- batches --------------------------------------------------------------------------------------------

    def _submit(self, entry: Entry, *, joined: bool = False) -> None:
        entry.joined = joined and bool(self._waiting)
        if self._end is not None:
            self._give_up([entry])
            return
        self._waiting.append(entry)
        self._waiting_rows += entry.size
        if self._writable and not self._closed:
            self._arm()  # else the probe takes it along

    def _arm(self, *, hurry: bool = False) -> None:
        if self._due:
            return
        if hurry or self._waiting_rows >= self._commit_rows:
            if not self._hurried:
                if self._timer is not None:
                    self._timer.cancel()
                # not at once: what one callback submits belongs into one transaction
                self._timer = self._loop.call_soon(self._on_timer)
                self._hurried = True
        elif self._timer is None:
            self._timer = self._loop.call_later(self._commit_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._hurried = False
        self._due = True
        self._cut()

    def _cut(self) -> None:
        if self._flying is not None or not self._due or not self._writable:
            return
        for drain in self._sources:
            drain()
        self._due = False
        if self._waiting:
            self._fly(self._take())
        if self._waiting:
            self._due = True

    def _take(self) -> list[Entry]:
        """The next batch: whole entries, up to commit_rows rows, at least one entry."""
        rows = count = 0
        for entry in self._waiting:
            if count and not entry.joined and rows + entry.size > self._commit_rows:
                break
            rows += entry.size
            count += 1
        batch = self._waiting[:count]
        del self._waiting[:count]
        self._waiting_rows -= rows
        return batch

    def _fly(self, batch: list[Entry], *more: list[Row]) -> None:
        self._flying = batch
        self._flying_rows = sum(entry.size for entry in batch)
        self._started_s = self._loop.time()
        transactions: list[Groups] = [[entry.rows for entry in batch if entry.size]] if batch else []
        transactions += [[rows] for rows in more]
        job = _Job(transactions)
        if self._log is not None:
            logged: Groups = [entry.rows for entry in batch if entry.size and not entry.local]
            job.logged = logged + list(more) or None
        self._flying_job = job
        if job.logged is not None and not more and is_small(job.logged):
            self._pack_here(job.logged)
        else:
            self._jobs.put(job)

    def _pack_here(self, rows: Groups) -> None:
        """Few rows are packed before another thread would have woken up."""
        try:
            packed = build_rows(rows)
        except Exception as exc:
            self._loop.call_soon(self._on_landed, exc)
        else:
            self._loop.call_soon(self._append, packed)

    def _run(self) -> None:
        """The commit thread."""
        while (job := self._jobs.get()) is not None:
            error: BaseException | None = None
            packed: bytes | None = None
            try:
                if job.logged is not None:
                    packed = build_rows(job.logged)
                else:
                    for groups in job.transactions:
                        if groups:
                            self._environment.apply(groups)
            except BaseException as exc:
                error = exc
            try:
                if packed is not None:
                    self._loop.call_soon_threadsafe(self._append, packed)
                else:
                    self._loop.call_soon_threadsafe(self._on_landed, error)
            except RuntimeError:
                return  # the loop was closed without closing the store

    # --- with a log -----------------------------------------------------------------------------------------

    def _append(self, packed: bytes) -> None:
        if self._closed or self._log is None:
            self._on_landed(LogUnavailable())  # it was not given to the log, and never will be
            return
        self._log.append(packed).add_done_callback(self._on_logged)

    def _on_logged(self, appended: asyncio.Future[int]) -> None:
        """The log has it or not; where it has, the same rows follow into the folder with their place."""
        job = self._flying_job
        if appended.cancelled():
            self._on_landed(asyncio.CancelledError())
        elif (error := appended.exception()) is not None:
            self._on_landed(error)
        elif self._closed or job is None:
            # the folder is behind: who opens it next applies this from the log
            self._resolve(self._flying or [])
            self._flying, self._flying_job, self._flying_rows = None, None, 0
            self._call_at_landing()
        else:
            applied: Row = (PUT, Db.META, APPLIED_KEY, pack_u64(appended.result()))
            # all in one: a place is applied as a whole
            rows = [group for groups in job.transactions for group in groups]
            self._flying_job = _Job([])  # from here on the log has it
            self._jobs.put(_Job([[*rows, [applied]]]))

    def _has_failed_with_log(self, batch: list[Entry], error: BaseException) -> bool:
        """Was it a failure that ends this? What the log refused for now is only a failed commit."""
        job = self._flying_job
        if isinstance(error, LogFenced):
            self._stop(batch, LogFenced())
            self._tell(self._on_fenced)
        elif isinstance(error, LogUnavailable):
            return False
        elif job is not None and job.logged is None:
            # the log has these rows, or needs none: they are durable, and only this folder lacks them
            log.error("partition_behind", reason=f"{type(error).__name__}: {error}", consequence="it is opened again")
            self._resolve(batch)
            self._stop([], StoreUnavailable())
            self._tell(self._on_behind)
        else:
            # perhaps the log has them: only who reads it again knows
            log.error("commit_in_doubt", reason=f"{type(error).__name__}: {error}", consequence="it is opened again")
            self._stop(batch, StoreUnavailable(), AcceptTimeout())
            self._tell(self._on_behind)
        return True

    def _tell(self, call: Call) -> None:
        if not self._closed:  # else there is nothing left to end
            call()

    def _resolve(self, batch: list[Entry]) -> None:
        for entry in batch:
            if entry.future is not None and not entry.future.done():
                entry.future.set_result(None)

    def _stop(self, batch: list[Entry], error: GatewayError, of_batch: GatewayError | None = None) -> None:
        """Nothing is written any more; what waits fails, and the batch as `of_batch` says."""
        entries, self._waiting, self._waiting_rows = batch + self._waiting, [], 0
        for entry in batch:
            fail(entry, of_batch or error)
        self._writable = False
        self._end = error
        for timer in (self._timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._probe_timer = None
        self._hurried = self._due = False
        self._give_up(entries)
        self._end_probe()

    def _give_up(self, entries: list[Entry]) -> int:
        """Tell them that they are not written. Rows lost with them: settled ones, which nobody makes again."""
        lost = sum(entry.size for entry in entries if entry.kept and not entry.local)
        if lost:
            self._metrics.count(Metric.STORE_ROWS_DROPPED, lost)
        undo_all(entries, self._end or self._refusal())
        return lost

    def _refusal(self) -> GatewayError:
        return StoreUnavailable() if self._log is None else LogUnavailable()

    def _on_landed(self, error: BaseException | None) -> None:
        batch, self._flying = self._flying or [], None
        rows, self._flying_rows = self._flying_rows, 0
        if error is not None:
            if self._log is None or not self._has_failed_with_log(batch, error):
                self._on_failed(batch, error)
            self._flying_job = None
            self._call_at_landing()
            return
        self._flying_job = None
        if self._log is not None:
            self._size.committed(rows)
        self._metrics.count(Metric.STORE_COMMITS)
        self._metrics.count(Metric.STORE_COMMIT_ROWS, rows)
        self._metrics.observe(Metric.STORE_COMMIT_SECONDS, self._loop.time() - self._started_s)
        for entry in batch:
            if entry.done is not None:
                entry.done()
        self._resolve(batch)
        for hook in self._hooks:
            hook()
        self._call_at_landing()
        if self._probing:
            self._probe_on()
        else:
            self._cut()

    def _call_at_landing(self) -> None:
        calls, self._at_landing = self._at_landing, []
        for call in calls:
            call()

    # --- trouble --------------------------------------------------------------------------------------------

    def _on_failed(self, batch: list[Entry], error: BaseException) -> None:
        self._metrics.count(Metric.STORE_COMMIT_FAILURES, label=type(error).__name__)
        if self._writable:
            self._writable = False
            log.error("store_not_writable", reason=f"{type(error).__name__}: {error}", consequence="pushes get 503")
        if not isinstance(error, (*WRITE_ERRORS, LogUnavailable)):
            log.error("commit_failed_unexpectedly", exc_info=error)
        self._full = isinstance(error, lmdb.MapFullError)
        self._panic = isinstance(error, (lmdb.PanicError, lmdb.ReadonlyError, lmdb.BadTxnError))
        entries = batch + self._waiting
        self._waiting = [entry for entry in entries if entry.kept]
        self._waiting_rows = sum(entry.size for entry in self._waiting)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hurried = self._due = False
        undo_all(entries, self._refusal())
        self._bound_kept()
        self._end_probe()
        self._arm_probe()

    def _bound_kept(self) -> None:
        while self._waiting_rows > self._max_kept_rows and len(self._waiting) > 1:
            entry = self._waiting.pop()
            self._waiting_rows -= entry.size
            if entry.kept:
                self._metrics.count(Metric.STORE_ROWS_DROPPED, entry.size)
            if entry.undo is not None:
                entry.undo()
            elif entry.done is not None:
                entry.done()
            fail(entry, self._refusal())  # accepted before the log stalled

    def _arm_probe(self) -> None:
        if self._probe_timer is None and not self._closed and self._end is None:
            self._probe_timer = self._loop.call_later(self._probe_s, self._probe)

    def _probe(self) -> None:
        """Try again: first what was kept (in the reserve where the map is full), then a small write of its own."""
        self._probe_timer = None
        self._probing = True
        if self._panic:
            try:
                if self._environment.may_write():
                    self._environment.reopen()
            except Exception as exc:  # it stays closed for writing; reads fail until a later probe opens it
                log.error("store_reopen_failed", reason=f"{type(exc).__name__}: {exc}")
                self._end_probe()
                self._arm_probe()
                return
            if self._environment.readonly:
                self._end_probe()
                self._arm_probe()
                return
            self._panic = False
        for drain in self._sources:
            drain()
        self._step = _KEPT
        self._probe_on()

    def _probe_on(self) -> None:
        if self._step == _KEPT:
            if self._full:
                self._environment.grow()
            if self._waiting:
                self._fly(self._take())
                return
            self._step = _PROBE
            if self._full:
                self._fly([], _AGEING, _AGEING)
                return
        if self._step == _PROBE:
            self._step = _PROBED
            if self._full:
                self._environment.shrink()
            if self._log is None:
                self._fly([], _PROBE_ROWS, _PROBE_REMOVAL)
            else:
                self._fly([], _LOG_PROBE)
        else:
            self._writable = True
            self._full = False
            log.info("store_writable")
            self._end_probe()
            self._arm()  # a source may have got something while the probe was under way

    def _end_probe(self) -> None:
        self._probing = False
        ends, self._probe_ends = self._probe_ends, []
        for end in ends:
            if not end.done():
                end.set_result(None)

    async def probe(self) -> bool:
        """Try now instead of at the next tick; returns whether the store is writable."""
        if self._writable or self._end is not None:
            return self._writable
        end: asyncio.Future[None] = self._loop.create_future()
        self._probe_ends.append(end)
        if not self._probing:
            if self._probe_timer is not None:
                self._probe_timer.cancel()
            self._probe()
        await end
        return self._writable

    async def close(self) -> None:
        """Write what waits, stop the thread. What could not be written is counted and logged."""
        if self._closed:
            return
        try:
            # a log that does not answer must not keep a node from its end
            async with asyncio.timeout(None if self._log is None else CLOSE_S):
                if self._writable or (self._waiting and await self.probe()):
                    await self.flush()
                    while self._waiting and self._writable:  # what the sources had may be more than one commit takes
                        await self.flush()
        except (GatewayError, TimeoutError):
            pass
        self._closed = True
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        # the log may yet answer for what is under way; what waits behind it never gets that far
        entries, self._waiting, self._waiting_rows = self._waiting, [], 0
        if lost := self._give_up(entries):
            log.error("rows_not_written", rows=lost, consequence="settled deliveries may come again")
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)


def chain(rows: Iterable[Iterable[Row]]) -> list[Row]:
    """Rows of several parts as those of one entry."""
    return [row for part in rows for row in part]
