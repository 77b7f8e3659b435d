"""One bounded queue a notifier; must never let one notifier's failure, slowness or hang reach another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import structlog

from gateway.metrics import Metric, Metrics
from gateway.model.notification import Notification
from gateway.model.ports import Notifier, NotifierResult
from gateway.model.registration import App, Registration

_log = structlog.get_logger(__name__)


class Job(NamedTuple):
    """One call to make. The content is loaded when its turn comes, so a long queue stays small."""

    seq: int  # of the delivery
    hop: int  # place of the notifier in the delivery's chain


Call = tuple[App, Registration, Notification]


class NotifyQueue:
    """Calls one notifier, at most `concurrency` at once, each at most `timeout_s`.

    `load` gives what to call with, or None where the call is no longer needed; `on_result` is called exactly once for
    each job whose call was made. A full queue refuses (`offer` is False, counted): the delivery is tried later.
    """

    def __init__(
        self,
        notifier: Notifier,
        *,
        concurrency: int,
        capacity: int,
        timeout_s: float,
        load: Callable[[Job], Call | None],
        on_result: Callable[[Job, NotifierResult], None],
        metrics: Metrics,
    ) -> None:
        self.name = notifier.name
        self._notifier = notifier
        self._concurrency = concurrency
        self._capacity = capacity
        self._timeout_s = timeout_s
        self._load = load
        self._on_result = on_result
        self._metrics = metrics
        self._jobs: deque[Job] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def offer(self, job: Job) -> bool:
        """Queue a call. False: the queue is full or closed."""
        if self._closed or len(self._jobs) >= self._capacity:
            self._metrics.count(Metric.NOTIFIER_QUEUE_FULL, label=self.name)
            return False
        self._jobs.append(job)
        self._metrics.set(Metric.NOTIFIER_QUEUED, len(self._jobs), label=self.name)
        if len(self._workers) < self._concurrency:
            worker = asyncio.get_running_loop().create_task(self._work(), name=f"notifier-{self.name}")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return True

    async def _work(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            self._metrics.set(Metric.NOTIFIER_QUEUED, len(self._jobs), label=self.name)
            try:
                call = self._load(job)
                if call is not None:
                    self._on_result(job, await self._call(call))
            except Exception:
                # Ours, not the notifier's: the delivery is still pending, its expiry or the next BACK takes it up.
                _log.exception("notify_queue_failed", notifier=self.name)

    async def _call(self, call: Call) -> NotifierResult:
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await self._notifier.notify(*call)
        except TimeoutError:
            result = NotifierResult(ok=False, detail="timeout")
        except Exception as error:
            # The text of a foreign exception may hold an address; its type can not.
            _log.warning("notifier_failed", notifier=self.name, error=type(error).__name__)
            result = NotifierResult(ok=False, detail=type(error).__name__)
        failed = Metric.NOTIFIER_DEAD if result.dead else Metric.NOTIFIER_RETRY
        metric = Metric.NOTIFIER_OK if result.ok else failed
        self._metrics.count(metric, label=self.name)
        return result

    async def close(self) -> None:
        """Drop what waits (it is pending in the journal), end the calls under way, close the notifier."""
        self._closed = True
        self._jobs.clear()
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await self._notifier.close()
