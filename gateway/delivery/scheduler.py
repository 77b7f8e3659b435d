"""Releases kept pushes when their time comes and their audience is found; must never release one twice.

A push is kept for its time (`deliver_at`), or because its condition needs a look at each registration. Either way its
audience is the one of the moment of its release.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from gateway.delivery.audience import Audience, choose, find_audience, kind_of
from gateway.delivery.backlog import Backlog
from gateway.delivery.one_machine import ONE_MACHINE
from gateway.metrics import Metric, Metrics
from gateway.model.errors import GatewayError, UnknownToken
from gateway.model.notification import Notification
from gateway.model.outcome import State
from gateway.model.ports import Directory, Schedules
from gateway.model.reach import Reach

TICK_S = 0.1
#: kept pushes released in one tick
RELEASES = 200
#: their deliveries: past it the rest waits for the next tick
DELIVERIES = 5_000
#: a release that was refused (queue full, disk full) is tried again after this time, doubling up to
AGAIN_MS = 1_000
#: this
MAX_AGAIN_MS = 60_000

#: "now or never" (time to live 0) is released so long after its time at most: a gateway may have been down
LATE_MS = 5_000

_log = structlog.get_logger(__name__)


class Releases(Protocol):
    """The part of delivery.accept.Acceptor needed here."""

    def release(self, kept: Notification, audience: Audience, now_ms: int) -> asyncio.Future[None]: ...


class Scheduler:
    """Loop thread only."""

    def __init__(
        self,
        *,
        schedules: Schedules,
        directory: Directory,
        acceptor: Releases,
        backlog: Backlog,
        metrics: Metrics,
        clock: Callable[[], int],
        reach: Reach = ONE_MACHINE,
    ) -> None:
        self._reach = reach
        self._schedules = schedules
        self._directory = directory
        self._acceptor = acceptor
        self._backlog = backlog
        self._metrics = metrics
        self._clock = clock
        self._tries: dict[int, int] = {}  # kept push → releases of it that were refused
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at what is due every 100 ms from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="scheduler")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                self.tick()
            except Exception:
                _log.exception("scheduler_tick_failed")
            await asyncio.sleep(TICK_S)

    def tick(self) -> None:
        """Release a slice of what is due."""
        now = self._clock()
        weight = 0
        for seq in self._schedules.due(now, RELEASES):
            if weight >= DELIVERIES:
                self._schedules.again(seq, now)
                continue
            try:
                weight += self._look_at(seq, now)
            except Exception:
                # A store that can not be read for a moment: it is still kept, and its time has come.
                self._again(seq)
                _log.exception("release_failed")

    def _look_at(self, seq: int, now: int) -> int:
        """How many it is for, as far as that was looked at now."""
        notification = self._schedules.notification(seq)
        if notification is None:
            self._tries.pop(seq, None)  # recalled
            return 0
        if notification.expires_s * 1000 <= now and not self._has_its_try(notification, now):
            self._end(seq, State.EXPIRED, now)
            return 0
        if self._reach.is_wide(notification.target):
            self._follow(seq, self._reach.give_out(notification))
            return 1
        try:
            audience = find_audience(
                self._directory, notification.app, kind_of(notification.target), notification.target
            )
        except UnknownToken:
            self._end(seq, State.REJECTED, now)
            return 0
        if not audience.is_open:
            self._release(notification, audience)
        elif self._backlog.has_room:
            self._backlog.add(self._look_for(notification, audience))
        else:
            self._again(seq)
        return len(audience.registrations)

    def _has_its_try(self, notification: Notification, now: int) -> bool:
        """Time to live 0 ends with the second it comes up in: the one try it has may be that much later."""
        due_ms = self._schedules.due_ms(notification.seq)
        return notification.expires_s <= due_ms // 1000 and now - due_ms <= LATE_MS

    def _end(self, seq: int, state: State, now: int) -> None:
        self._tries.pop(seq, None)
        self._schedules.end(seq, state, now)

    def _again(self, seq: int) -> None:
        """Later, and later each time: thousands that are refused must not be all there is to do."""
        tries = self._tries[seq] = self._tries.get(seq, 0) + 1
        self._schedules.again(seq, self._clock() + min(AGAIN_MS << min(tries - 1, 16), MAX_AGAIN_MS))

    def _look_for(self, notification: Notification, audience: Audience) -> Iterator[None]:
        chosen = array("I")
        try:
            yield from choose(self._directory, notification.app, notification.target, chosen)
        except Exception:
            self._again(notification.seq)
            raise
        if self._schedules.notification(notification.seq) is not None:  # not recalled meanwhile
            self._release(notification, audience._replace(registrations=chosen))

    def _release(self, notification: Notification, audience: Audience) -> None:
        seq = notification.seq
        try:
            done = self._acceptor.release(notification, audience, self._clock())
        except GatewayError as error:
            self._metrics.count(Metric.PUSHES_REFUSED, label=error.name)
            self._again(seq)
            return
        self._follow(seq, done)

    def _follow(self, seq: int, done: asyncio.Future[None]) -> None:
        """Until it is not kept any more, or must be tried again."""

        def on_done(done: asyncio.Future[None]) -> None:
            if done.cancelled() or done.exception() is not None:
                self._again(seq)
            else:
                self._tries.pop(seq, None)

        done.add_done_callback(on_done)
