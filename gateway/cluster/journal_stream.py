"""The journal of a partition as a JetStream stream: model.cluster.CommitLog for its owner; must never say that a commit
is durable, or is not, before it is known.

Every message carries the sequence that it expects to be the stream's last. So there is one order of owners' writes: who
has taken the stream over by an epoch record is behind whatever came before, and what an earlier owner sends after that
is refused by NATS. An answer that was lost is had again by looking at what stands where the message should.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from gateway.cluster.jetstream import (
    WRONG_LAST,
    JetStream,
    JetStreamError,
    NatsConnection,
    NoAnswer,
    NobodyThere,
    NotSent,
    Refused,
    StreamState,
)
from gateway.cluster.journal_records import (
    ID,
    MalformedJournal,
    Record,
    build_headers,
    journal_stream,
    journal_subject,
    parse_record,
)
from gateway.cluster.task_end import end_task
from gateway.config.cluster_section import Cluster
from gateway.model.errors import LogFenced, LogUnavailable

log = structlog.get_logger(__name__)

#: how long one try waits for its answer, and between two tries
TRY_S = 1.0
#: the same of making a stream: its servers elect a leader first, which takes them 4 to 9 s where the first votes came
#: too early (nats-server, raft.go), and who gives up moves the partition
MAKE_S = 12.0
PAUSE_S = 0.05
MOST_PAUSE_S = 0.5
#: a stream that ends before what it has acknowledged, for so long, has lost it
LOST_S = 10.0
#: what a message has besides its body
HEADER_BYTES = 1_024
#: the server remembers message ids for so long; what decides is the expected sequence
_DUPLICATE_WINDOW_S = 10
#: of the server: the stream, or the disk below it, is full
_FULL = frozenset({10077, 10047, 10023})


def journal_config(settings: Cluster, partition: int) -> dict[str, Any]:
    return {
        "name": journal_stream(settings.name, partition),
        "subjects": [journal_subject(settings.name, partition)],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_bytes": settings.journal_bytes,
        "num_replicas": settings.replicas,
        "duplicate_window": _DUPLICATE_WINDOW_S * 1_000_000_000,
        "deny_delete": True,
    }


class JournalLost(Exception):
    """The stream lacks what it has acknowledged: it was made anew, or its servers lost it."""


class JournalStream:
    """Control thread only. One commit is under way at a time."""

    def __init__(self, link: NatsConnection, settings: Cluster, partition: int) -> None:
        self._js = JetStream(link, timeout_s=TRY_S)
        self._settings = settings
        self._partition = partition
        self._stream = journal_stream(settings.name, partition)
        self._subject = journal_subject(settings.name, partition)
        self._part_bytes = settings.message_bytes
        self._loop = asyncio.get_running_loop()
        self._life = secrets.token_hex(8)
        self._commits = 0
        self._epoch = 0
        self._last = 0  # sequence of the stream's last message, as this owner left it
        self._since_s = 0.0  # when the commit under way was given; 0: none
        self._is_fenced = False
        self._short_since_s = 0.0  # when the stream first was seen to lack what it had; 0: it does not
        self._gone_since_s = 0.0  # when it first was seen to be gone; 0: it is not
        self._task: asyncio.Task[None] | None = None
        #: what was written since the start, to know when a snapshot is due
        self.written_bytes = 0
        #: called when it is closed
        self.on_close: Callable[[], Awaitable[None]] = _nothing

    @property
    def stalled(self) -> bool:
        return self._since_s > 0 and self._loop.time() - self._since_s > self._settings.stall_s

    @property
    def stream(self) -> str:
        return self._stream

    @property
    def last(self) -> int:
        return self._last

    # --- taking over ----------------------------------------------------------------------------------------

    async def open(self, epoch: int, created: str = "") -> tuple[StreamState, int]:
        """Take the stream over that was made at `created`, or make one (empty): its state before, and the place of the
        epoch record, behind which nobody of an older epoch can write. LogFenced: a newer owner has; LogUnavailable: not
        now."""
        self._epoch = epoch
        if self._js.link.is_up and self._js.link.nats.max_payload - HEADER_BYTES < self._part_bytes:
            self._part_bytes = self._js.link.nats.max_payload - HEADER_BYTES
            log.warning("message_bytes_too_large", setting="cluster.message_bytes", taken=self._part_bytes)
        try:
            state = await self._js.ensure(journal_config(self._settings, self._partition), MAKE_S)
            if created and state.created != created:
                raise LogUnavailable("the journal of a partition was made anew this moment")
            now: StreamState | None = state
            while True:
                if now is None or now.last:
                    last = await self._js.message(self._stream, last_of=self._subject)
                    if last is not None and (reached := parse_record(last.headers).epoch) > epoch:
                        fenced = LogFenced()
                        fenced.epoch = reached
                        raise fenced
                else:
                    last = None  # one that was just made needs no look: whoever wrote since refuses what comes
                # where it was emptied only its state knows where it goes on
                self._last = max(last.seq if last is not None else 0, now.last if now is not None else 0)
                try:
                    await self._write(Record(f"{self._next_id()}.0", epoch, 0, 0), b"")
                except LogFenced:
                    now = await self._js.state(self._stream)
                    continue  # the owner before wrote once more: behind that then
                return state, self._last
        except MalformedJournal as exc:
            log.error("journal_malformed", partition=self._partition, reason=str(exc))
            raise LogUnavailable("the journal of a partition holds what this version does not know") from exc
        except JetStreamError as exc:
            raise LogUnavailable(f"the journal of a partition can not be opened: {exc}") from exc

    def _next_id(self) -> str:
        self._commits += 1
        return f"{self._life}-{self._commits}"

    # --- CommitLog ------------------------------------------------------------------------------------------

    def append(self, rows: bytes) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        if self._is_fenced:
            future.set_exception(LogFenced())
            return future
        if self._task is not None and not self._task.done():
            raise RuntimeError("one commit at a time")
        self._since_s = self._loop.time()
        self._task = self._loop.create_task(self._append(rows, future))
        return future

    async def _append(self, rows: bytes, future: asyncio.Future[int]) -> None:
        try:
            place = await self._write_parts(rows)
        except LogFenced as exc:
            self._is_fenced = True
            log.warning("journal_fenced", partition=self._partition, epoch=self._epoch)
            _fail(future, exc)
        except asyncio.CancelledError:
            future.cancel()
            raise
        except Exception as exc:
            _fail(future, exc)
        else:
            self.written_bytes += len(rows)
            if not future.done():
                future.set_result(place)
        finally:
            self._since_s = 0.0

    async def _write_parts(self, rows: bytes) -> int:
        commit, size = self._next_id(), self._part_bytes
        parts = max(1, -(-len(rows) // size))
        for part in range(1, parts + 1):
            body = rows if parts == 1 else rows[(part - 1) * size : part * size]
            await self._write(Record(f"{commit}.{part}", self._epoch, part, parts), body)
        return self._last

    async def _write(self, record: Record, body: bytes) -> None:
        """One message behind the last. Returns when it is there; LogFenced: another's is; LogUnavailable: it certainly
        is not, and will not be."""
        headers = build_headers(record, self._last)
        wanted = self._last + 1
        in_doubt = False  # a try may have been carried out
        given_up_s = self._loop.time() + self._settings.stall_s
        pause_s = PAUSE_S
        while True:
            try:
                stored = await self._js.publish(self._subject, body, headers, TRY_S)
                if stored.seq != wanted:
                    raise MalformedJournal(f"a message at {stored.seq} that was to be at {wanted}")
                break
            except (NotSent, NobodyThere) as exc:
                # an election takes a moment
                if not in_doubt and self._loop.time() > given_up_s:
                    await self._look_for_stream()
                    raise LogUnavailable(f"{exc}") from exc
            except NoAnswer:
                in_doubt = True
            except Refused as exc:
                if exc.err_code in WRONG_LAST:
                    if await self._is_there(wanted, record.id):
                        break
                    in_doubt = True  # what is on its way counts as there for the server
                elif not in_doubt and (exc.err_code in _FULL and "maximum" in exc.text):
                    raise LogUnavailable(f"the journal is full: {exc}") from exc
                else:
                    log.warning("journal_refused", partition=self._partition, reason=str(exc))
                    in_doubt = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)
            if in_doubt and await self._is_there(wanted, record.id):
                break
        self._last, self._gone_since_s = wanted, 0.0

    async def _look_for_stream(self) -> None:
        """JournalLost where it has been gone for a while: whoever would adopt the partition says so, this owner would
        try for ever."""
        try:
            state = await self._js.state(self._stream)
        except JetStreamError:
            return
        if state is not None:
            self._gone_since_s = 0.0
        elif not self._gone_since_s:
            self._gone_since_s = self._loop.time()
        elif self._loop.time() - self._gone_since_s > LOST_S:
            raise JournalLost("the journal is gone: NATS has no such stream any more")

    async def _is_there(self, seq: int, ident: str) -> bool:
        """LogFenced where another's message stands there, or did."""
        try:
            found = await self._js.message(self._stream, seq=seq)
            if found is not None:
                if found.headers.get(ID) == ident:
                    return True
                raise LogFenced
            state = await self._js.state(self._stream)
        except JetStreamError:
            return False  # not known: ask again
        if state is None:
            raise LogFenced  # somebody removed the stream: whatever comes next is another's
        if state.first > seq:
            raise LogFenced  # written and removed again behind a snapshot: only an owner after this one does that
        if state.last >= seq - 1:
            self._short_since_s = 0.0
        elif not self._short_since_s:
            self._short_since_s = self._loop.time()
        elif self._loop.time() - self._short_since_s > LOST_S:
            raise JournalLost(f"the journal ends at {state.last}, and had {seq - 1}")
        return False

    async def close(self) -> None:
        """Who waits for a commit in doubt does not hear of it any more."""
        await self.on_close()
        task, self._task = self._task, None
        await end_task(task)


async def _nothing() -> None:
    pass


def _fail(future: asyncio.Future[int], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a store that was closed meanwhile is no reason for a warning
