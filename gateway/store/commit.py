"""Group commit: collects rows on the control thread and writes them in order on one commit thread.

While one commit is under way the next batch collects, so the batch size follows the disk. It must never let a row
overtake an earlier one, nor report a row durable before its transaction is on disk.

Three kinds of entries: *accepted* ones (a promise to a peer) fail with their commit and are undone; *kept* ones (what
was settled) are written again first, before anything new; *refreshed* ones (derived figures and cursors) are only
marked to be collected again. After a failed commit the store is not writable until a probe succeeds.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Collection, Iterable

import lmdb
import structlog

from gateway.config.sections import Store as StoreConfig
from gateway.metrics import Metric, Metrics
from gateway.model.errors import QueueFull, StoreUnavailable
from gateway.store.environment import WRITE_ERRORS, Environment
from gateway.store.records import DELETE, PUT, Db, Row

log = structlog.get_logger(__name__)

#: kept rows while nothing can be written, as a multiple of max_uncommitted. Past it the newest settled entry is
#: dropped and counted: after a restart that delivery is pending again (the device drops it by its id) and its receipt
#: is missing until then.
KEPT_FACTOR = 4
#: the probe writes so much that success means room for more than the probe itself
_PROBE_ROWS: list[Row] = [(PUT, Db.META, b"probe%02d" % i, bytes(1_500)) for i in range(16)]
#: LMDB reuses a page two transactions after the one that freed it; these are the two
_AGEING: list[Row] = [(PUT, Db.META, b"probe", b"\0")]
_PROBE_REMOVAL: list[Row] = [(DELETE, Db.META, key, b"") for _, _, key, _ in _PROBE_ROWS]

#: steps of a probe: write what was kept, write something of its own, done
_KEPT, _PROBE, _PROBED = range(3)

Call = Callable[[], None]


class _Entry:
    __slots__ = ("done", "future", "joined", "kept", "rows", "size", "undo")

    def __init__(
        self,
        rows: Collection[Row],
        future: asyncio.Future[None] | None,
        kept: bool,
        done: Call | None,
        undo: Call | None,
    ) -> None:
        self.rows = rows
        self.size = len(rows)
        self.future = future
        self.kept = kept
        self.done = done
        self.undo = undo
        self.joined = False  # in one transaction with the entry before it, however large that is


class Committer:
    """Control thread only, but for `_run`."""

    def __init__(
        self,
        environment: Environment,
        config: StoreConfig,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        *,
        probe_s: float = 1.0,
    ) -> None:
        self._environment = environment
        self._metrics = metrics
        self._loop = loop
        self._commit_s = config.commit_ms / 1_000
        self._commit_rows = config.commit_rows
        self._max_rows = config.max_uncommitted
        self._max_kept_rows = config.max_uncommitted * KEPT_FACTOR
        self._probe_s = probe_s
        self._waiting: list[_Entry] = []
        self._waiting_rows = 0
        self._flying: list[_Entry] | None = None  # None: the commit thread is idle
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
        self._jobs: queue.SimpleQueue[list[list[Collection[Row]]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="heliograph-commit", daemon=True)
        self._thread.start()
        if not self._writable:
            self._arm_probe()

    # --- entries --------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self._writable and not self._closed

    @property
    def waiting_rows(self) -> int:
        """Rows not durable yet."""
        return self._waiting_rows + self._flying_rows

    def admit(self, rows: int) -> None:
        """Raise StoreUnavailable or QueueFull where so many rows can not be accepted now."""
        if not self.writable:
            self._metrics.count(Metric.STORE_REFUSED, label="unavailable")
            raise StoreUnavailable()
        # an entry larger than the whole bound is taken when nothing else waits, else it never could be
        if self.waiting_rows and self.waiting_rows + rows > self._max_rows:
            self._metrics.count(Metric.STORE_REFUSED, label="uncommitted")
            raise QueueFull("too many rows wait for the disk; nothing was accepted")

    def accept(
        self, rows: Collection[Row], *, undo: Call | None = None, done: Call | None = None
    ) -> asyncio.Future[None]:
        """Rows of a promise. The future resolves when they are durable, or fails with StoreUnavailable after `undo`."""
        self.admit(len(rows))
        future: asyncio.Future[None] = self._loop.create_future()
        self._submit(_Entry(rows, future, False, done, undo))
        return future

    def keep(self, rows: Collection[Row], *, done: Call | None = None) -> None:
        """Rows that must be written sooner or later; never refused."""
        self._submit(_Entry(rows, None, True, done, None))
        if not self._writable:
            self._bound_kept()

    def refresh(self, rows: Collection[Row], *, redo: Call | None = None, done: Call | None = None) -> None:
        """Rows that can be made again; `redo` is called where their commit failed."""
        self._submit(_Entry(rows, None, False, done, redo))

    def join(self, rows: Collection[Row], *, redo: Call | None = None, done: Call | None = None) -> None:
        """The same, in one transaction with what was submitted last, which must be of this turn of the loop."""
        entry = _Entry(rows, None, False, done, redo)
        entry.joined = bool(self._waiting)
        self._submit(entry)

    def local(self, rows: Collection[Row], *, done: Call | None = None) -> None:
        """Rows of this folder alone, that another place has too; never refused."""
        self.keep(rows, done=done)

    def add_source(self, drain: Call) -> None:
        """`drain` is called just before each cut and may `refresh` what changed since the last."""
        self._sources.append(drain)

    def add_hook(self, hook: Call) -> None:
        """`hook` is called after each commit, after its entries' own `done`."""
        self._hooks.append(hook)

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

    def _submit(self, entry: _Entry) -> None:
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

    def _take(self) -> list[_Entry]:
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

    def _fly(self, batch: list[_Entry], *more: list[Row]) -> None:
        self._flying = batch
        self._flying_rows = sum(entry.size for entry in batch)
        self._started_s = self._loop.time()
        groups: list[list[Collection[Row]]] = [[entry.rows for entry in batch if entry.size]] if batch else []
        self._jobs.put(groups + [[rows] for rows in more])

    def _run(self) -> None:
        """The commit thread: each job is a list of transactions."""
        while (job := self._jobs.get()) is not None:
            error: BaseException | None = None
            try:
                for groups in job:
                    if groups:
                        self._environment.apply(groups)
            except BaseException as exc:
                error = exc
            try:
                self._loop.call_soon_threadsafe(self._on_landed, error)
            except RuntimeError:
                return  # the loop was closed without closing the store

    def _on_landed(self, error: BaseException | None) -> None:
        batch, self._flying = self._flying or [], None
        rows, self._flying_rows = self._flying_rows, 0
        if error is not None:
            self._on_failed(batch, error)
            return
        self._metrics.count(Metric.STORE_COMMITS)
        self._metrics.count(Metric.STORE_COMMIT_ROWS, rows)
        self._metrics.observe(Metric.STORE_COMMIT_SECONDS, self._loop.time() - self._started_s)
        for entry in batch:
            if entry.done is not None:
                entry.done()
            if entry.future is not None and not entry.future.done():
                entry.future.set_result(None)
        for hook in self._hooks:
            hook()
        if self._probing:
            self._probe_on()
        else:
            self._cut()

    # --- trouble --------------------------------------------------------------------------------------------

    def _on_failed(self, batch: list[_Entry], error: BaseException) -> None:
        self._metrics.count(Metric.STORE_COMMIT_FAILURES, label=type(error).__name__)
        if self._writable:
            self._writable = False
            log.error("store_not_writable", reason=f"{type(error).__name__}: {error}", consequence="pushes get 503")
        if not isinstance(error, WRITE_ERRORS):
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
        # last first, so that each undo finds the state its entry left
        for entry in reversed(entries):
            if not entry.kept and entry.undo is not None:
                entry.undo()
        for entry in entries:
            if entry.future is not None and not entry.future.done():
                entry.future.set_exception(StoreUnavailable())
                entry.future.exception()  # a caller that went away is no reason for a warning
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

    def _arm_probe(self) -> None:
        if self._probe_timer is None and not self._closed:
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
            self._fly([], _PROBE_ROWS, _PROBE_REMOVAL)
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
        if self._writable:
            return True
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
            if self._writable or (self._waiting and await self.probe()):
                await self.flush()
                while self._waiting and self._writable:  # what the sources had may be more than one commit takes
                    await self.flush()
        except StoreUnavailable:
            pass
        self._closed = True
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting:
            self._metrics.count(Metric.STORE_ROWS_DROPPED, self._waiting_rows)
            log.error("rows_not_written", rows=self._waiting_rows, consequence="settled deliveries may come again")
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)


def chain(rows: Iterable[Iterable[Row]]) -> list[Row]:
    """Rows of several parts as those of one entry."""
    return [row for part in rows for row in part]
