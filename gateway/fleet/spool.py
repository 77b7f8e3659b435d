"""The spool of a node: pushes that the fleet can not take now are kept on this node's disk, and taken in later, in
their order and each once.

Must never answer for a push before it is on disk, take one in without its key, or let one to the same target overtake
another. A push is known to its owner by an idempotency key (the provider's own, else one that this spool makes of its
identity and the push's number), so what was taken in and not noted before a crash is found again, not made twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec
import structlog

from gateway.api.once import hash_body
from gateway.cluster.fleet_identity import FleetIdentity
from gateway.config.sections import Config
from gateway.delivery.request import PushRequest
from gateway.fleet.spool_record import (
    DOUBT_S,
    TAGS,
    Fate,
    Kept,
    build_fate,
    build_kept,
    first_of,
    next_number,
    pack_request,
    parse_fate,
    parse_kept,
    parse_request,
)
from gateway.metrics import Metric, Metrics
from gateway.model.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    GatewayError,
    LogFenced,
    LogUnavailable,
    NodeUnreachable,
    QueueFull,
    StoreUnavailable,
)
from gateway.model.registration import App
from gateway.store.spool_rows import WRITE_ERRORS, SpoolRows

log = structlog.get_logger("gateway.fleet")

#: pushes that may wait, whatever their size: each takes some bytes of RAM too
WAITING_MOST = 2_000_000
#: counted for each row beside its record
ROW_BYTES = 64
#: read from disk at once while taking in, and targets taken in beside each other
CHUNK = 128
AT_ONCE = 32
#: between two looks whether the fleet can be reached, and after a pass in which some could not be taken in
LOOK_S = 0.25
AGAIN_S = 1.0
AGAIN_MOST_S = 15.0
#: characters of a refusal that are kept
_MESSAGE_CHARS = 300

#: gives a push to the fleet: its sequence. Raises GatewayError; a retryable one is tried again
TakeIn = Callable[[Kept], Awaitable[int]]
#: says whether the fleet has it: its sequence, or 0. Raises GatewayError where that can not be said
Known = Callable[[Kept], Awaitable[int]]


def fates_s(config: Config) -> int:
    """For how long it is told what became of a push: as long as of other pushes, and an hour at least."""
    return max(int(config.store.history_days * 86_400), 3_600)


def _make_its_own(rows: SpoolRows, fleet: FleetIdentity) -> None:
    found = rows.fleet
    if found == fleet.ident:
        return
    if found and rows.waiting(limit=1):
        raise ConfigError(
            f"pushes wait in this folder that another fleet ({found}) accepted, and this is {fleet}: run this node"
            " in the other until they are taken in, or name another folder",
            field="cluster.spool",
        )
    try:
        rows.belong_to(fleet.ident)
    except WRITE_ERRORS as exc:
        if found:
            raise ConfigError(f"the spool can not be written: {type(exc).__name__}", field="cluster.spool") from exc
        # a full disk: what waits has to be taken in all the same
        log.warning("spool_fleet_not_written", reason=type(exc).__name__)
        rows.reopen()


class _Waiting(NamedTuple):
    number: int
    kept: Kept
    size: int


class _Settled(NamedTuple):
    number: int
    kept: Kept | None  # None: it could not be read
    size: int
    fate: Fate


class _Chain(NamedTuple):
    """What became of pushes to one target; not done: one of them has to wait, and so do those behind it that are not
    over. In doubt: one is over, and it could not be said whether the fleet has it; nobody waits for it."""

    settled: list[_Settled]
    is_done: bool
    in_doubt: bool = False


class Spool:
    """Control thread only."""

    def __init__(
        self,
        rows: SpoolRows,
        metrics: Metrics,
        clock: Callable[[], int],
        *,
        max_bytes: int,
        ttl_s: int,
        fates_s: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`ttl_s`: of a push that names none, nor its app; `fates_s`: what became of a push is told for so long;
        `clock`: Unix ms."""
        self._rows = rows
        self._metrics = metrics
        self._clock = clock
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._fates_ms = fates_s * 1000
        self._sleep = sleep
        self._tag = int.from_bytes(hashlib.sha256(rows.identity).digest()[:2], "big") % TAGS
        self._last = rows.last()
        self._bytes = 0
        self._count = 0
        #: pushes that wait, by target: nothing to the same one overtakes them
        self._targets: dict[bytes, int] = {}
        #: (app, the provider's own key) → number and body of the push that waits
        self._keys: dict[tuple[str, str], tuple[int, bytes]] = {}
        #: of those: the write that they wait for
        self._unwritten: dict[int, asyncio.Future[None]] = {}
        self._kept: list[tuple[int, bytes]] = []  # to be written
        self._fates: list[tuple[int, bytes]] = []
        self._written: asyncio.Future[None] | None = None  # of what is to be written
        self._writing: asyncio.Task[None] | None = None
        self._failed = False  # the last write failed: open again before the next
        #: numbers up to this are of an earlier process
        self._former = self._last
        #: perhaps the fleet has them: they were given to it, and no answer said that it took nothing
        self._doubtful: set[int] = set()
        self._known: Known = _nobody_knows
        self._taking: set[int] = set()
        self._recalling: set[int] = set()
        self._changed = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="heliograph-spool")
        after = 0
        while chunk := rows.waiting(after, CHUNK):
            for number, raw in chunk:
                self._recover(number, raw)
            after = chunk[-1][0]
        metrics.add_source(self._figures)

    @classmethod
    def open(cls, config: Config, metrics: Metrics, clock: Callable[[], int], fleet: FleetIdentity) -> Spool:
        """The one in `cluster.spool`; ConfigError where the folder can not be had, or pushes of another fleet wait
        there: this one would refuse them, for it knows neither their apps nor their tokens."""
        most = config.cluster.spool_bytes
        rows = SpoolRows.open(Path(config.cluster.spool), most)
        try:
            _make_its_own(rows, fleet)
        except BaseException:
            rows.close()
            raise
        ttl_s = config.delivery.ttl_s
        return cls(rows, metrics, clock, max_bytes=most, ttl_s=ttl_s, fates_s=fates_s(config))

    def _recover(self, number: int, raw: bytes) -> None:
        try:
            kept = parse_kept(raw)
            self._add(number, kept, len(raw))
        except BadRequest:
            log.error("spool_record_unreadable", consequence="it is counted as refused")
            self._bytes += len(raw) + ROW_BYTES
            self._count += 1

    def _figures(self) -> Iterable[tuple[Metric, str, float]]:
        yield Metric.SPOOL_WAITING, "", self._count
        yield Metric.SPOOL_BYTES, "", self._bytes

    # --- keeping

    @property
    def waiting(self) -> int:
        return self._count

    def is_behind(self, app: str, request: PushRequest) -> bool:
        """It has to be kept here although the fleet could take it: another to its target waits, or it waits itself."""
        if not self._count:
            return False
        return _target_of(app, request) in self._targets or (app, request.idempotency_key) in self._keys

    async def keep(self, app: App, key_id: str, request: PushRequest) -> int:
        """Its number, once it is on disk. QueueFull where the spool is full, StoreUnavailable where it can not be
        written, Conflict where the provider's key stands for another body."""
        try:
            number = await self._keep(app, key_id, request)
        except GatewayError as error:
            self._metrics.count(Metric.SPOOLED, label=error.name)
            raise
        self._metrics.count(Metric.SPOOLED, label="kept")
        return number

    async def _keep(self, app: App, key_id: str, request: PushRequest) -> int:
        if len(request.target.kinds()) != 1:
            raise BadRequest("name exactly one of token, alias, tag, versions, everyone, where", field="target")
        own = request.idempotency_key
        plain = msgspec.structs.replace(request, idempotency_key="")
        body_hash = hash_body(plain)
        known = self._keys.get((app.name, own)) if own else None
        if known is not None:
            number, same = known[0], known[1] == body_hash
            if not same:
                raise Conflict("This idempotency key was used with another body.", field="idempotency_key")
            if number in self._unwritten:
                await asyncio.shield(self._unwritten[number])
            return number
        now_ms = self._clock()
        number = next_number(self._last, now_ms, self._tag)
        due_ms = max((request.deliver_at or 0) * 1000, now_ms)
        ttl_s = request.ttl if request.ttl is not None else app.ttl_s or self._ttl_s
        if not ttl_s:
            raise LogUnavailable("It is to be sent now or never (ttl 0), and now the fleet can not take it.")
        kept = Kept(
            app=app.name,
            key_id=key_id,
            accepted_ms=now_ms,
            deadline_ms=due_ms + ttl_s * 1000,
            key=own or f"spool-{self._rows.identity.hex()}-{number:x}",
            body_hash=body_hash,
            request=pack_request(plain),
        )
        raw = build_kept(kept)
        if self._bytes + len(raw) + ROW_BYTES > self._max_bytes or self._count >= WAITING_MOST:
            raise QueueFull("the spool of this node is full (cluster.spool_bytes); nothing was accepted")
        self._last = number
        self._add(number, kept, len(raw))
        written = self._unwritten[number] = self._write([(number, raw)])

        def on_written(_: asyncio.Future[None]) -> None:
            del self._unwritten[number]
            if written.exception() is not None:
                self._remove(kept, len(raw))
            self._changed.set()

        written.add_done_callback(on_written)  # it is not ours to wait for: who asked may hang up
        await asyncio.shield(written)
        return number

    def _add(self, number: int, kept: Kept, size: int) -> None:
        request = parse_request(kept.request)
        self._bytes += size + ROW_BYTES
        self._count += 1
        target = _target_of(kept.app, request)
        self._targets[target] = self._targets.get(target, 0) + 1
        if not self._is_ours(kept.key):
            self._keys[kept.app, kept.key] = (number, kept.body_hash)

    def _remove(self, kept: Kept | None, size: int) -> None:
        """None: one that could not be read."""
        self._bytes -= size + ROW_BYTES
        self._count -= 1
        if kept is None:
            return
        target = _target_of(kept.app, parse_request(kept.request))
        left = self._targets.get(target, 0) - 1
        if left > 0:
            self._targets[target] = left
        else:
            self._targets.pop(target, None)
        self._keys.pop((kept.app, kept.key), None)

    def _is_ours(self, key: str) -> bool:
        return key.startswith(f"spool-{self._rows.identity.hex()}-")

    # --- what became of it

    def look(self, app: str, number: int) -> Kept | Fate | None:
        """The push that waits, or its fate; None: not known here, or another app's. StoreUnavailable."""
        try:
            kept, fate = self._rows.get(number)
        except WRITE_ERRORS as error:
            raise StoreUnavailable from error
        found: Kept | Fate | None = None
        if fate is not None:
            found = parse_fate(fate)
        elif kept is not None:
            found = parse_kept(kept)
        return found if found is not None and found.app == app else None

    async def recall(self, app: str, number: int) -> bool:
        """Take back a push that waits. False: it has a fate already, or is being taken in this moment, and then it is
        a push of the fleet soon. One that the fleet has already has that for its fate now: it is to be recalled there.
        NodeUnreachable, AcceptTimeout and the like where that can not be said now."""
        found = self.look(app, number)
        if not isinstance(found, Kept) or number in self._taking or number in self._recalling:
            return False
        self._recalling.add(number)
        try:
            seq = await self._known(found) if self._may_be_taken(number, found) else 0
            fate = Fate(app, self._clock(), "pushed", seq=seq) if seq else Fate(app, self._clock(), "recalled")
            await self._settle([_Settled(number, found, len(build_kept(found)), fate)])
        finally:
            self._recalling.discard(number)
        return True

    def _may_be_taken(self, number: int, kept: Kept) -> bool:
        """Perhaps the fleet has it: it was given to it, now or by an earlier process, or its provider did that with its
        own key, anywhere."""
        return number <= self._former or number in self._doubtful or not self._is_ours(kept.key)

    async def _settle(self, settled: Sequence[_Settled]) -> None:
        """Durable when it returns; StoreUnavailable where nothing was noted."""
        written = self._write(fates=[(one.number, build_fate(one.fate)) for one in settled])

        def on_written(_: asyncio.Future[None]) -> None:
            if written.exception() is None:
                for one in settled:
                    self._doubtful.discard(one.number)
                    self._remove(one.kept, one.size)
                    self._metrics.count(Metric.SPOOL_TAKEN, label=one.fate.what)

        written.add_done_callback(on_written)
        await asyncio.shield(written)

    # --- writing

    def _write(
        self, kept: Sequence[tuple[int, bytes]] = (), fates: Sequence[tuple[int, bytes]] = ()
    ) -> asyncio.Future[None]:
        """In one write with what else waits for the disk; resolves when it is done, or with StoreUnavailable."""
        self._kept += kept
        self._fates += fates
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
            self._written.add_done_callback(_hear)
        written = self._written
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="spool-write")
        return written

    async def _write_all(self) -> None:
        try:
            while self._written is not None:
                kept, fates, written = self._kept, self._fates, self._written
                self._kept, self._fates, self._written = [], [], None
                try:
                    await self._write_once(kept, fates)
                except WRITE_ERRORS as error:
                    log.warning("spool_not_written", kind=type(error).__name__, rows=len(kept) + len(fates))
                    written.set_exception(StoreUnavailable("the spool of this node can not be written now"))
                else:
                    written.set_result(None)
        finally:
            self._writing = None

    async def _write_once(self, kept: list[tuple[int, bytes]], fates: list[tuple[int, bytes]]) -> None:
        if self._failed:
            self._rows.reopen()  # here, for nobody reads meanwhile
            self._failed = False
        below = first_of(max(self._clock() - self._fates_ms, 0))
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, lambda: self._rows.write(kept, fates, forget_below=below))
        except lmdb.MapFullError:
            raise
        except WRITE_ERRORS:
            self._failed = True
            raise

    # --- taking in

    def start(self, take_in: TakeIn, is_ready: Callable[[], bool], known: Known | None = None) -> None:
        """Take in what waits, from now on, whenever the fleet can be reached. `known` is asked before a push that the
        fleet may have is recalled, or is over."""
        assert self._draining is None, "a spool is started once"
        self._known = known or _nobody_knows
        self._draining = asyncio.create_task(self._drain(take_in, is_ready), name="spool-drain")

    async def _drain(self, take_in: TakeIn, is_ready: Callable[[], bool]) -> None:
        again_s = AGAIN_S
        while True:
            if not self._count:
                self._changed.clear()
                await self._changed.wait()
            if not is_ready():
                await self._sleep(LOOK_S)
                continue
            self._changed.clear()
            try:
                done = await self._pass(take_in, is_ready)
            except Exception as error:
                # What waits must not wait for ever because of one bug.
                log.exception("spool_pass_failed", kind=type(error).__name__)
                done = False
            again_s = AGAIN_S if done else min(again_s * 2, AGAIN_MOST_S)
            if not done:
                await self._sleep(again_s)
            elif self._count:
                # what is counted and was not found is on its way to the disk: the loop has to turn for it
                await self._changed.wait()

    async def _pass(self, take_in: TakeIn, is_ready: Callable[[], bool]) -> bool:
        """Once through all that waits; True: nothing was left behind."""
        after, blocked, in_doubt = 0, set[bytes](), False
        while is_ready():
            try:
                chunk = self._rows.waiting(after, CHUNK)
            except WRITE_ERRORS:
                self._failed = True
                await asyncio.wait((self._write(),))  # which opens it again
                return False
            if not chunk:
                return not blocked and not in_doubt
            after = chunk[-1][0]
            chains: dict[bytes, list[_Waiting]] = {}
            settled: list[_Settled] = []
            for number, raw in chunk:
                self._sort(number, raw, chains, settled)
            try:
                turn = asyncio.Semaphore(AT_ONCE)
                ran = (self._chain(chains[t], take_in, turn, waits=t in blocked) for t in chains)
                for target, chain in zip(chains, await asyncio.gather(*ran), strict=True):
                    settled += chain.settled
                    in_doubt |= chain.in_doubt
                    if not chain.is_done:
                        blocked.add(target)
                if settled:
                    await self._settle(settled)
            except StoreUnavailable:
                return False  # taken in, and not noted: the next pass finds them by their keys
            finally:
                self._taking.clear()
        return False

    def _sort(self, number: int, raw: bytes, chains: dict[bytes, list[_Waiting]], settled: list[_Settled]) -> None:
        """Into the pushes of its target, or to those that need nobody to be settled."""
        now_ms = self._clock()
        try:
            kept = parse_kept(raw)
            target = _target_of(kept.app, parse_request(kept.request))
        except BadRequest as error:
            fate = Fate("", now_ms, "refused", code=error.code, message=error.message)
            settled.append(_Settled(number, None, len(raw), fate))
            return
        is_over = now_ms >= kept.deadline_ms and number not in self._recalling
        if is_over and not self._may_be_taken(number, kept):
            self._taking.add(number)
            settled.append(_Settled(number, kept, len(raw), Fate(kept.app, now_ms, "expired")))
        else:
            chains.setdefault(target, []).append(_Waiting(number, kept, len(raw)))

    async def _chain(
        self, chain: list[_Waiting], take_in: TakeIn, turn: asyncio.Semaphore, *, waits: bool = False
    ) -> _Chain:
        """Pushes to one target, one after the other; where one has to wait, or did before (`waits`), only those that
        are over."""
        settled: list[_Settled] = []
        in_doubt = False
        async with turn:
            for number, kept, size in chain:
                is_over = self._clock() >= kept.deadline_ms
                if in_doubt if is_over else waits:
                    continue  # of those that are over one without an answer is enough: the others wait for their turn
                try:
                    is_there = self._rows.get(number)[0] is not None  # not recalled since it was read
                except WRITE_ERRORS:
                    is_there = None
                if is_there is None or number in self._recalling:
                    return _Chain(settled, is_done=False)
                if not is_there:
                    continue
                self._taking.add(number)
                fate = await (self._end(number, kept) if is_over else self._take(number, kept, take_in))
                if fate is not None:
                    settled.append(_Settled(number, kept, size, fate))
                elif is_over:
                    in_doubt = True
                else:
                    waits = True
        return _Chain(settled, is_done=not waits, in_doubt=in_doubt)

    async def _end(self, number: int, kept: Kept) -> Fate | None:
        """Its time is over: `pushed` where the fleet has it all the same. None: that can not be said now; it is asked
        for DOUBT_S, and once in any case, and is over then whatever is known."""
        now_ms, seq = self._clock(), 0
        if self._may_be_taken(number, kept):
            is_late = now_ms >= kept.deadline_ms + DOUBT_S * 1000
            try:
                seq = await self._known(kept)
            except Exception as error:
                if not isinstance(error, GatewayError):
                    log.exception("spool_question_failed", kind=type(error).__name__)
                if not is_late:
                    self._metrics.count(Metric.SPOOL_RETRIES, label=getattr(error, "name", "internal"))
                    return None
        return Fate(kept.app, now_ms, "pushed", seq=seq) if seq else Fate(kept.app, now_ms, "expired")

    async def _take(self, number: int, kept: Kept, take_in: TakeIn) -> Fate | None:
        """None: not now."""
        was_doubtful = number in self._doubtful
        self._doubtful.add(number)
        try:
            seq = await take_in(kept)
        except GatewayError as error:
            if error.retryable:
                if is_certain(error) and not was_doubtful:
                    self._doubtful.discard(number)
                self._metrics.count(Metric.SPOOL_RETRIES, label=error.name)
                return None
            return Fate(kept.app, self._clock(), "refused", code=error.code, message=error.message[:_MESSAGE_CHARS])
        except Exception as error:
            log.exception("spool_take_failed", kind=type(error).__name__)
            return None
        return Fate(kept.app, self._clock(), "pushed", seq=seq)

    async def stop(self) -> None:
        """Take in nothing more; keep what comes still."""
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.gather(self._draining, return_exceptions=True)
            self._draining = None

    async def close(self) -> None:
        """What waits stays on disk."""
        await self.stop()
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        self._thread.shutdown(wait=True)
        self._rows.close()


def _target_of(app: str, request: PushRequest) -> bytes:
    """Pushes with the same one keep their order."""
    packed = msgspec.msgpack.encode(request.target, order="deterministic")
    return hashlib.blake2b(packed, digest_size=8, key=hashlib.sha256(app.encode()).digest()[:32]).digest()


def is_certain(error: GatewayError) -> bool:
    """Nothing was accepted, whoever was asked."""
    return isinstance(error, LogUnavailable | LogFenced) or (isinstance(error, NodeUnreachable) and error.nothing_done)


async def _nobody_knows(_: Kept) -> int:
    raise NodeUnreachable("it may be in the fleet already, which can not be asked now")


def _hear(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
