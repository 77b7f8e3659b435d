"""Says again and again that this node lives; must never say it for a loop that hangs for good.

The beats have a thread, a loop and a connection of their own, so that they go on while the control thread is busy for a
while (opening a large partition). The control thread says now and then that it lives; when it has not for `HANG_S`, the
beats stop, and the others take what this node has.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from gateway.cluster.fleet_records import BadRecord, Beat, build, parse_beat
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.leases import BucketGone, BucketReplaced, Changed, InDoubt, Leases
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.model.errors import GatewayError

_log = structlog.get_logger(__name__)

#: a control thread that has not turned for so long does not come back
HANG_S = 15.0
#: the servers have said for so long that they have no bucket: it does not come back. More than an election of all their
#: leaders takes, and than a node holds on without a lease (members.HOLD_S)
GONE_S = 15.0
#: of that, what counts at most between two such answers: who was cut off between them does not know
_GONE_STEP_S = 1.0
_AGAIN_S = 0.2
#: every so many tries without an answer, from the first on: perhaps another server does better
_MOVE_EVERY = 2
_END_S = 5.0


def clock() -> float:
    """Seconds that no setting of the time moves, and that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Pulse:
    """What the control thread and the beats share. Each field is written by one of them and replaced as a whole."""

    def __init__(self, key: str, revision: int, beat: Beat, bucket: str = "") -> None:
        self.key = key
        #: when the bucket was made that this node came into; empty: not known
        self.bucket = bucket
        #: of the record; the beats write it
        self.revision = revision
        #: what is said; the control thread writes it
        self.beat = beat
        #: when the control thread turned last; it writes it
        self.turned_at = clock()


class Hearer(Protocol):
    """The control thread's side of the beats."""

    def on_renewed(self, at: float, *, slept: bool) -> None:
        """The record was renewed, and that was begun at this time. `slept`: nothing was tried for a lease before it."""
        ...

    def on_ousted(self) -> None:
        """Another node has this one's record: there will be no more beats."""
        ...

    def on_missed(self, *, is_gone: bool = False) -> None:
        """`is_gone`: the servers answer, and have no bucket."""
        ...

    def on_replaced(self, *, is_gone: bool) -> None:
        """The bucket is another one by now, or gone for good: there will be no more beats."""
        ...


class Beats:
    """The beats themselves, in whatever loop `run` runs in."""

    def __init__(
        self,
        pulse: Pulse,
        leases: Leases,
        settings: Cluster,
        hearer: Hearer,
        *,
        move: Callable[[], Awaitable[None]] | None = None,
        now: Callable[[], float] = clock,
        hang_s: float = HANG_S,
    ) -> None:
        self._pulse = pulse
        self._leases = leases
        self._beat_s = settings.beat_s
        self._lease_s = settings.lease_s
        self._hearer = hearer
        self._move = move
        self._now = now
        self._hang_s = max(hang_s, 2 * settings.lease_s)
        self._hurry = asyncio.Event()
        self._tried_at = now()
        self._is_in_doubt = False
        self._gone_s = 0.0  # how long the servers have said that there is no bucket
        self._gone_at: float | None = None  # when they said so last

    def hurry(self) -> None:
        """Beat now: what is said has changed. In the beats' own loop."""
        self._hurry.set()

    async def run(self) -> None:
        """Until it is cancelled or ousted, or the bucket is another one."""
        failed = 0
        self._tried_at = self._now()
        while True:
            pause = self._beat_s
            if self._now() - self._pulse.turned_at < self._hang_s:
                began = self._now()
                slept = began - self._tried_at > self._lease_s
                self._tried_at = began
                try:
                    await self._renew(began)
                except Changed:
                    self._hearer.on_ousted()
                    return
                except BucketReplaced:
                    self._hearer.on_replaced(is_gone=False)
                    return
                except InDoubt as exc:
                    failed += 1
                    is_gone = isinstance(exc, BucketGone)
                    self._hearer.on_missed(is_gone=is_gone)
                    if is_gone and self._is_gone_for_good():
                        self._hearer.on_replaced(is_gone=True)
                        return
                    pause = min(_AGAIN_S, pause)
                    # a server that knows of no bucket is no worse than the others
                    if failed % _MOVE_EVERY == 1 and not is_gone and self._move is not None:
                        with suppress(Exception):
                            await self._move()
                else:
                    failed = 0
                    self._gone_s, self._gone_at = 0.0, None
                    self._hearer.on_renewed(began, slept=slept)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            self._hurry.clear()

    async def _renew(self, began: float) -> None:
        """Changed: another node has the record."""
        pulse = self._pulse
        if self._is_in_doubt:
            await self._look()
        said = build(msgspec.structs.replace(pulse.beat, at_ms=int(began * 1000)))
        self._is_in_doubt = True
        try:
            if pulse.revision:
                pulse.revision = await self._leases.update(pulse.key, said, pulse.revision)
            else:
                pulse.revision = await self._leases.create(pulse.key, said)
        except Changed:
            await self._look()
            raise InDoubt from None  # it is still ours: the next try goes on from there
        self._is_in_doubt = False

    def _is_gone_for_good(self) -> bool:
        now = self._now()
        if self._gone_at is not None:
            self._gone_s += min(now - self._gone_at, _GONE_STEP_S)
        self._gone_at = now
        return self._gone_s >= GONE_S

    async def _look(self) -> None:
        """Changed: another node has the record; BucketReplaced: it says nothing, for it is in another bucket."""
        entry = await self._leases.get(self._pulse.key)
        # no beat costs this but one that failed: in another bucket nothing is at the revision that is expected
        if self._pulse.bucket and await self._leases.made() != self._pulse.bucket:
            raise BucketReplaced
        if entry is None:  # removed as that of a dead node
            self._pulse.revision = 0
            return
        try:
            number = parse_beat(entry.value).number
        except BadRecord:
            number = 0
        if number != self._pulse.beat.number:
            raise Changed
        self._pulse.revision = entry.revision


