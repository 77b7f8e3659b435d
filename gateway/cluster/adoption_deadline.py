"""Lets no adoption hang: one that does not get on for `cluster.adopt_timeout_s` is ended, so that another node can try;
must never end one that only takes long, nor let the same partition be opened here while the last try still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.cluster.task_end import end_task
from gateway.model.cluster import Tenant

_log = structlog.get_logger(__name__)

#: an adoption that was ended closes what it had opened; past this it goes on doing so by itself
_CLOSE_S = 5.0
#: of the deadline: how often it is looked whether it got on
_LOOKS = 8


class Overdue(Exception):
    """It did not get on."""


class AdoptionDeadline:
    """`on_over` is called when a try that was ended has ended at last."""

    def __init__(self, tenant: Tenant, timeout_s: float, on_over: Callable[[], None]) -> None:
        self._tenant = tenant
        self._timeout_s = timeout_s
        self._on_over = on_over
        self._running: dict[int, asyncio.Task[None]] = {}  # ended, and not over yet

    async def adopt(self, partition: int, epoch: int) -> None:
        """`Tenant.adopt`, or Overdue: at once where the last try still closes what it had, so that the fleet sees that
        this node can not have it. Cancelled: it is over when this returns."""
        if partition in self._running:
            raise Overdue
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._tenant.adopt(partition, epoch))
        pause_s = self._timeout_s / _LOOKS
        steps, still_s, looked_s = -1, 0.0, loop.time()
        try:
            while not task.done() and still_s < self._timeout_s:
                await asyncio.wait((task,), timeout=pause_s)
                now_s, now = loop.time(), self._tenant.steps(partition)
                # a thread that reads a large partition back does not turn meanwhile: that is no standing still
                still_s = 0.0 if now != steps else still_s + min(now_s - looked_s, 2 * pause_s)
                steps, looked_s = now, now_s
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.wait((task,), timeout=_CLOSE_S)
        except asyncio.CancelledError:
            await end_task(task)
            if not task.cancelled() and task.exception() is None:
                self._tenant.lost(partition)
            raise
        self._running[partition] = task
        if task.done():
            self._end(partition, task)
        else:
            _log.warning("adoption_still_ends", partition=partition)
            task.add_done_callback(lambda _: self._end(partition, task))
        raise Overdue

    def _end(self, partition: int, task: asyncio.Task[None]) -> None:
        del self._running[partition]
        if not task.cancelled() and task.exception() is None:  # it came through all the same, too late
            self._tenant.lost(partition)
        self._on_over()
