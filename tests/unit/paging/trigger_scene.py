"""The scene of the trigger pager's tests: an exposure function that runs here, a notifier before it, a history."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pager_push import push_through
from sms_scene import FixedSubscribers, Histories, until

from gateway.config.sections import Config
from gateway.delivery.push_ids import PushIds
from gateway.metrics import Metric, Metrics
from gateway.model.ports import NotifierResult
from gateway.model.subscriber import NetworkId, NetworkIdKind, OpaqueKind, Subscriber
from gateway.notifiers.upstream import unix_ms
from gateway.paging.guard import Guard
from gateway.paging.pager import Parts
from gateway.paging.trigger.client import TriggerNotifier, build_trigger
from gateway.paging.trigger.local import Behaviour, LocalScef
from gateway.paging.waiting import Waiting

__all__ = ["HANDLE", "MSISDN", "NAI", "OPAQUE", "OTHER", "QUIET", "TriggerScene", "until"]

MSISDN, NAI, IMSI = "491701234567", "meter17@iot.example.net", "001010000000001"
#: two opaque ids
OTHER = "b3zk3mduc4efhv2r6tnsapwxyj@push.example.com"
OPAQUE = "q7zk3mduc4efhv2r6tnsapwxyj@push.example.com"
HANDLE = b"\x07" * 16
#: takes the trigger, and says nothing more
QUIET = Behaviour(results=())


class OneSubscriber(FixedSubscribers):
    """Subscribers port: two opaque ids stand for one subscriber, of whom MSISDN and NAI are known."""

    def __init__(self) -> None:
        self.ids = [NetworkId(NetworkIdKind.MSISDN, f"+{MSISDN}"), NetworkId(NetworkIdKind.NAI, NAI)]
        self.trouble: Exception | None = None

    async def resolve(self, opaque: str, app: str) -> Subscriber | None:
        if self.trouble is not None:
            raise self.trouble
        return Subscriber(HANDLE, self.ids, OpaqueKind.O_TMSN, app) if opaque in (OPAQUE, OTHER) else None


class TriggerScene:
    """As a context manager. `trigger`: settings of the section."""

    def __init__(self, scef: LocalScef | None = None, *, timeout_s: float = 5.0, **trigger: Any) -> None:
        self.scef = scef or LocalScef()
        self.config = Config()
        self.config.delivery.notifier_failures = 1_000
        self.config.delivery.notifier_timeout_s = timeout_s
        paging = self.config.paging
        paging.subscriber_per_hour = paging.coalesce_s = paging.jitter_s = 0
        self.settings = {"scs_as_id": self.scef.scs_as_id, **trigger}
        self.metrics = Metrics(process=False)
        self.subscribers = OneSubscriber()
        self.history = Histories()
        self.waiting = Waiting(self.config.paging, self.metrics)
        self.backs: list[int] = []
        self.waiting.on_back = self.backs.append
        self.app_settings: dict[str, str] = {}
        self.moved_ms = 0
        self.notifier: TriggerNotifier

    def clock(self) -> int:
        return unix_ms() + self.moved_ms

    def set_secret(self, name: str, folder: Path, text: str) -> None:
        file = folder / name
        file.write_text(f"{text}\n")
        file.chmod(0o600)
        self.settings[name] = str(file)

    async def __aenter__(self) -> Self:
        if "t8" not in self.settings:
            self.settings["t8"] = await self.scef.start()
        for name, value in self.settings.items():
            setattr(self.config.trigger, name, value)
        guard = Guard(self.config.paging, self.subscribers, self.waiting, self.metrics, self.clock)
        push_ids = PushIds(b"k" * 16)
        parts = Parts(self.config, self.metrics, push_ids, guard, self.waiting, self.history, None, self.clock)
        built = build_trigger(parts)
        assert built is not None
        self.notifier = built
        self.notifier.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.notifier.close()
        await self.scef.close()

    async def push(
        self, *, address: str = OPAQUE, seq: int = 9, registration: int = 3, **changes: Any
    ) -> NotifierResult:
        now_s = self.clock() // 1000
        return await push_through(
            self.notifier, self.app_settings, address, now_s=now_s, seq=seq, number=registration, **changes
        )

    def callbacks(self, result: str) -> float:
        return self.metrics.value(Metric.TRIGGER_CALLBACKS, result)

    def reports(self, result: str) -> float:
        return self.metrics.value(Metric.TRIGGER_REPORTS, result)

    @property
    def pending(self) -> float:
        return self.metrics.value(Metric.TRIGGERS_PENDING)

    def assert_strict(self) -> None:
        """The network found nothing wrong."""
        assert self.scef.faults == []