class Heart(Protocol):
    """Beats somewhere."""

    def start(self, pulse: Pulse, hearer: Hearer) -> None: ...

    def hurry(self) -> None: ...

    async def stop(self) -> None:
        """No beat is under way any more when it returns."""
        ...


class LoopHeart:
    """Beats in the loop of the control thread: for tests, and for leases in the process."""

    def __init__(self, leases: Leases, settings: Cluster, *, now: Callable[[], float] = clock) -> None:
        self._leases = leases
        self._settings = settings
        self._now = now
        self._beats: Beats | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, pulse: Pulse, hearer: Hearer) -> None:
        self._beats = Beats(pulse, self._leases, self._settings, hearer, now=self._now)
        self._task = asyncio.get_running_loop().create_task(self._beats.run())

    def hurry(self) -> None:
        if self._beats is not None:
            self._beats.hurry()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class _AcrossThreads:
    """Carries what the beats say over to the control thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hearer: Hearer) -> None:
        self._loop = loop
        self._hearer = hearer

    def on_renewed(self, at: float, *, slept: bool) -> None:
        self._soon(lambda: self._hearer.on_renewed(at, slept=slept))

    def on_ousted(self) -> None:
        self._soon(self._hearer.on_ousted)

    def on_missed(self, *, is_gone: bool = False) -> None:
        self._soon(lambda: self._hearer.on_missed(is_gone=is_gone))

    def on_replaced(self, *, is_gone: bool) -> None:
        self._soon(lambda: self._hearer.on_replaced(is_gone=is_gone))

    def _soon(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know
            self._loop.call_soon_threadsafe(call)


class ThreadHeart:
    """Beats in a thread of their own, over a connection of their own."""

    def __init__(self, settings: Cluster, node: str) -> None:
        self._settings = settings
        self._node = node
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._beats: Beats | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def start(self, pulse: Pulse, hearer: Hearer) -> None:
        across = _AcrossThreads(asyncio.get_running_loop(), hearer)
        self._thread = threading.Thread(target=self._main, args=(pulse, across), name="beats", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        self._in_thread(lambda: self._beats.hurry() if self._beats is not None else None)

    async def stop(self) -> None:
        self._is_stopped = True
        self._in_thread(lambda: self._task.cancel() if self._task is not None else None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _END_S)

    def _in_thread(self, call: Callable[[], object]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(call)

    def _main(self, pulse: Pulse, hearer: Hearer) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            with suppress(asyncio.CancelledError):
                runner.run(self._run(pulse, hearer))

    async def _run(self, pulse: Pulse, hearer: Hearer) -> None:
        self._task = asyncio.current_task()
        link = NatsLink(self._settings, purpose="beats", node=self._node)
        try:
            while not self._is_stopped:
                try:
                    await link.connect()
                    break
                except GatewayError as exc:
                    hearer.on_missed()
                    _log.warning("beats_without_nats", error=exc.name)
            self._beats = Beats(pulse, KvLeases(link, self._settings), self._settings, hearer, move=link.move)
            if not self._is_stopped:
                await self._beats.run()
        finally:
            await link.close()
