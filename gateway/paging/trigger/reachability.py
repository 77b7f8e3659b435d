"""Devices that the network watches for us until they can be reached again (MonitoringEvent, UE_REACHABILITY); must
never keep what a device is known by, only the gateway's own name for its subscriber.

Source: 3GPP TS 29.122 §4.4.2, §5.3.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable

import msgspec
import structlog

from gateway.config.operator_sections import Trigger
from gateway.metrics import Metric, Metrics
from gateway.notifiers.connections import Exchange
from gateway.notifiers.upstream import parse_trouble
from gateway.paging.trigger.callback_paths import WATCHED, CallbackPaths
from gateway.paging.trigger.notifications import REACHABLE, BadNotification, Test, parse_monitoring
from gateway.paging.trigger.scef import MONITORING, Scef

_log = structlog.get_logger(__name__)


class _Answer(msgspec.Struct):
    """As much of a subscription's answer as is looked at: it may have the report in it, where the device is there."""

    monitoringEventReport: dict[str, object] | None = None


class _Watch:
    __slots__ = ("digest", "handle", "until_ms")

    def __init__(self, handle: bytes, digest: bytes, until_ms: int) -> None:
        self.handle = handle
        self.digest = digest
        self.until_ms = until_ms


class Watches:
    """By subscriber, oldest first. In RAM: after a restart what waits goes by its own timers."""

    def __init__(
        self,
        trigger: Trigger,
        scef: Scef,
        paths: CallbackPaths,
        metrics: Metrics,
        *,
        timeout_s: float,
        clock: Callable[[], int],
        on_back: Callable[[bytes], object],
    ) -> None:
        self._trigger = trigger
        self._scef = scef
        self._paths = paths
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._clock = clock
        self._on_back = on_back
        self._by_handle: dict[bytes, _Watch] = {}
        self._by_digest: dict[bytes, _Watch] = {}

    def __len__(self) -> int:
        return len(self._by_handle)

    async def watch(self, handle: bytes, ids: dict[str, str], outside: str) -> None:
        """Ask the network to watch it, once. `outside`: URL of the listener. Never raises but CancelledError."""
        if not self._has_room(handle):
            return
        path, digest = self._paths.draw(WATCHED)
        until_ms = self._clock() + self._trigger.watch_s * 1000
        watch = self._by_handle[handle] = self._by_digest[digest] = _Watch(handle, digest, until_ms)
        ends = datetime.datetime.fromtimestamp(until_ms // 1000, datetime.UTC)
        body = {
            **ids,
            "supportedFeatures": "0",
            "notificationDestination": outside + path,
            "monitoringType": REACHABLE,
            "reachabilityType": self._trigger.watch_for.upper(),
            "maximumNumberOfReports": 1,
            "monitorExpireTime": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        taken = False
        try:
            async with asyncio.timeout(self._timeout_s):
                got = await self._scef.call("POST", self._scef.collection(MONITORING, "subscriptions"), body)
            taken = isinstance(got, Exchange) and got.status in (200, 201)
            self._count("taken" if taken else "refused")
            if isinstance(got, Exchange) and taken and _is_reachable_now(got.body):
                self._end(watch, "reachable")
                self._on_back(handle)
        except Exception as error:
            self._count("failed")
            _log.info("trigger_watch_failed", error=parse_trouble(error).row.reason)
        finally:
            if not taken:
                self._drop(watch)

    def handle_post(self, digest: bytes, body: bytes) -> tuple[int, str]:
        """(status to answer with, what it was): the network reports on one of these."""
        watch = self._by_digest.get(digest)
        if watch is None:
            return 404, "unknown"
        try:
            found = parse_monitoring(body)
        except BadNotification:
            return 400, "malformed"
        if isinstance(found, Test):
            return 204, "test"
        if found.is_reachable:
            self._end(watch, "reachable")
            self._on_back(watch.handle)
        elif found.is_cancelled:
            self._end(watch, "cancelled")
        return 204, "watched"

    def _has_room(self, handle: bytes) -> bool:
        now_ms = self._clock()
        while self._by_handle:
            oldest = next(iter(self._by_handle.values()))
            if now_ms < oldest.until_ms:
                break
            self._drop(oldest)
        if handle in self._by_handle:
            return False  # it is watched already
        if len(self._by_handle) >= self._trigger.watches:
            self._metrics.count(Metric.NOTIFIER_BOUNDS, label="trigger watches")
            return False
        return True

    def _end(self, watch: _Watch, result: str) -> None:
        self._drop(watch)
        self._count(result)

    def _drop(self, watch: _Watch) -> None:
        if self._by_handle.get(watch.handle) is watch:
            del self._by_handle[watch.handle]
        self._by_digest.pop(watch.digest, None)

    def _count(self, result: str) -> None:
        self._metrics.count(Metric.TRIGGER_WATCHES, label=result)


def _is_reachable_now(body: bytes) -> bool:
    try:
        report = msgspec.json.decode(body, type=_Answer).monitoringEventReport
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return report is not None and report.get("monitoringType") == REACHABLE
